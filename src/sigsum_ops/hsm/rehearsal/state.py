"""What a device keeps without power, and the file that keeps it.

The file holds private keys in the clear: it is readable by its owner only, in a directory of its
owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm.defs import ALGORITHM, AUDIT, OBJECT

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.rehearsal import keys
from sigsum_ops.hsm.rehearsal.attestation import factory_certificate
from sigsum_ops.hsm.rehearsal.devicelog import DeviceLog
from sigsum_ops.hsm.rehearsal.store import Object, Store
from sigsum_ops.log.statefiles import read_if_there, write_durably

Firmware = tuple[int, int, int]

_FORMAT = "sigsum-ops rehearsal YubiHSM 2, version 1"
_HEX = ("label", "body")  # those fields of an object that are bytes
_P256 = ALGORITHM.EC_P256


@dataclass
class Options:
    """The device's settings. ``changes`` grows with each change of them."""

    force_audit: int = AUDIT.OFF
    command_audit: dict[int, int] = field(default_factory=dict)  # of commands that are not off
    disabled: frozenset[int] = frozenset()  # algorithms
    changes: int = field(default=0, compare=False)


@dataclass
class State:
    """All that a device remembers. Keys are bodies as keys.py describes them, on P-256."""

    serial: int
    firmware: Firmware
    attestation_key: bytes
    attestation_certificate: bytes
    device_key: bytes  # of asymmetric authentication
    store: Store
    log: DeviceLog
    options: Options

    @classmethod
    def factory(cls, serial: int, firmware: Firmware) -> State:
        """A new device."""
        key = keys.generate(_P256)
        certificate = factory_certificate(keys.ec_private(_P256, key), serial, firmware)
        return cls(serial, firmware, key, certificate, *_erased())

    def reset(self) -> None:
        """Forget everything but what the factory put in."""
        changes = self.changes
        self.device_key, self.store, self.log, self.options = _erased()
        self.options.changes = changes + 1

    @property
    def changes(self) -> int:
        """Grows with each change of what is kept."""
        return self.store.changes + self.log.changes + self.options.changes

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The device's static key of asymmetric authentication."""
        return keys.ec_private(_P256, self.device_key)

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(
            {
                "format": _FORMAT,
                "serial": self.serial,
                "firmware": self.firmware,
                "attestation_key": self.attestation_key.hex(),
                "attestation_certificate": self.attestation_certificate.hex(),
                "device_key": self.device_key.hex(),
                "objects": [_hex(asdict(item), _HEX) for item in self.store],
                "sequences": sorted(self.store.sequences.items()),
                "log": {
                    "entries": [entry.hex() for entry in self.log.entries],
                    "number": self.log.number,
                    "digest": self.log.digest.hex(),
                    "unlogged_boots": self.log.unlogged_boots,
                    "unlogged_authentications": self.log.unlogged_authentications,
                },
                "force_audit": self.options.force_audit,
                "command_audit": sorted(self.options.command_audit.items()),
                "disabled_algorithms": sorted(self.options.disabled),
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> State:
        """The inverse of ``to_json``.

        Raises:
            ValueError, KeyError, TypeError: it is not one.
        """
        kept: dict[str, Any] = json.loads(text)
        if kept["format"] != _FORMAT:
            raise ValueError(f"the format is {kept['format']!r}")
        major, minor, patch = kept["firmware"]
        log = kept["log"]
        return cls(
            serial=kept["serial"],
            firmware=(major, minor, patch),
            attestation_key=bytes.fromhex(kept["attestation_key"]),
            attestation_certificate=bytes.fromhex(kept["attestation_certificate"]),
            device_key=bytes.fromhex(kept["device_key"]),
            store=Store(map(_object, kept["objects"]), dict(kept["sequences"])),
            log=DeviceLog(
                entries=[bytes.fromhex(entry) for entry in log["entries"]],
                number=log["number"],
                digest=bytes.fromhex(log["digest"]),
                unlogged_boots=log["unlogged_boots"],
                unlogged_authentications=log["unlogged_authentications"],
            ),
            options=Options(
                force_audit=kept["force_audit"],
                command_audit=dict(kept["command_audit"]),
                disabled=frozenset(kept["disabled_algorithms"]),
            ),
        )


class StateFile:
    """The file of one device, ``<serial>.json`` in a directory that may hold several."""

    def __init__(self, directory: Path, serial: int) -> None:
        self.serial = serial
        self.path = directory / f"{serial}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file for this process alone.

        Raises:
            OpsError: another process has it, or others may read the directory.
        """
        _private_directory(self.path.parent)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OpsError(
                    f"{self.path} is in use",
                    hint="Another process is this rehearsal device already; stop it first.",
                ) from None
            for left_over in self.path.parent.glob(f".{self.path.name}.*"):
                left_over.unlink()  # of a process that was killed while it wrote
            yield
        finally:
            os.close(descriptor)

    def load(self) -> State | None:
        """The device as it was, or None where it is new.

        Raises:
            OpsError: the file is not one of a rehearsal device, or of another one.
        """
        text = read_if_there(self.path)
        if text is None:
            return None
        try:
            state = State.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise OpsError(
                f"{self.path} is not the state of a rehearsal device: {error}",
                hint="Remove it to start with a new device; the keys in it are lost.",
            ) from error
        if state.serial != self.serial:
            raise OpsError(
                f"{self.path} is the state of device {state.serial}",
                hint="Its name must be its serial number, and .json.",
            )
        return state

    def save(self, text: str) -> None:
        """Replace the file; OSError leaves the old one."""
        write_durably(self.path, text.encode(), 0o600)


def _erased() -> tuple[bytes, Store, DeviceLog, Options]:
    log = DeviceLog.after_reset(secrets.token_bytes(16))
    return keys.generate(_P256), Store.factory(), log, Options()


def _hex(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: v.hex() if name in names else v for name, v in fields.items()}


def _object(kept: Mapping[str, Any]) -> Object:
    fields: dict[str, Any] = dict(kept)
    fields |= {name: bytes.fromhex(fields[name]) for name in _HEX}
    fields["type"] = OBJECT(fields["type"])
    fields["algorithm"] = ALGORITHM(fields["algorithm"])
    return Object(**fields)


def _private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise OpsError(
            f"{path} can be read by others, and rehearsal devices keep their keys there",
            hint=f"Choose another directory, or run: chmod 700 {path}",
        )
