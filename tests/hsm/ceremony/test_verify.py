"""Verification: what is accepted, and that nothing else is.

The transcripts are synthetic (``synthesis.py``); the ceremony's own tests verify real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import plan
from sigsum_ops.hsm.ceremony import canonical, records
from sigsum_ops.hsm.ceremony.records import (
    Attestation,
    AuditLog,
    Closed,
    Command,
    Confirmed,
    DefaultKeyRefused,
    Device,
    Interrupted,
    Mode,
    ObjectRef,
    Opened,
    PublicKey,
    ReadBack,
    Record,
    Resumed,
    SecretBackedUp,
    Step,
    TestSignature,
)
from sigsum_ops.hsm.ceremony.transcript import decode_all, signature_file
from sigsum_ops.hsm.ceremony.verify import Verdict, verify
from sigsum_ops.hsm.devicelog import Entry
from tests.hsm.ceremony.synthesis import (
    Model,
    Script,
    Signers,
    certificate,
    commitment,
    is_command,
    plan_text,
)

PLAN = plan.loads(plan_text(), "plan")
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Case:
    """A signed transcript that verifies."""

    path: Path
    signers: Signers

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    def judge(self, **changes: Any) -> Verdict:
        wanted = {"allowed_signers": self.signers.allowed, "plan": PLAN, "rehearsal": True}
        return verify(self.path, **{**wanted, **changes})

    def judge_bytes(self, data: bytes) -> Verdict:
        """The verdict on other bytes beside the same signatures."""
        copy = self.path.with_name("changed.jsonl")
        copy.write_bytes(data)
        return verify(copy, allowed_signers=self.signers.allowed, plan=PLAN, rehearsal=True)


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, signers: Signers) -> Case:
    path = Script(PLAN).perform().save(tmp_path_factory.mktemp("good"), signers)
    return Case(path, signers)


# --- what is accepted ---------------------------------------------------------------------------


def test_an_honest_transcript_verifies(good: Case) -> None:
    verdict = good.judge()
    assert (verdict.ok, verdict.line, verdict.reason) == (True, None, None)
    assert verdict.lines == len(good.data.splitlines())
    assert verdict.signers == ("olga", "wim")
    assert {claim.rests_on for claim in verdict.claims} == {"device", "people"}
    # What the devices did after their logs were last read: exports, and the last deletions.
    assert [note.split(" (")[0] for note in verdict.notes] == [
        "export-wrapped on backup-1",
        "export-wrapped on backup-1",
        "export-wrapped on backup-1",
        "delete-object on log-1",
    ]
    assert json.loads(json.dumps(verdict.to_json()))["ok"] is True


@pytest.mark.parametrize("generation", ["new", "established"])
@pytest.mark.parametrize(
    "backup", ["{form: hex, media: 3}", "{form: shares, threshold: 2, shares: 3}"]
)
def test_each_kind_of_plan_can_be_verified(
    tmp_path: Path, signers: Signers, generation: str, backup: str
) -> None:
    site = plan.loads(plan_text(generation, backup), "plan")
    path = Script(site).perform().save(tmp_path, signers)
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=True)
    assert (verdict.ok, verdict.reason) == (True, None)


def test_production_verifies_as_production(tmp_path: Path, signers: Signers) -> None:
    text = plan_text(base="1000000").replace(
        "role: operator}", f"role: operator, public_key: {signers.public('olga')}}}"
    )
    site = plan.loads(text, "plan")
    path = Script(site, Mode.PRODUCTION).perform().save(tmp_path, signers)
    assert verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=False).ok
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=True)
    assert (verdict.ok, verdict.line) == (False, 1)


def test_a_copy_elsewhere_verifies(good: Case, tmp_path: Path) -> None:
    for file in (good.path, *(good.path.parent / "signatures").iterdir()):
        copy = tmp_path / file.relative_to(good.path.parent)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    assert Case(tmp_path / good.path.name, good.signers).judge().ok


# --- what is not: the file ----------------------------------------------------------------------


@FEW
@given(st.data())
def test_every_single_byte_edit_is_refused_at_its_line(good: Case, data: st.DataObject) -> None:
    whole = good.data
    where = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = whole[:where] + bytes([whole[where] ^ flip]) + whole[where + 1 :]
    verdict = good.judge_bytes(changed)
    assert not verdict.ok
    # A newline belongs to the line that it ends.
    assert verdict.line == whole.count(b"\n", 0, where) + 1, verdict.reason


@FEW
@given(st.data())
def test_every_dropped_line_is_refused(good: Case, data: st.DataObject) -> None:
    lines = good.data.splitlines(keepends=True)
    where = data.draw(st.integers(0, len(lines) - 1))
    verdict = good.judge_bytes(b"".join(lines[:where] + lines[where + 1 :]))
    assert not verdict.ok
    assert verdict.line == (where + 1 if where + 1 < len(lines) else where)


@FEW
@given(st.data())
def test_every_doubled_line_is_refused(good: Case, data: st.DataObject) -> None:
    lines = good.data.splitlines(keepends=True)
    where = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines)))
    verdict = good.judge_bytes(b"".join([*lines[:place], lines[where], *lines[place:]]))
    assert not verdict.ok
    assert verdict.line is not None
    assert place <= verdict.line <= place + 2


@FEW
@given(st.data())
def test_every_reordering_is_refused(good: Case, data: st.DataObject) -> None:
    lines = good.data.splitlines(keepends=True)
    order = list(range(len(lines)))
    first = data.draw(st.integers(0, len(lines) - 2))
    second = data.draw(st.integers(first + 1, len(lines) - 1))
    order[first], order[second] = order[second], order[first]
    verdict = good.judge_bytes(b"".join(lines[n] for n in order))
    assert (verdict.ok, verdict.line) == (False, first + 1)


@FEW
@given(st.data())
def test_every_cut_off_end_is_refused(good: Case, data: st.DataObject) -> None:
    whole = good.data
    length = data.draw(st.integers(0, len(whole) - 1))
    verdict = good.judge_bytes(whole[:length])
    assert not verdict.ok
    last = max(whole.count(b"\n", 0, length), 1)
    assert verdict.line in (last, last + 1)


@settings(FEW, max_examples=15)
@given(st.data())
def test_no_edit_of_a_signature_is_accepted(good: Case, data: st.DataObject) -> None:
    """An edit of the armour's white space or padding may still be the same signature."""
    file = signature_file(good.path, "wim")
    whole = file.read_bytes()
    where = data.draw(st.integers(100, len(whole) - 60))
    flip = data.draw(st.sampled_from(b"ABCDxyz0189"))
    try:
        file.write_bytes(whole[:where] + bytes([flip]) + whole[where + 1 :])
        verdict = good.judge()
    finally:
        file.write_bytes(whole)
    assert verdict.ok == (whole[where] in (flip, ord("\n")) and whole[where] == flip)


def test_lines_in_another_form_are_refused_though_chain_and_signatures_hold(
    tmp_path: Path, signers: Signers
) -> None:
    path = Script(PLAN).perform().save(tmp_path)
    lines = path.read_bytes().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1])).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    signers.sign(path)
    verdict = Case(path, signers).judge()
    assert (verdict.ok, verdict.line) == (False, len(lines))
    assert "canonical" in str(verdict.reason)


# --- what is not: the signatures ----------------------------------------------------------------


def test_without_signers_it_is_self_consistent_only(good: Case) -> None:
    verdict = good.judge(allowed_signers=None)
    assert (verdict.ok, verdict.line, verdict.claims) == (False, None, ())
    assert str(verdict.reason).startswith("self-consistent only")


def test_a_transcript_rewritten_and_signed_with_other_keys_is_refused(
    good: Case, tmp_path: Path
) -> None:
    forgers = Signers(tmp_path)
    script = Script(PLAN).perform()
    path = script.save(tmp_path, forgers)
    forged = Case(path, forgers)
    assert forged.judge().ok  # to whoever trusts the forgers
    verdict = forged.judge(allowed_signers=good.signers.allowed)
    assert (verdict.ok, verdict.line) == (False, len(script.lines))
    assert "is not signed by olga" in str(verdict.reason)


def test_one_forged_signature_is_enough_to_refuse(good: Case, tmp_path: Path) -> None:
    forgers = Signers(tmp_path)
    path = Script(PLAN).perform().save(tmp_path, good.signers)
    forgers.keys["olga"] = good.signers.keys["olga"]
    forgers.sign(path)
    verdict = Case(path, good.signers).judge()
    assert not verdict.ok
    assert "is not signed by wim" in str(verdict.reason)


def test_signatures_of_another_ceremony_do_not_count(good: Case, tmp_path: Path) -> None:
    path = Script(PLAN).perform().save(tmp_path)
    for name in ("olga", "wim"):
        copy = signature_file(path, name)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(signature_file(good.path, name).read_bytes())
    assert "is not signed by olga" in str(Case(path, good.signers).judge().reason)


@pytest.mark.parametrize("missing", ["olga", "wim"])
def test_every_participant_must_have_signed(tmp_path: Path, signers: Signers, missing: str) -> None:
    path = Script(PLAN).perform().save(tmp_path, signers)
    signature_file(path, missing).unlink()
    verdict = Case(path, signers).judge()
    assert not verdict.ok
    assert f"is not signed by {missing}" in str(verdict.reason)


def test_one_key_for_two_participants_is_refused(tmp_path: Path) -> None:
    signers = Signers(tmp_path)
    signers.keys["wim"] = signers.keys["olga"]
    line = signers.allowed.read_text().splitlines()[0]
    signers.allowed.write_text(f"{line}\n{line.replace('olga', 'wim', 1)}\n")
    path = Script(PLAN).perform().save(tmp_path, signers)
    assert "signed with the same key" in str(Case(path, signers).judge().reason)


def test_the_log_key_is_no_participants_key(tmp_path: Path) -> None:
    """Nobody can sign a transcript with a key that signs tree heads, and be believed."""
    signers = Signers(tmp_path)
    script = Script(PLAN).perform()
    log_key = next(iter(script.models.values())).keys[500]
    file = tmp_path / "key-wim"
    file.write_bytes(log_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    text = log_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    file.with_suffix(".pub").write_text(text + "\n")
    olga = signers.allowed.read_text().splitlines()[0]
    signers.allowed.write_text(f"{olga}\nwim {text}\n")
    verdict = Case(script.save(tmp_path, signers), signers).judge()
    assert "wim signed with a key that this ceremony made" in str(verdict.reason)


def test_in_production_the_plans_keys_are_the_participants(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    signers, others = Signers(tmp_path), Signers(first)
    text = plan_text(base="1000000").replace(
        "role: witness}", f"role: witness, public_key: {others.public('wim')}}}"
    )
    site = plan.loads(text, "plan")
    path = Script(site, Mode.PRODUCTION).perform().save(tmp_path, signers)
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=False)
    assert "wim signed with another key than the plan's" in str(verdict.reason)


# --- what is not: mode and plan -----------------------------------------------------------------


def test_a_rehearsal_is_not_taken_for_more(good: Case) -> None:
    verdict = good.judge(rehearsal=False)
    assert (verdict.ok, verdict.line, verdict.mode) == (False, 1, "rehearsal")
    assert "rehearsal" in str(verdict.reason)


def test_another_plan_is_refused(good: Case) -> None:
    other = plan.loads(plan_text().replace("log-1", "log-9"), "plan")
    verdict = good.judge(plan=other)
    assert (verdict.ok, verdict.line) == (False, 1)
    assert other.hash() in str(verdict.reason)


def test_without_a_plan_it_says_with_which_it_compared(good: Case) -> None:
    verdict = good.judge(plan=None)
    assert verdict.ok
    assert any("plan in the transcript itself" in note for note in verdict.notes)


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"\0" * 100, b"\xff\n" * 3])
def test_what_is_no_transcript_is_refused(good: Case, data: bytes) -> None:
    verdict = good.judge_bytes(data)
    assert (verdict.ok, verdict.line) == (False, 1)


def test_files_that_cannot_be_read_are_said(good: Case, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        good.judge(allowed_signers=tmp_path / "none")
    with pytest.raises(UsageError, match="cannot read"):
        verify(tmp_path / "none", allowed_signers=None, plan=None, rehearsal=True)


# --- what is not: records that do not follow ----------------------------------------------------
#
# Everyone signs these, so only their content can be what is wrong with them.

Change = Callable[[Script], None]


def swap(kind: type[Record] | Callable[[Record], bool], nth: int = 0, **fields: Any) -> Change:
    """Replace fields of the nth record of a kind; ``parameters`` and ``reply`` as dicts."""

    def change(script: Script) -> None:
        wanted = kind if not isinstance(kind, type) else lambda r: isinstance(r, kind)
        places = [n for n, record in enumerate(script.lines) if wanted(record)]
        old: Any = script.lines[places[nth]]
        new = {
            name: replace(getattr(old, name), **value)
            if isinstance(value, dict) and name in ("parameters", "reply")
            else value
            for name, value in fields.items()
        }
        script.lines[places[nth]] = replace(old, **new)

    return change


def drop(kind: type[Record] | Callable[[Record], bool], nth: int = 0, also: int = 0) -> Change:
    """Leave out the nth record of a kind, and those that follow it."""

    def change(script: Script) -> None:
        wanted = kind if not isinstance(kind, type) else lambda r: isinstance(r, kind)
        places = [n for n, record in enumerate(script.lines) if wanted(record)]
        del script.lines[places[nth] : places[nth] + 1 + also]

    return change


def on(serial: int, name: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, Command) and (r.serial, r.command) == (serial, name)


def step(name: str, serial: int, state: str) -> Callable[[Record], bool]:
    return lambda r: r == Step(name, serial, state)  # type: ignore[arg-type]


def a_secret(name: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, SecretBackedUp) and r.secret == name


ORACLE = 90000003
OTHER = "ab" * 32
BACKUP_1, BACKUP_2 = 90000001, 90000002


def _read_back_of(serial: int) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, ReadBack) and r.serial == serial


def _other_message(script: Script) -> None:
    head = b"sigsum.org/v1/tree/" + b"00" * 32 + b"\n7\n"
    swap(is_command("sign-eddsa"), parameters={"message": head.hex()})(script)


def _late_change(script: Script) -> None:
    """After its last read-back a key on the device is changed."""
    model = script.models[BACKUP_1]
    last = script.find(step("finish", BACKUP_1, "done"))
    rest = script.lines[last:]
    del script.lines[last:]
    with script.session(model, 100):
        new = records.ChangeSecret(700, OTHER)
        script.send(model, 100, "change-authentication-key", new, records.KeyId(700))
    script.lines += rest


def _hidden_signature(script: Script) -> None:
    """Between two fetches the device signed something that is not on record."""
    places = [n for n, r in enumerate(script.lines) if isinstance(r, AuditLog)]
    log = script.lines[places[1]]
    assert isinstance(log, AuditLog)
    model = Model(script.plan.devices[0])
    entries = [Entry.parse(bytes.fromhex(entry)) for entry in log.entries]
    model.number, model.digest = entries[-1].number, entries[-1].digest
    model.write(0x6A, 100, 500, 0xFFFF, 0xEA)
    more = (*log.entries, model.log[-1].encode().hex())
    script.lines[places[1]] = replace(log, entries=more, consumed_to=model.number)
    # What the library would have sent next.
    following = script.lines[places[1] + 1]
    assert isinstance(following, Command)
    script.lines[places[1] + 1] = replace(following, parameters=records.LogIndex(model.number))


def _log_never_read(script: Script) -> None:
    forgets = on(ORACLE, "set-log-index")
    script.lines = [
        record
        for record in script.lines
        if not forgets(record) and not (isinstance(record, AuditLog) and record.serial == ORACLE)
    ]


def _without_public_key(script: Script) -> None:
    for kind in (PublicKey, is_command("get-public-key"), Attestation):
        drop(kind)(script)


def _signed_twice(script: Script) -> None:
    place = max(n for n, r in enumerate(script.lines) if on(BACKUP_1, "sign-eddsa")(r))
    script.lines.insert(place, script.lines[place])


def _without_the_oracle(script: Script) -> None:
    first = script.find(lambda r: getattr(r, "serial", None) == ORACLE)
    del script.lines[first:-1]


def _log_entry(change: Callable[[bytearray], None]) -> Change:
    def edit(script: Script) -> None:
        places = [n for n, r in enumerate(script.lines) if isinstance(r, AuditLog)]
        log = script.lines[places[1]]
        assert isinstance(log, AuditLog)
        data = bytearray(bytes.fromhex(log.entries[2]))
        change(data)
        entries = (*log.entries[:2], data.hex(), *log.entries[3:])
        script.lines[places[1]] = replace(log, entries=entries)

    return edit


def _flip_digest(data: bytearray) -> None:
    data[20] ^= 1


def _lost_entries(script: Script) -> None:
    places = [n for n, r in enumerate(script.lines) if isinstance(r, AuditLog)]
    log = script.lines[places[1]]
    assert isinstance(log, AuditLog)
    script.lines[places[1]] = replace(log, entries=log.entries[2:])


def _foreign_device(script: Script) -> None:
    swap(Device, serial=90000099)(script)


def _plan_of_ones_own(script: Script) -> None:
    opened = script.lines[0]
    assert isinstance(opened, Opened)
    script.lines[0] = replace(opened, plan={**opened.plan, "site": "other"})


CONTENT: dict[str, tuple[Change, str]] = {
    "plan and its hash": (_plan_of_ones_own, "plan_hash is not the plan's"),
    "foreign device": (_foreign_device, "90000099 is not in the plan"),
    "another name": (swap(Device, name="log-1"), "calls device 90000001 backup-1"),
    "device that never said who it is": (drop(Device), "did not say who it is"),
    "no reset": (drop(is_command("reset-device")), "backup-1 is used before it was reset"),
    "nobody confirmed": (drop(Confirmed, also=1), "reset-device, which nobody confirmed"),
    "no witness confirmed": (drop(Confirmed, 1), "no witness confirmed step reset"),
    "confirmed by a stranger": (swap(Confirmed, participant="eve"), "eve is no operator"),
    "confirmed in another role": (swap(Confirmed, 1, participant="olga"), "olga is no witness"),
    "step never done": (
        drop(step("test", BACKUP_1, "done")),
        "step test was started, and is not done",
    ),
    "step never started": (drop(step("test", BACKUP_1, "started")), "outside of any step"),
    "command without a session": (drop(is_command("create-session")), "no session with key 1"),
    "session with a deleted key": (
        swap(
            lambda r: isinstance(r, Command) and r.error == "object-not-found",
            error=None,
            reply=records.Nothing(),
        ),
        "has no key 1 to open it with",
    ),
    "object put otherwise than planned": (
        swap(
            is_command("put-wrap-key"),
            parameters={
                "object": records.NewObject(
                    "wrap-key",
                    400,
                    "Common wrap key",
                    "aes128-ccm-wrap",
                    tuple(range(1, 17)),
                    ("export-wrapped", "import-wrapped"),
                    ("sign-eddsa", "exportable-under-wrap"),
                )
            },
        ),
        "wrap-key is put on backup-1 otherwise than planned",
    ),
    "object made under another id": (
        swap(is_command("put-wrap-key"), reply={"id": 401}),
        "made object 401, not 400",
    ),
    "secret without a commitment": (
        swap(is_command("put-wrap-key"), parameters={"commitment": None}),
        "has a commitment",
    ),
    "generated key with a commitment": (
        swap(is_command("generate-asymmetric-key"), parameters={"commitment": OTHER}),
        "has a commitment",
    ),
    "another wrap key on the clone": (
        swap(on(ORACLE, "put-wrap-key"), parameters={"commitment": OTHER}),
        "imports under another wrap key than the blob",
    ),
    "blob from nowhere": (
        swap(is_command("import-wrapped"), parameters={"blob_sha256": OTHER}),
        "no device of this record exported",
    ),
    "another object in the blob": (
        swap(is_command("import-wrapped"), reply={"id": 600}),
        "another object than the blob holds",
    ),
    "clone with another public key": (
        lambda script: (
            swap(on(ORACLE, "get-public-key"), reply={"key": OTHER})(script),
            swap(lambda r: isinstance(r, PublicKey) and r.serial == ORACLE, key=OTHER)(script),
        )[0],
        "had another public key before",
    ),
    "public key not as the device gave it": (
        swap(PublicKey, key=OTHER),
        "did not give this public key",
    ),
    "signature over a tree head": (_other_message, "not this ceremony's test message"),
    "test signature that does not verify": (
        lambda script: (
            swap(is_command("sign-eddsa"), reply={"signature": "00" * 64})(script),
            swap(TestSignature, signature="00" * 64)(script),
        )[0],
        "does not verify with key 500",
    ),
    "test signature that no device made": (
        swap(TestSignature, signature="00" * 64),
        "no sign-eddsa command returned",
    ),
    "key that was not tested": (drop(TestSignature), "key 500 on backup-1 was not tested"),
    "key whose public half is unknown": (
        _without_public_key,
        "the public key of key 500 is not on record before this",
    ),
    "read-back of another label": (
        swap(
            lambda r: on(BACKUP_1, "get-object-info")(r) and r.parameters.id == 500,  # type: ignore[union-attr]
            reply={"label": "x"},
        ),
        "described its objects otherwise",
    ),
    "read-back that hides an object": (
        swap(_read_back_of(BACKUP_1), 1, objects=()),
        "described its objects otherwise",
    ),
    "list that hides an object": (
        swap(on(BACKUP_1, "list-objects"), 1, reply={"objects": ()}),
        "shows other objects than the commands made",
    ),
    "read-back of other options": (
        swap(_read_back_of(BACKUP_1), 1, command_audit={}),
        "other audit options when asked",
    ),
    "read-back that says it saw more": (
        swap(_read_back_of(BACKUP_1), 1, session_key=1),
        "no session with key 1 listed",
    ),
    "no last read-back": (drop(_read_back_of(ORACLE), 1), "was changed after it was read back"),
    "changed after the read-back": (_late_change, "was changed after it was read back"),
    "default key not refused": (
        lambda script: setattr(
            script, "lines", [r for r in script.lines if not isinstance(r, DefaultKeyRefused)]
        ),
        "backup-1 was not seen to refuse the default authentication key",
    ),
    "default key refused without a try": (
        drop(lambda r: isinstance(r, Command) and r.error is not None),
        "no session with the default key was tried since",
    ),
    "default key not deleted": (
        drop(on(BACKUP_1, "delete-object")),
        "backup-1 has no key 1, which was not deleted",
    ),
    "manager left on an oracle": (
        drop(on(ORACLE, "delete-object"), -1),
        "authentication-key 100 is left on log-1",
    ),
    "wrap key left on an oracle": (drop(on(ORACLE, "delete-object"), 1), "shows other objects"),
    "audit turned off for a while": (
        lambda script: script.lines.insert(
            script.find(is_command("generate-asymmetric-key")),
            Command(
                BACKUP_1,
                100,
                "set-option",
                records.Option("command-audit", "6a00"),
                records.Nothing(),
                None,
            ),
        ),
        "sets command-audit of backup-1 otherwise than planned",
    ),
    "option of another kind": (
        swap(is_command("set-option"), parameters={"option": "algorithm-toggle"}),
        "sets algorithm-toggle of backup-1 otherwise than planned",
    ),
    "forced audit against the plan": (
        swap(is_command("set-option"), parameters={"option": "force-audit", "value": "01"}),
        "sets force-audit of backup-1 otherwise than planned",
    ),
    "secret on one medium only": (drop(a_secret("wrap-key")), "is not yet on 2 media"),
    "secret on no medium": (
        drop(a_secret("backup-authentication"), also=1),
        "backup-authentication was not written to a medium",
    ),
    "backup of one device's only": (
        lambda script: [swap(a_secret("wrap-key"), n, serial=BACKUP_1)(script) for n in (0, 1)][-1],
        "wrap-key was not written to a medium",
    ),
    "another secret on the medium": (
        swap(a_secret("log-authentication"), commitment=OTHER),
        "log-authentication was not written to a medium",
    ),
    "backup in another form": (swap(SecretBackedUp, form="shares", share=1), "backups as hex"),
    "backup of a signing key": (swap(SecretBackedUp, secret="log-signing-key"), "is no"),
    "log never read": (_log_never_read, "log-1 was not read after its reset"),
    "log entry changed": (_log_entry(_flip_digest), "does not follow"),
    "log entries lost": (_lost_entries, "lacks 2 entries"),
    "signature that is not on record": (_hidden_signature, r"its log goes on with .*sign-eddsa"),
    "command that the device did not log": (
        _signed_twice,
        r"its log ends, the record with sign-eddsa \(line \d+\)",
    ),
    "attestation that nobody asked for": (
        drop(is_command("sign-attestation-certificate")),
        "no command to attest this key was answered so",
    ),
    "attestation where the device refused": (
        swap(lambda r: isinstance(r, Attestation) and r.error is not None, error="invalid-data"),
        "no command to attest this key was answered so",
    ),
    "attestation of another key": (
        swap(
            Attestation, pem=certificate(Ed25519PrivateKey.generate(), "YubiHSM rehearsal device")
        ),
        "of another key than the device's public key",
    ),
    "attestation of a real device in a rehearsal": (
        lambda script: swap(
            Attestation,
            pem=certificate(script.models[BACKUP_1].keys[500], "YubiHSM Attestation id:0x01f4"),
        )(script),
        "the attestation of a real device",
    ),
    "log read by nobody": (
        swap(AuditLog, session_key=100),
        "no session with key 100 read the log before",
    ),
    "log forgotten unread": (
        swap(is_command("set-log-index"), parameters={"number": 77}),
        "forgets log entries that are not on record",
    ),
    "log consumed elsewhere": (swap(AuditLog, consumed_to=1), "to another entry than the last"),
    "answer to another question": (
        swap(is_command("get-option"), reply={"option": "fips-mode"}),
        "asks for force-audit, and is told fips-mode",
    ),
    "key of another algorithm": (
        swap(is_command("get-public-key"), reply={"algorithm": "ecp256"}),
        "key 500 is not an Ed25519 key",
    ),
    "capability that does not exist": (
        swap(
            is_command("get-object-info"),
            reply={"capabilities": ("0x100000000000000",)},
        ),
        "described its objects otherwise",
    ),
    "closing record of another ceremony": (swap(Closed, ceremony="00" * 16), "not those of"),
    "closing record with fewer people": (swap(Closed, participants=()), "participants"),
    "second opening record": (
        lambda script: script.lines.insert(3, script.lines[0]),
        "a second opening record",
    ),
    "line after the end": (
        lambda script: script.lines.append(script.lines[2]),
        "comes after the closing record",
    ),
    "no closing record": (drop(Closed), "not a closing record"),
    "device left out": (_without_the_oracle, "log-1 was never reset"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_record_that_is_signed_but_wrong_is_refused(
    name: str, tmp_path: Path, signers: Signers
) -> None:
    change, reason = CONTENT[name]
    script = Script(PLAN).perform()
    before = list(script.lines)
    change(script)
    assert script.lines != before
    verdict = Case(script.save(tmp_path, signers), signers).judge()
    assert not verdict.ok
    assert verdict.line is not None
    assert re.search(reason, str(verdict.reason)), verdict.reason


# What a line may say without another line, the plan or a signature contradicting it: it rests on
# the people, or is told once only.
FREE = {
    ("attestation", "pem"),
    ("audit-log", "unlogged_authentications"),
    ("audit-log", "unlogged_boots"),
    ("confirmed", "phrase_hash"),
    ("device", "algorithms"),
    ("device", "connector"),
    ("device", "log_size"),
    ("device", "log_used"),
    ("opened", "host"),
    ("opened", "software"),
    ("secret-backed-up", "medium"),
    ("closed", "lines"),  # which ``save`` puts right again
    ("command", "parameters", "object", "domains"),  # fewer, for what is removed again
}


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in _leaves(value[key], (*path, key))]
    if isinstance(value, list) and value:
        return [path, *(leaf for n in range(len(value)) for leaf in _leaves(value[n], (*path, n)))]
    return [path]


def _altered(value: Any) -> Any:
    """Something else of the same type."""
    if isinstance(value, list):
        return value[1:]
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    return ("0" if value[:1] != "0" else "1") + value[1:]


@settings(FEW, derandomize=True, max_examples=50)
@given(st.data())
def test_every_field_is_held_in_place_by_others(good: Case, data: st.DataObject) -> None:
    """Whoever may write the transcript anew still has to keep it consistent; nothing crashes."""
    script = Script(PLAN)
    script.lines = [line.record for line in decode_all(good.data)]
    place = data.draw(st.integers(0, len(script.lines) - 1))
    record = script.lines[place]
    body: Any = json.loads(canonical.dumps(records.to_json(record)))
    path = data.draw(st.sampled_from(_leaves(body)))
    inside = body
    for key in path[:-1]:
        inside = inside[key]
    before, inside[path[-1]] = inside[path[-1]], _altered(inside[path[-1]])
    assume(inside[path[-1]] != before)
    try:
        script.lines[place] = records.parse(record.kind, body)
    except ValueError:
        return
    verdict = verify(
        script.save(good.path.parent / "again"), allowed_signers=None, plan=PLAN, rehearsal=True
    )
    refused = isinstance(record, Command) and record.error  # so it did nothing
    free = refused or any((record.kind, *path)[: len(each)] == each for each in FREE)
    assert free or verdict.line is not None


@pytest.mark.parametrize("mode", list(Mode))
def test_devices_of_the_other_kind_are_refused(
    mode: Mode, tmp_path: Path, signers: Signers
) -> None:
    site = plan.loads(plan_text(base="1000000"), "plan")
    part = {Mode.PRODUCTION: "REHEARSAL", Mode.REHEARSAL: "78CLUFX5000P"}[mode]
    script = Script(site, mode).perform()
    swap(Device, part_number=part)(script)
    path = script.save(tmp_path, signers)
    rehearsal = mode == Mode.REHEARSAL
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=rehearsal)
    assert not verdict.ok
    assert "rehearsal device, in a" in str(verdict.reason)


def test_old_firmware_is_refused(tmp_path: Path, signers: Signers) -> None:
    text = plan_text().replace("serial: 90000003", "serial: 90000003, firmware: 2.4.1")
    site = plan.loads(text, "plan")
    path = Script(site).perform().save(tmp_path, signers)
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=True)
    assert "log-1 has a firmware older than the plan's 2.4.1" in str(verdict.reason)


# --- interrupts ---------------------------------------------------------------------------------


def begun() -> tuple[Script, Model]:
    """A ceremony whose first device is taken over."""
    script = Script(PLAN)
    model = script.models[BACKUP_1]
    script.reset(model)
    script.take_over(model)
    return script, model


def resume(script: Script) -> None:
    script.add(Resumed("killed", None, 0, "sigsum-ops test", {}))
    for model in script.models.values():
        script.introduce(model)


def list_objects(script: Script, model: Model, key: int = 100) -> None:
    with script.session(model, key):
        reply = records.Listed(tuple(model.objects))
        script.send(model, key, "list-objects", records.Nothing(), reply)


def go_on(script: Script, model: Model, *, keys: bool = True) -> None:
    """The rest of the ceremony, for a first device that has its wrap key."""
    specs = script.plan.specs(model.plan)
    if keys:
        script.key(model, script.plan.objects["log-signing-key"])
    script.key(model, script.plan.objects["witness-signing-key"])
    script.access(model, script.plan.objects["audit-authentication"])
    with script.step("test", model):
        for spec in specs:
            if "signing-key" in spec.name:
                script.test(model, spec)
    with script.step("finish", model), script.session(model, 100):
        script.look(model, 100)
        script.drain(model, 100)
    for other in list(script.models.values())[1:]:
        script.provision(other)
    script.close()


def put_wrap_key(script: Script, model: Model) -> None:
    spec = script.plan.objects["wrap-key"]
    script.put(model, 100, spec, commitment("wrap-key", None))


def start_wrap(script: Script, model: Model) -> None:
    script.add(Step("wrap", BACKUP_1, "started"))
    script.send(model, None, "create-session", records.KeyId(100))


def judge(script: Script, directory: Path, signers: Signers) -> Verdict:
    return Case(script.save(directory, signers), signers).judge()


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_an_interrupt_between_a_command_and_its_line_is_accepted_and_noted(
    tmp_path: Path, signers: Signers, done: bool, recorded: bool
) -> None:
    """Killed, or the reply lost; the device did it, or not: four times the same final state."""
    script, model = begun()
    start_wrap(script, model)
    if done:
        put_wrap_key(script, model)
        if recorded:
            last: Any = script.lines[-1]
            script.lines[-1] = replace(last, reply=None, error=records.NO_REPLY)
        else:
            del script.lines[-1]
    elif recorded:
        given = _wrap_key_command()
        script.add(Command(BACKUP_1, 100, "put-wrap-key", given, None, records.NO_REPLY))
    resume(script)
    list_objects(script, model)
    with script.step("wrap", model):
        if not done:
            with script.session(model, 100):
                put_wrap_key(script, model)
    go_on(script, model)
    verdict = judge(script, tmp_path, signers)
    assert (verdict.ok, verdict.reason) == (True, None)
    assert any("interrupted and resumed" in note for note in verdict.notes)
    assert any("wrap-key 400 is on backup-1 was seen" in note for note in verdict.notes) == done


def _wrap_key_command() -> records.Create:
    script, model = begun()
    put_wrap_key(script, model)
    last = script.lines[-1]
    assert isinstance(last, Command)
    assert isinstance(last.parameters, records.Create)
    return last.parameters


@pytest.mark.parametrize("kept", [True, False])
def test_a_command_left_out_shows_in_the_devices_log(
    tmp_path: Path, signers: Signers, kept: bool
) -> None:
    """Here one that the device refused, so that nothing else is missing without it."""
    script, model = begun()
    start_wrap(script, model)
    put_wrap_key(script, model)
    error, given = "object-exists", _wrap_key_command()
    script.send(model, 100, "put-wrap-key", given, error=error, log=(400, 0xFFFF))
    if not kept:
        script.lines.pop()
    script.add(Step("wrap", BACKUP_1, "done"))
    go_on(script, model)
    verdict = judge(script, tmp_path, signers)
    assert verdict.ok == kept, verdict.reason
    if not kept:
        assert "its log goes on with entry" in str(verdict.reason)
        assert "(put-wrap-key on 400, result 0x04)" in str(verdict.reason)


def test_after_an_interrupt_nothing_is_changed_before_looking(
    tmp_path: Path, signers: Signers
) -> None:
    script, model = begun()
    start_wrap(script, model)
    resume(script)
    with script.step("wrap", model), script.session(model, 100):
        put_wrap_key(script, model)
    go_on(script, model)
    verdict = judge(script, tmp_path, signers)
    assert "put-wrap-key on backup-1 before it was read back" in str(verdict.reason)


def test_an_interrupt_explains_one_command_and_no_more(tmp_path: Path, signers: Signers) -> None:
    script, model = begun()
    start_wrap(script, model)
    put_wrap_key(script, model)
    script.put(model, 100, script.plan.objects["log-signing-key"], None)
    del script.lines[-2:]
    resume(script)
    list_objects(script, model)
    with script.step("wrap", model):
        pass
    go_on(script, model, keys=False)
    assert "no interrupt explains" in str(judge(script, tmp_path, signers).reason)


def test_a_key_removed_as_the_power_went_is_known_by_its_refusal(
    tmp_path: Path, signers: Signers
) -> None:
    """The last command to an oracle removes the key that could have told."""
    script = Script(PLAN).perform(close=False)
    model = script.models[ORACLE]
    last = max(n for n, r in enumerate(script.lines) if on(ORACLE, "delete-object")(r))
    del script.lines[last:]
    resume(script)
    refused = "object-not-found"
    script.send(model, None, "create-session", records.KeyId(100), error=refused)
    with script.step("finish", model):
        script.refuse_default(model)
    script.close()
    verdict = judge(script, tmp_path, signers)
    assert (verdict.ok, verdict.reason) == (True, None)
    assert any("rests on its refusal" in note for note in verdict.notes)


def test_an_interrupt_after_a_device_was_locked_leaves_nothing_to_ask(
    tmp_path: Path, signers: Signers
) -> None:
    script = Script(PLAN).perform(close=False)
    model = script.models[ORACLE]
    last = max(n for n, r in enumerate(script.lines) if on(ORACLE, "delete-object")(r))
    del script.lines[last + 1 :]
    resume(script)
    refused = "object-not-found"
    script.send(model, None, "create-session", records.KeyId(100), error=refused)
    with script.step("finish", model):
        script.refuse_default(model)
    script.close()
    verdict = judge(script, tmp_path, signers)
    assert (verdict.ok, verdict.reason) == (True, None)


def test_an_interrupt_says_what_it_leaves(tmp_path: Path, signers: Signers) -> None:
    left = (records.Left(BACKUP_1, ObjectRef("authentication-key", 1)),)
    for said in (left, ()):
        script = Script(PLAN)
        script.reset(script.models[BACKUP_1])
        script.add(Interrupted("Ctrl-C", "reset", said))
        resume(script)
        script.take_over(script.models[BACKUP_1])
        put_wrap = script.models[BACKUP_1]
        with script.step("wrap", put_wrap), script.session(put_wrap, 100):
            put_wrap_key(script, put_wrap)
        go_on(script, put_wrap)
        verdict = judge(script, tmp_path, signers)
        assert verdict.ok == bool(said), verdict.reason
    assert "authentication-key 1 is left on backup-1" in str(verdict.reason)


def test_nothing_follows_an_interrupt_but_a_resumption(tmp_path: Path, signers: Signers) -> None:
    script = Script(PLAN).perform()
    script.lines.insert(len(script.lines) - 1, Interrupted("Ctrl-C", None, ()))
    assert "before the ceremony was resumed" in str(judge(script, tmp_path, signers).reason)


def test_a_device_can_be_erased_and_done_again(tmp_path: Path, signers: Signers) -> None:
    script, model = begun()
    start_wrap(script, model)
    put_wrap_key(script, model)
    resume(script)
    list_objects(script, model)
    with script.step("wrap", model):
        pass
    with script.step("reset", model, confirmed=True), script.session(model, 100):
        script.send(model, 100, "reset-device", records.Nothing())
        model.reset()
    script.lines.pop(-2)  # a session does not survive a reset, so it is not closed
    script.introduce(model)
    script.take_over(model)
    with script.step("wrap", model), script.session(model, 100):
        put_wrap_key(script, model)
    go_on(script, model)
    verdict = judge(script, tmp_path, signers)
    assert (verdict.ok, verdict.reason) == (True, None)


def test_a_clock_that_went_back_is_noted(tmp_path: Path, signers: Signers) -> None:
    path = Script(PLAN).perform().save(tmp_path, signers, early=17)
    verdict = Case(path, signers).judge()
    assert verdict.ok
    assert "the clock went back between lines 16 and 17" in verdict.notes


@pytest.mark.parametrize(
    ("medium", "share", "reason"),
    [
        ("medium 3", 2, "not all 3 shares"),
        ("medium 2", 3, "is not yet on 3 media"),
    ],
)
def test_each_share_is_on_a_medium_of_its_own(
    tmp_path: Path, signers: Signers, medium: str, share: int, reason: str
) -> None:
    text = plan_text(backup="{form: shares, threshold: 2, shares: 3}")
    site = plan.loads(text, "plan")
    script = Script(site).perform()
    swap(a_secret("wrap-key"), 2, medium=medium, share=share)(script)
    path = script.save(tmp_path, signers)
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=True)
    assert reason in str(verdict.reason)


def test_two_shares_on_one_medium_are_refused(tmp_path: Path, signers: Signers) -> None:
    text = plan_text(backup="{form: shares, threshold: 2, shares: 3}")
    site = plan.loads(text, "plan")
    script = Script(site).perform()
    place = script.find(a_secret("wrap-key"))
    secret = script.lines[place]
    assert isinstance(secret, SecretBackedUp)
    script.lines.insert(place, replace(secret, share=2))
    path = script.save(tmp_path, signers)
    verdict = verify(path, allowed_signers=signers.allowed, plan=site, rehearsal=True)
    assert "two shares of wrap-key are on one medium" in str(verdict.reason)


def test_an_export_that_went_nowhere_is_noted(tmp_path: Path, signers: Signers) -> None:
    script = Script(PLAN).perform(close=False)
    source = script.models[BACKUP_1]
    with script.step("again", source):
        script.export(source, PLAN.objects["log-signing-key"])
    script.close()
    verdict = judge(script, tmp_path, signers)
    assert verdict.ok
    assert any("asymmetric-key 500 was exported from backup-1" in note for note in verdict.notes)


def test_a_refusal_from_before_a_reset_does_not_count(tmp_path: Path, signers: Signers) -> None:
    script, model = begun()
    with script.step("reset", model, confirmed=True), script.session(model, 100):
        script.send(model, 100, "reset-device", records.Nothing())
        model.reset()
    script.lines.pop(-2)
    script.introduce(model)
    script.take_over(model)
    places = [n for n, r in enumerate(script.lines) if isinstance(r, DefaultKeyRefused)]
    del script.lines[places[-1] - 1]  # the try itself
    verdict = judge(script, tmp_path, signers)
    assert "tried since, and refused so" in str(verdict.reason)


def test_an_attestation_in_an_unknown_form_is_kept_and_not_judged(
    tmp_path: Path, signers: Signers
) -> None:
    script = Script(PLAN).perform()
    swap(Attestation, pem="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")(script)
    verdict = judge(script, tmp_path, signers)
    assert verdict.ok
    assert any("answered with what is not read here" in claim.claim for claim in verdict.claims)
