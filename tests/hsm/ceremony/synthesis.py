"""Makes transcripts that verify, without any device: a model of a YubiHSM that answers records.

Real Ed25519 keys sign, the device logs have real digests, and ``ssh-keygen`` makes the
participants' signatures. What a test wants to be wrong, it changes in ``Script.lines``, which are
written (with a right chain) and signed only at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yubihsm.defs import AUDIT, COMMAND, OBJECT

from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony import records, signatures, transcript
from sigsum_ops.hsm.ceremony.records import Command, Mode, ObjectRef, Record, Role
from sigsum_ops.hsm.devicelog import Entry
from sigsum_ops.hsm.plan import DevicePlan, DeviceRole, ObjectSpec, Plan

CEREMONY = "5a" * 16
DEFAULT = ObjectRef("authentication-key", 1)
ATTESTING = ec.generate_private_key(ec.SECP256R1())
MANAGER = "backup-authentication"

PLAN = """
site: test
generation: {generation}
participants:
  - {{name: olga, role: operator}}
  - {{name: wim, role: witness}}
backup: {backup}
devices:
  - {{name: backup-1, role: backup, serial: {base}1}}
  - {{name: backup-2, role: backup, serial: {base}2}}
  - {{name: log-1, role: log-oracle, serial: {base}3}}
"""


def plan_text(
    generation: str = "new", backup: str = "{form: hex, media: 2}", base: str = "9000000"
) -> str:
    return PLAN.format(generation=generation, backup=backup, base=base)


def commitment(name: str, serial: int | None) -> str:
    return hashlib.sha256(f"{name} {serial}".encode()).hexdigest()


def factory_key() -> records.StoredObject:
    everything = names.flag_names(names.CAPABILITIES, names.ALL_CAPABILITIES)
    return records.StoredObject(
        "authentication-key",
        1,
        "DEFAULT AUTHKEY CHANGE THIS ASAP",
        "aes128-yubico-authentication",
        tuple(names.DOMAINS),
        everything,
        everything,
        40,
        0,
        ("imported",),
    )


@dataclass
class Model:
    """What a device would be after the commands so far."""

    plan: DevicePlan
    objects: dict[ObjectRef, records.StoredObject] = field(default_factory=dict)
    keys: dict[int, Ed25519PrivateKey] = field(default_factory=dict)
    audit: dict[str, int] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    number: int = 0
    digest: bytes = b"\7" * 16

    def reset(self) -> None:
        self.objects = {DEFAULT: factory_key()}
        self.keys.clear()
        self.audit.clear()
        reset = Entry.parse(b"\0\1" + b"\xff" * 14 + self.digest)
        self.log, self.number = [reset], 1
        self.write(0, 0xFFFF, 0, 0, 0)

    def write(self, command: int, session: int, target: int, second: int, result: int) -> None:
        self.number = (self.number + 1) & 0xFFFF
        entry = Entry(self.number, command, 10, session, target, second, result, 17, self.digest)
        self.digest = hashlib.sha256(entry.encode()[:16] + self.digest).digest()[:16]
        self.log.append(dataclasses.replace(entry, digest=self.digest))


class Script:
    """Writes the ceremony down. ``lines`` are records; ``save`` makes the file of them."""

    def __init__(self, plan: Plan, mode: Mode = Mode.REHEARSAL) -> None:
        self.plan = plan
        self.models = {device.serial: Model(device) for device in plan.devices}
        self.blobs: dict[str, tuple[Model, ObjectRef]] = {}
        self.lines: list[Record] = [
            records.Opened(
                CEREMONY, plan.to_json(), plan.hash(), mode, "sigsum-ops test", {"kernel": "none"}
            )
        ]
        self.mode = mode

    def add(self, record: Record) -> None:
        self.lines.append(record)

    # --- commands -------------------------------------------------------------------------------

    def send(
        self,
        model: Model,
        session: int | None,
        name: str,
        given: Any,
        reply: Any = None,
        error: str | None = None,
        log: tuple[int, int] | None = None,
    ) -> None:
        """Record a command, and log it where the device audits it."""
        if error is None and reply is None:
            reply = records.Nothing()
        serial = model.plan.serial
        self.add(Command(serial, session, name, given, reply, error))
        if model.audit.get(name) and session is not None:
            command = names.COMMANDS[name]
            result = command | 0x80 if error is None else 4
            model.write(command, session, *(log or (0xFFFF, 0xFFFF)), result)

    @contextmanager
    def session(self, model: Model, key: int) -> Iterator[int]:
        self.send(model, None, "create-session", records.KeyId(key))
        yield key
        self.send(model, key, "close-session", records.Nothing())

    @contextmanager
    def step(self, name: str, model: Model, *, confirmed: bool = False) -> Iterator[None]:
        serial = model.plan.serial
        self.add(records.Step(name, serial, "started"))
        if confirmed:
            for person in self.plan.participants:
                phrase = records.phrase_hash(f"{name} {serial}")
                self.add(records.Confirmed(name, serial, person.name, person.role, phrase))
        yield
        self.add(records.Step(name, serial, "done"))

    def put(self, model: Model, session: int, spec: ObjectSpec, secret: str | None) -> None:
        name = {
            OBJECT.AUTHENTICATION_KEY: "put-authentication-key",
            OBJECT.WRAP_KEY: "put-wrap-key",
            OBJECT.ASYMMETRIC_KEY: "generate-asymmetric-key",
        }[spec.type]
        given = records.Create(spec.new_object(), secret)
        self.send(model, session, name, given, records.KeyId(spec.id), log=(spec.id, 0xFFFF))
        origin = "generated" if secret is None else "imported"
        self.store(model, spec, (origin,))
        if secret is None:
            model.keys[spec.id] = Ed25519PrivateKey.generate()

    def store(self, model: Model, spec: ObjectSpec, origin: tuple[str, ...]) -> None:
        fields = dataclasses.asdict(spec.new_object())
        model.objects[spec.ref] = records.StoredObject(**fields, size=40, sequence=0, origin=origin)

    def delete(self, model: Model, session: int, what: ObjectRef) -> None:
        self.send(model, session, "delete-object", what, log=(what.id, 0xFFFF))
        del model.objects[what]

    def look(self, model: Model, session: int) -> None:
        """List, describe, and say so in a read-back."""
        domains = model.objects[ObjectRef("authentication-key", session)].domains
        seen = {r: o for r, o in model.objects.items() if set(o.domains) & set(domains)}
        self.send(model, session, "list-objects", records.Nothing(), records.Listed(tuple(seen)))
        for what, described in seen.items():
            self.send(model, session, "get-object-info", what, described)
        forced = "01" if model.plan.forced_audit else "00"
        pairs = b"".join(bytes([names.COMMANDS[c], v]) for c, v in model.audit.items())
        for option, value in (("force-audit", forced), ("command-audit", pairs.hex())):
            self.send(
                model,
                session,
                "get-option",
                records.Option(option, None),
                records.Option(option, value),
            )
        self.add(
            records.ReadBack(
                model.plan.serial, session, domains, tuple(seen.values()), int(forced), model.audit
            )
        )

    def drain(self, model: Model, session: int) -> None:
        self.send(model, session, "get-log-entries", records.Nothing())
        entries = tuple(entry.encode().hex() for entry in model.log)
        last = model.log[-1].number if model.log else None
        self.add(records.AuditLog(model.plan.serial, session, entries, 0, 0, last))
        if last is not None:
            self.send(model, session, "set-log-index", records.LogIndex(last))
        model.log = []

    # --- the ceremony ---------------------------------------------------------------------------

    def perform(self, close: bool = True) -> Script:
        for model in self.models.values():
            self.provision(model)
        if close:
            self.close()
        return self

    def close(self) -> None:
        people = tuple(records.Participant(p.name, p.role) for p in self.plan.participants)
        plan_hash = self.plan.hash()
        self.add(records.Closed(CEREMONY, len(self.lines) + 1, plan_hash, self.mode, people))

    def introduce(self, model: Model) -> None:
        device = model.plan
        part = "REHEARSAL" if self.mode == Mode.REHEARSAL else "78CLUFX5000P"
        self.add(
            records.Device(
                device.name,
                device.serial,
                (2, 4, 0),
                part,
                "http://127.0.0.1:12345",
                ("ed25519",),
                62,
                len(model.log),
            )
        )

    def provision(self, model: Model) -> None:
        specs = self.plan.specs(model.plan)
        backup = model.plan.role == DeviceRole.BACKUP
        self.reset(model)
        self.take_over(model)
        with self.step("keys", model), self.session(model, 100):
            self.put(model, 100, self.plan.objects["wrap-key"], commitment("wrap-key", None))
        for spec in specs:
            if spec.type == OBJECT.ASYMMETRIC_KEY:
                self.key(model, spec)
            elif spec.type == OBJECT.AUTHENTICATION_KEY and spec.name != MANAGER:
                self.access(model, spec)
        with self.step("test", model):
            for spec in specs:
                if spec.type == OBJECT.ASYMMETRIC_KEY:
                    self.test(model, spec)
        with self.step("finish", model, confirmed=True), self.session(model, 100):
            if not backup:
                self.delete(model, 100, ObjectRef("wrap-key", 400))
            self.look(model, 100)
            self.drain(model, 100)
            if not backup:
                self.delete(model, 100, ObjectRef("authentication-key", 100))
        self.refuse_default(model)

    def reset(self, model: Model) -> None:
        first = model.plan == self.plan.devices[0]
        self.introduce(model)
        with self.step("reset", model, confirmed=True):
            self.send(model, None, "create-session", records.KeyId(1))
            self.send(model, 1, "reset-device", records.Nothing())
            model.reset()
        self.introduce(model)
        with self.step("look", model), self.session(model, 1):
            self.look(model, 1)
            self.drain(model, 1)
        if first:
            for name in (MANAGER, "wrap-key"):
                self.back_up(name)

    def back_up(self, name: str) -> None:
        backup = self.plan.backup
        for n in range(1, backup.media + 1):
            share = n if backup.form == "shares" else 0
            self.add(
                records.SecretBackedUp(
                    name, None, f"medium {n}", backup.form, share, commitment(name, None)
                )
            )

    def take_over(self, model: Model) -> None:
        with self.step("take-over", model, confirmed=True):
            with self.session(model, 1):
                self.audit_on(model, 1)
                secret = commitment(MANAGER, None)
                self.put(model, 1, self.plan.objects[MANAGER], secret)
            with self.session(model, 100):
                self.delete(model, 100, DEFAULT)
            self.refuse_default(model)

    def audit_on(self, model: Model, session: int) -> None:
        wanted = model.plan.command_audit
        if not wanted:
            return
        value = b"".join(bytes(pair) for pair in wanted.items())
        option = records.Option("command-audit", value.hex())
        self.send(model, session, "set-option", option)
        model.audit = {
            names.name_of(names.COMMANDS, c): int(v) for c, v in wanted.items() if v != AUDIT.OFF
        }

    def refuse_default(self, model: Model) -> None:
        error = "object-not-found"
        self.send(model, None, "create-session", records.KeyId(1), error=error)
        self.add(records.DefaultKeyRefused(model.plan.serial, "object-not-found"))

    def key(self, model: Model, spec: ObjectSpec) -> None:
        source = next(iter(self.models.values()))
        with self.step("keys", model):
            if spec in self.plan.cloned() and model is not source:
                blob = self.export(source, spec)
                with self.session(model, 100):
                    self.receive(model, spec, blob)
            else:
                with self.session(model, 100):
                    self.put(model, 100, spec, None)
            with self.session(model, 100):
                self.show(model, spec)
                self.attest(model, spec)

    def export(self, source: Model, spec: ObjectSpec) -> str:
        blob = hashlib.sha256(f"{len(self.lines)}".encode()).hexdigest()
        with self.session(source, 100):
            given = records.Export(400, spec.ref)
            reply = records.Blob(blob)
            self.send(source, 100, "export-wrapped", given, reply, log=(400, spec.id))
        self.blobs[blob] = (source, spec.ref)
        return blob

    def receive(self, model: Model, spec: ObjectSpec, blob: str) -> None:
        given = records.Import(400, blob)
        self.send(model, 100, "import-wrapped", given, spec.ref, log=(400, spec.id))
        self.store(model, spec, ("generated", "imported-wrapped"))
        model.keys[spec.id] = self.blobs[blob][0].keys[spec.id]

    def show(self, model: Model, spec: ObjectSpec) -> None:
        key = public(model.keys[spec.id]).hex()
        self.send(model, 100, "get-public-key", records.KeyId(spec.id), records.Key("ed25519", key))
        self.add(records.PublicKey(model.plan.serial, spec.name, spec.id, "ed25519", key))

    def attest(self, model: Model, spec: ObjectSpec) -> None:
        """With a certificate for keys made here; clones are refused, as real devices may do."""
        serial, given = model.plan.serial, records.Attest(spec.id, 0)
        log = (spec.id, 0)
        if "imported-wrapped" in model.objects[spec.ref].origin:
            error = "insufficient-permissions"
            self.send(model, 100, "sign-attestation-certificate", given, error=error, log=log)
            self.add(records.Attestation(serial, spec.id, 0, None, error))
            return
        self.send(model, 100, "sign-attestation-certificate", given, log=log)
        real = f"YubiHSM Attestation id:0x{spec.id:04x}"
        subject = "YubiHSM rehearsal device" if self.mode == Mode.REHEARSAL else real
        pem = certificate(model.keys[spec.id], subject)
        self.add(records.Attestation(serial, spec.id, 0, pem, None))

    def access(self, model: Model, spec: ObjectSpec) -> None:
        serial = model.plan.serial
        secret = commitment(spec.name, serial)
        with self.step("access", model):
            self.add(records.SecretBackedUp(spec.name, serial, "credentials", "hex", 0, secret))
            with self.session(model, 100):
                self.put(model, 100, spec, secret)

    def test(self, model: Model, spec: ObjectSpec) -> None:
        serial = model.plan.serial
        message = records.test_message(CEREMONY, serial, spec.id)
        signature = model.keys[spec.id].sign(message).hex()
        with self.session(model, 100):
            self.send(
                model,
                100,
                "sign-eddsa",
                records.Sign(spec.id, message.hex()),
                records.Signed(signature),
                log=(spec.id, 0xFFFF),
            )
        self.add(records.TestSignature(serial, 100, spec.id, message.hex(), signature))

    # --- the file -------------------------------------------------------------------------------

    def find(self, wanted: Callable[[Record], bool], after: int = 0) -> int:
        """Where the first such record is, counted from 0."""
        return next(n for n, r in enumerate(self.lines) if n >= after and wanted(r))

    def save(self, directory: Path, signers: Signers | None = None, early: int = 0) -> Path:
        """Write the lines as they are now, chained; sign them if there is someone to.

        ``early`` is the number of a line whose clock is behind.
        """
        directory.mkdir(exist_ok=True)
        path = directory / "transcript.jsonl"
        prev, raw = transcript.NO_LINE, []
        lines = self.lines
        if isinstance(lines[-1], records.Closed):
            lines = [*lines[:-1], dataclasses.replace(lines[-1], lines=len(lines))]
        for n, record in enumerate(lines, 1):
            hour = 8 if n == early else 9
            time = f"2026-01-31T{hour:02d}:{n // 60:02d}:{n % 60:02d}.000Z"
            line = transcript.encode(n, prev, time, record)
            prev = line.hash
            raw.append(line.raw)
        path.write_bytes(b"".join(line + b"\n" for line in raw))
        if signers:
            signers.sign(path)
        return path


class Signers:
    """The participants' own keys."""

    def __init__(self, directory: Path, people: tuple[str, ...] = ("olga", "wim")) -> None:
        self.keys = {}
        lines = []
        for name in people:
            key = directory / f"key-{name}"
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)],
                check=True,
            )
            self.keys[name] = key
            lines.append(signatures.allowed_signers_line(name, self.public(name)))
        self.allowed = directory / "allowed_signers"
        self.allowed.write_text("".join(lines))

    def public(self, name: str) -> str:
        return self.keys[name].with_suffix(".pub").read_text().strip()

    def sign(self, path: Path) -> None:
        """Everyone signs the last line."""
        message = path.read_bytes().splitlines()[-1]
        for name, key in self.keys.items():
            file = transcript.signature_file(path, name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(signatures.sign(message, key))


def certificate(key: Ed25519PrivateKey, subject: str) -> str:
    """Like an attestation: the key's public half, signed by another key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    begin = datetime(2017, 1, 1, tzinfo=UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(begin.replace(year=2071))
        .sign(ATTESTING, hashes.SHA256())
    )
    return signed.public_bytes(Encoding.PEM).decode()


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def is_command(name: str) -> Callable[[Record], bool]:
    return lambda record: isinstance(record, Command) and record.command == name


__all__ = ["COMMAND", "Mode", "Role", "Script", "Signers", "is_command", "plan_text"]
