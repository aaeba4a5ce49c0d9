"""A log machine: its device, its oracle's end of it, and the watch's configuration."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from yubihsm.core import YubiHsm
from yubihsm.defs import COMMAND
from yubihsm.objects import AsymmetricKey

from sigsum_ops.hsm.ceremony.records import PublicKey as KeyRecord
from sigsum_ops.hsm.devicelog import Entry
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.signatures import Counter
from sigsum_ops.hsm.oracle.signer import HsmSigner
from sigsum_ops.hsm.watch.audit import Round, once, open_archive
from sigsum_ops.hsm.watch.config import Audit, Check, Settings, load
from sigsum_ops.hsm.watch.link import Link, StaticKeys, static_keys
from sigsum_ops.log.keys import PublicKey
from tests.hsm.ceremony.table import Table

SERIAL = 90000003
LOG_USER, AUDITOR, HEALTH_USER = 200, 700, 800
LOG_KEY, HEALTH_KEY = 500, 900


@dataclass
class Machine:
    """Everything of it is in ``directory``."""

    directory: Path
    table: Table
    url: str

    def __post_init__(self) -> None:
        self.metrics = {name: self.directory / f"{name}.prom" for name in ("check", "audit")}
        self.archive = self.directory / "archive"
        self.signatures = self.directory / "signatures"
        self.config = self.directory / "hsm-watch.toml"
        self.write_config()

    def write_config(
        self, *, serial: int = SERIAL, rehearsal: bool = True, **check: object
    ) -> None:
        values = {"public_key": self.public_key("health-key").ssh, **check}
        self.config.write_text(
            f'connector = "{self.url}"\nserial = {serial}\n'
            f"rehearsal_device = {str(rehearsal).lower()}\n"
            '[check]\npassphrase_credential = "health"\n'
            f'metrics_file = "{self.metrics["check"]}"\n'
            + "".join(f"{name} = {value!r}\n" for name, value in values.items())
            + '[audit]\npassphrase_credential = "audit"\n'
            f'archive = "{self.archive}"\nsignatures = "{self.signatures}"\n'
            f'metrics_file = "{self.metrics["audit"]}"\n'
        )

    @property
    def settings(self) -> Settings:
        return load(self.config)

    @property
    def check(self) -> Check:
        check = self.settings.check
        assert check
        return check

    @property
    def audit(self) -> Audit:
        audit = self.settings.audit
        assert audit
        return audit

    def passphrase(self, name: str) -> str:
        return self.table.secret(f"log-1/{name}.passphrase").decode()

    def passphrase_file(self, name: str) -> Path:
        path = self.directory / name
        path.write_text(self.passphrase(name) + "\n")
        return path

    def keys(self, name: str) -> StaticKeys:
        return static_keys(self.passphrase(name))

    def public_key(self, name: str) -> PublicKey:
        """As the ceremony's record has it."""
        (found,) = {
            record.key
            for record in self.table.records()
            if isinstance(record, KeyRecord) and (record.serial, record.object) == (SERIAL, name)
        }
        return PublicKey.from_hex(found)

    def oracle(self) -> Oracle:
        """The oracle's signer, with its count."""
        return Oracle(self)

    def sign_behind_its_back(
        self, times: int = 1, key: int = LOG_KEY, user: int = LOG_USER
    ) -> None:
        """As whoever has stolen the oracle's passphrase."""
        name = {LOG_USER: "log-authentication", HEALTH_USER: "health-authentication"}[user]
        with (
            closing(YubiHsm.connect(self.url)) as hsm,
            closing(hsm.create_session_derived(user, self.passphrase(name))) as session,
        ):
            for _ in range(times):
                AsymmetricKey(session, key).sign_eddsa(b"a second tree")

    def drained(self) -> Round:
        """One round of the audit, as after a start."""
        link = Link(self.url)
        with open_archive(self.audit) as archive:
            try:
                return once(self.audit, archive, link, self.keys("audit-authentication"))
            finally:
                link.close()

    def entries(self) -> list[Entry]:
        """What the archive holds of the device's log."""
        lines = self.archive.read_text().splitlines()
        words = [line.split(" ") for line in lines]
        return [Entry.parse(bytes.fromhex(word[1])) for word in words if word[0] == "entry"]

    def targets(self) -> list[int]:
        """The keys of the archived signatures, in their order."""
        return [e.target_key for e in self.entries() if e.command == COMMAND.SIGN_EDDSA]

    def log_used(self) -> int:
        with closing(YubiHsm.connect(self.url)) as hsm:
            return hsm.get_device_info().log_used

    def sessions(self) -> int:
        """How many are open now, by opening all the others; they are closed again."""
        with closing(YubiHsm.connect(self.url)) as hsm:
            opened = []
            try:
                while True:
                    opened.append(
                        hsm.create_session_derived(
                            HEALTH_USER, self.passphrase("health-authentication")
                        )
                    )
            except Exception:  # noqa: BLE001 - sessions full
                return 16 - len(opened)
            finally:
                for session in opened:
                    session.close()


class Oracle:
    """Signs as the service does; a context manager."""

    def __init__(self, machine: Machine) -> None:
        self.counter = Counter.open(machine.signatures)
        self.signer = HsmSigner(
            machine.url,
            authentication_key=LOG_USER,
            signing_key=LOG_KEY,
            passphrase=machine.passphrase("log-authentication"),
            pinned=machine.public_key("log-signing-key"),
            metrics=Metrics(),
            counter=self.counter,
            rehearsal_allowed=True,
        )

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.signer.close()
        self.counter.__exit__()

    def sign(self, times: int = 1, seconds: float = 3.5) -> None:
        for _ in range(times):
            self.signer.sign(b"a tree head", time.monotonic() + seconds)
