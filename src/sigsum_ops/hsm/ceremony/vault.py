"""The secrets of one ceremony: made, written to media, read back from there, wiped.

Every medium gets a directory named after site and ceremony, so that nothing of another ceremony is
ever replaced. In it:

* on backup media, for each secret of the backups (the manager's passphrase, the wrap keys), the
  file ``NAME.hex`` with hexadecimal digits, or ``NAME.share-N.txt`` with a share's words (SLIP-39);
* on the medium for credentials, ``DEVICE/NAME.passphrase`` for each other authentication key.

A passphrase is 64 hexadecimal digits: the file's content as it stands, without its newline.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from yubihsm.defs import OBJECT

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.ceremony.media import Medium, Shares, combine
from sigsum_ops.hsm.ceremony.records import SecretBackedUp
from sigsum_ops.hsm.ceremony.secrets import PASSPHRASE_BYTES, Secret, make
from sigsum_ops.hsm.ceremony.steps import backup_secrets
from sigsum_ops.hsm.plan import DevicePlan, ObjectSpec, Plan

Owner = tuple[str, int | None]  # the plan's name of an object; the one device's serial, or None
Random = Callable[[int], bytes]


@dataclass(frozen=True)
class Places:
    """Where secrets leave."""

    media: tuple[Medium, ...]
    credentials: Medium

    def of_ceremony(self, directory: str) -> Places:
        return Places(
            tuple(Medium(medium.label, medium.path / directory) for medium in self.media),
            Medium(self.credentials.label, self.credentials.path / directory),
        )


class Vault:
    """Secrets by object, and by device for those that only one device has.

    ``salt`` is the hash of the transcript's first line, for the commitments.
    """

    def __init__(self, plan: Plan, ceremony: str, salt: str, places: Places) -> None:
        self._plan = plan
        self._ceremony = ceremony
        self._salt = salt
        self._places = places.of_ceremony(f"{plan.site}-{ceremony[:8]}")
        self._shared = {spec.name for spec in backup_secrets(plan)}
        self._secrets: dict[Owner, Secret] = {}

    def owner(self, spec: ObjectSpec, device: DevicePlan) -> Owner:
        return spec.name, None if spec.name in self._shared else device.serial

    def has(self, spec: ObjectSpec, device: DevicePlan) -> bool:
        return self.owner(spec, device) in self._secrets

    @contextmanager
    def passphrase(self, spec: ObjectSpec, device: DevicePlan) -> Iterator[bytearray]:
        with self._secrets[self.owner(spec, device)].hexadecimal() as digits:
            yield digits

    def key(self, spec: ObjectSpec, device: DevicePlan) -> bytearray:
        return self._secrets[self.owner(spec, device)].raw

    def commitment(self, spec: ObjectSpec, device: DevicePlan) -> str:
        return self._secrets[self.owner(spec, device)].commitment(spec.name, self._salt)

    def make_shared(self, random: Random) -> Iterator[SecretBackedUp]:
        """Make the secrets of the backups; each is on its media before it is yielded."""
        for spec in backup_secrets(self._plan):
            secret = self._make(spec, None, random)
            commitment = secret.commitment(spec.name, self._salt)
            form = self._plan.backup.form
            for place, (medium, name, content) in enumerate(self._files(spec, secret), 1):
                medium.write(name, content)
                share = place if form == "shares" else 0
                yield SecretBackedUp(spec.name, None, medium.label, form, share, commitment)
            if self._restore(spec) != secret:
                raise OpsError(
                    f"the media do not restore {spec.name}", hint="Replace the media and resume."
                )

    def make_own(self, spec: ObjectSpec, device: DevicePlan, random: Random) -> SecretBackedUp:
        """Make the passphrase of one device's authentication key, and write it for its users."""
        secret = self._make(spec, device, random)
        medium = self._places.credentials
        medium.write(_credential(spec, device), _hex_file(secret))
        commitment = secret.commitment(spec.name, self._salt)
        return SecretBackedUp(spec.name, device.serial, medium.label, "hex", 0, commitment)

    def load_shared(self, commitments: Mapping[Owner, str]) -> None:
        """Read the secrets of the backups from their media.

        Raises:
            OpsError: they are not there, or are not those that the transcript committed to.
        """
        for spec in backup_secrets(self._plan):
            secret = self._restore(spec)
            self._keep(spec.name, None, secret, commitments, "the backup media")

    def load_own(
        self, spec: ObjectSpec, device: DevicePlan, commitments: Mapping[Owner, str]
    ) -> None:
        """Read the passphrase of one device's authentication key. Raises OpsError."""
        medium = self._places.credentials
        secret = _parse(medium.read(_credential(spec, device)))
        self._keep(spec.name, device.serial, secret, commitments, medium.label)

    def wipe(self) -> None:
        for secret in self._secrets.values():
            secret.wipe()
        self._secrets.clear()

    def _make(self, spec: ObjectSpec, device: DevicePlan | None, random: Random) -> Secret:
        whose = device.name if device else ""
        length = PASSPHRASE_BYTES
        if spec.type == OBJECT.WRAP_KEY:
            length = spec.algorithm.to_key_size()
        secret = make(f"{self._ceremony} {whose} {spec.name}", length, random)
        self._secrets[spec.name, device.serial if device else None] = secret
        return secret

    def _files(
        self, spec: ObjectSpec, secret: Secret
    ) -> Iterator[tuple[Medium, str, bytes | bytearray]]:
        backup = self._plan.backup
        if backup.form == "hex":
            for medium in self._places.media:
                yield medium, f"{spec.name}.hex", _hex_file(secret)
            return
        shares = Shares(backup.threshold, backup.shares).split(secret)
        for place, (medium, share) in enumerate(zip(self._places.media, shares, strict=True), 1):
            yield medium, _share(spec, place), f"{share}\n".encode()

    def _restore(self, spec: ObjectSpec) -> Secret | None:
        """From the media; None where they hold nothing of it."""
        if self._plan.backup.form == "hex":
            files = [medium.read(f"{spec.name}.hex") for medium in self._places.media]
            found = [secret for secret in map(_parse, files) if secret]
            if any(secret != found[0] for secret in found):
                raise OpsError(
                    f"the media hold different values of {spec.name}",
                    hint="One of them is damaged or was changed. Give the other one alone.",
                )
            return found[0] if found else None
        shares = list(self._shares(spec))
        # More shares than needed are an error to the library.
        return combine(shares[: self._plan.backup.threshold]) if shares else None

    def _shares(self, spec: ObjectSpec) -> Iterator[str]:
        for place in range(1, self._plan.backup.shares + 1):
            for medium in self._places.media:
                if content := medium.read(_share(spec, place)):
                    yield content.decode("ascii", "replace").strip()
                    break

    def _keep(
        self,
        name: str,
        serial: int | None,
        secret: Secret | None,
        commitments: Mapping[Owner, str],
        where: str,
    ) -> None:
        if secret is None:
            raise OpsError(
                f"{where}: there is no {name} of this ceremony",
                hint="Plug in the media that were used so far, and give their directories.",
            )
        if secret.commitment(name, self._salt) != commitments.get((name, serial)):
            raise OpsError(
                f"{where}: {name} is not the one that this ceremony made",
                hint="The file was changed, or the medium is damaged.",
            )
        self._secrets[name, serial] = secret


def _credential(spec: ObjectSpec, device: DevicePlan) -> str:
    return f"{device.name}/{spec.name}.passphrase"


def _share(spec: ObjectSpec, place: int) -> str:
    return f"{spec.name}.share-{place}.txt"


def _hex_file(secret: Secret) -> bytearray:
    with secret.hexadecimal() as digits:
        return bytearray(digits + b"\n")


def _parse(content: bytearray | None) -> Secret | None:
    with suppress(binascii.Error, ValueError):
        if content:
            return Secret(binascii.unhexlify(content.strip()))
    return None
