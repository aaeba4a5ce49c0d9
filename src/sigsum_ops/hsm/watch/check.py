"""Whether a device is there and signs, tested with its health key: no other key is touched.

The health key and its authentication key are in a domain of their own. So a standby device is
tested on a machine that has no passphrase of the log, and what tests it cannot sign for the log.
Each device has a health key of its own: an answer shows which device gave it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from yubihsm.core import AuthSession
from yubihsm.objects import AsymmetricKey

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.watch import BAD, UNKNOWN
from sigsum_ops.hsm.watch.config import Check, load
from sigsum_ops.hsm.watch.link import (
    Away,
    Link,
    OtherDevice,
    Refused,
    StaticKeys,
    keys_from,
)
from sigsum_ops.log.keys import BadSignature, PublicKey
from sigsum_ops.log.statefiles import write_durably
from sigsum_ops.service.metrics import family


class State(StrEnum):
    """What a check has shown."""

    OK = "ok"
    FAILED = "failed"  # the device answers, and is not as it must be
    UNKNOWN = "unknown"  # the device does not answer


@dataclass(frozen=True)
class Result:
    """A check. ``time`` is Unix seconds, ``seconds`` how long the device took to sign."""

    state: State
    message: str
    serial: int
    time: float
    seconds: float | None = None

    @property
    def exit_code(self) -> int:
        return {State.OK: 0, State.FAILED: BAD, State.UNKNOWN: UNKNOWN}[self.state]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def run(config: Path, passphrase_file: Path | None) -> Result:
    """Check as configured, and write the metric file.

    Raises:
        OpsError: for what is not the device's doing.
    """
    settings = load(config).check
    if settings is None:
        raise UsageError(f"{config} has no table [check]")
    result = check(settings, keys_from(passphrase_file, settings.passphrase_credential))
    if settings.metrics_file:
        write_metrics(settings.metrics_file, result)
    return result


def check(settings: Check, keys: StaticKeys) -> Result:
    """Open a session with the health authentication key, sign with the health key, verify.

    Never raises for what a device may do or not do.
    """
    begun = time.time()
    link = Link(settings.where.connector)
    serial = settings.where.serial
    try:
        link.expect(serial, rehearsal_allowed=settings.where.rehearsal_device)
        with link.session(settings.authentication_key, keys) as session:
            seconds = _sign(session, settings)
    except Away as error:
        return Result(State.UNKNOWN, str(error), serial, begun)
    except (Refused, OtherDevice, BadSignature, _WrongKey) as error:
        return Result(State.FAILED, str(error), serial, begun)
    finally:
        link.close()
    return Result(State.OK, f"{link.where} signs with its health key", serial, begun, seconds)


class _WrongKey(OpsError):  # noqa: N818 - named for what it means
    """The health key is another one."""


def _sign(session: AuthSession, settings: Check) -> float:
    key = AsymmetricKey(session, settings.key)
    public = key.get_public_key()  # type: ignore[no-untyped-call] # python-yubihsm has no type there
    pinned = settings.public_key
    is_ed25519 = isinstance(public, Ed25519PublicKey)
    found = PublicKey(public.public_bytes_raw()).ssh if is_ed25519 else "no Ed25519 key"
    if found != pinned.ssh:
        raise _WrongKey(
            f"YubiHSM {settings.where.serial}: key {settings.key} is {found}, not the pinned"
            f" {pinned.ssh}",
            hint="The device was reset and given other keys, or the configuration is another's.",
        )
    # Of a key that signs nothing else, and new each time, so that no answer can be an old one.
    message = b"sigsum-ops hsm check\n" + secrets.token_bytes(32)
    begin = time.perf_counter()
    signature = key.sign_eddsa(message)
    seconds = time.perf_counter() - begin
    pinned.verify(signature, message)
    return round(seconds, 6)


def write_metrics(path: Path, result: Result) -> None:
    """Replace the metric file. Raises OpsError where the disk does not take it."""
    name = "sigsum_hsm_check"
    lines = [
        *family(
            f"{name}_state",
            "gauge",
            "1 for what the last check of the device with its health key has shown.",
            *((f'{{state="{state}"}}', int(state == result.state)) for state in State),
        ),
        *family(
            f"{name}_timestamp_seconds",
            "gauge",
            "When the device was last checked.",
            ("", round(result.time, 3)),
        ),
    ]
    if result.seconds is not None:
        text = "Time that the device took to sign."
        lines += family(f"{name}_signature_seconds", "gauge", text, ("", result.seconds))
    try:
        write_durably(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise OpsError(f"{path}: cannot be written: {error.strerror}") from error
