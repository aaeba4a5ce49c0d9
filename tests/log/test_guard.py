"""The start guard: proven, refused, cannot tell, and never a pass by accident."""

from __future__ import annotations

import errno
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sigsum_ops import cli
from sigsum_ops.errors import UsageError
from sigsum_ops.log import guard
from sigsum_ops.log.evidence import (
    Evidence,
    format_evidence,
    format_promotion,
    parse_evidence,
    parse_promotion,
)
from sigsum_ops.log.keys import PublicKey, public_key_of
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, TreeHead
from sigsum_ops.log.trillian import Tree
from tests.log import rfc9162
from tests.log.fake_trillian import Failure, FakeTree, FakeTrillian

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)
LEAVES = [b"leaf %d" % number for number in range(20)]
FOREIGN = [b"foreign", *LEAVES[1:]]


def head(size: int, leaves: list[bytes] = LEAVES) -> TreeHead:
    return TreeHead(size, rfc9162.root(leaves[:size]))


@dataclass
class Machine:
    """A primary's files, and the Trillian beside it."""

    directory: Path
    trillian: FakeTrillian
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.directory / "state"
        self.state.mkdir()
        self.config = self.directory / "config.toml"
        self.key = self.directory / "log.pub"
        self.key.write_text(f"{KEY.ssh} a comment\n")
        self.tree_id = self.state / "tree-id"
        self.sth = self.state / "sth"
        self.startup = self.state / "sth.startup"
        self.evidence = self.state / "guard-evidence.json"
        self.promotion = self.state / "promotion.json"
        self.oracle = self.directory / "oracle.toml"
        self.marker = self.state / "guard-refused.json"
        self.metrics = self.state / "guard.prom"
        self.write_config()
        self.name_tree(1)

    def write_config(self, text: str | None = None) -> None:
        self.config.write_text(
            text
            or f"""
            interval = "10s"
            trillian-rpc-server = "{self.trillian.address}"
            trillian-tree-id-file = "{self.tree_id}"
            [primary]
            secondary-url = "http://192.0.2.2:6967/"
            secondary-pubkey-file = "/etc/sigsum/secondary.pub"
            sth-file = "{self.sth}"
            """
        )

    def name_tree(self, tree_id: int) -> None:
        self.tree_id.write_text(f"tree-id={tree_id}\n")

    def sign(self, signed: TreeHead, secret: Ed25519PrivateKey = SECRET) -> None:
        signature = secret.sign(signed.checkpoint(KEY)).hex()
        self.sth.write_text(
            f"size={signed.size}\nroot_hash={signed.root.hex()}\nsignature={signature}\n"
        )

    def remember(self, proven: TreeHead, tree_id: int = 1, key: PublicKey = KEY) -> None:
        evidence = Evidence(proven, tree_id, key.hash)
        self.evidence.write_bytes(format_evidence(evidence, datetime.now(UTC)))

    def promote(self, promoted: TreeHead, tree_id: int = 1, key: PublicKey = KEY) -> None:
        """As a promotion leaves a new primary."""
        self.sth.unlink(missing_ok=True)
        self.startup.write_text("startup=local-tree\n")
        record = Evidence(promoted, tree_id, key.hash)
        self.promotion.write_bytes(format_promotion(record, datetime.now(UTC)))

    def go_alone(self) -> None:
        """As the role writes it for a log without a secondary."""
        lines = self.config.read_text().splitlines(keepends=True)
        self.config.write_text("".join(line for line in lines if "secondary-" not in line))

    def permit(self, until: datetime | None, key: PublicKey = KEY, more: str = "") -> None:
        permit = f"ungated_until = {until:%Y-%m-%dT%H:%M:%SZ}" if until else ""
        self.oracle.write_text(
            f'public_key = "{key.ssh}"\n[log]\ntrillian = "127.0.0.1:8090"\n'
            f'tree_id_file = "{self.tree_id}"\n{permit}\n{more}'
            '[software_key]\nfile = "/etc/sigsum/key"\nlab_only = true\n'
        )

    def start_anew(self) -> None:
        """As site.yml leaves a new primary."""
        self.trillian.trees = {1: FakeTree(1)}
        self.startup.write_text("startup=empty\n")

    def grow(self, size: int, leaves: list[bytes] = LEAVES) -> None:
        self.trillian.trees[1].leaves = leaves[:size]

    def run(self, wait: float | None = 0) -> guard.Result:
        return guard.run(
            config=self.config,
            log_key=self.key,
            oracle=self.oracle,
            wait=wait,
            say=self.said.append,
        )


@pytest.fixture(scope="module")
def server() -> Iterator[FakeTrillian]:
    with FakeTrillian() as trillian:
        yield trillian


def reset(server: FakeTrillian) -> FakeTrillian:
    server.trees = {1: FakeTree(1, leaves=LEAVES[:12])}
    server.before = server.after = lambda _method: None
    server.list_is_cut_short = server.root_is_unreadable = False
    server.calls.clear()
    return server


@pytest.fixture
def machine(tmp_path: Path, server: FakeTrillian) -> Machine:
    """A primary whose log has signed 5 of the 12 leaves that its tree holds."""
    machine = Machine(tmp_path, reset(server))
    machine.sign(head(5))
    return machine


def metric(machine: Machine, name: str) -> str | None:
    found = re.search(rf"^{name}(\{{.*\}})? (.*)$", machine.metrics.read_text(), re.MULTILINE)
    return found and f"{found[1] or ''} {found[2]}".strip()


# Proven


def test_larger_tree_is_proven_and_remembered(machine: Machine) -> None:
    machine.marker.write_text("{}")
    result = machine.run()
    assert result.exit_code == 0
    assert f"size 12, root {head(12).root.hex()}" in result.message
    assert parse_evidence(machine.evidence.read_bytes()).head == head(12)
    assert not machine.marker.exists()
    assert metric(machine, "sigsum_guard_refused") == "0"
    assert metric(machine, "sigsum_guard_proven_size") == "12"
    assert float(metric(machine, "sigsum_guard_last_run_timestamp_seconds") or 0) > 1.7e9
    assert sorted(path.name for path in machine.state.iterdir()) == [
        "guard-evidence.json",
        "guard.prom",
        "sth",
        "tree-id",
    ]


@pytest.mark.parametrize("signed", [0, 1, 4, 11, 12])
def test_any_signed_prefix_is_proven(machine: Machine, signed: int) -> None:
    machine.sign(head(signed))
    assert machine.run().exit_code == 0


def test_first_start_and_its_repetition(machine: Machine) -> None:
    machine.sth.unlink()
    machine.start_anew()
    assert machine.run().exit_code == 0
    assert parse_evidence(machine.evidence.read_bytes()).head == EMPTY_TREE_HEAD
    machine.startup.write_text("startup=empty")  # as sigsum-mktree writes it
    assert machine.run().exit_code == 0
    machine.startup.unlink()
    machine.sign(EMPTY_TREE_HEAD)
    assert machine.run().exit_code == 0


def test_hexadecimal_log_key(machine: Machine) -> None:
    machine.key.write_text(KEY.hex)
    assert machine.run().exit_code == 0


def test_state_directory_elsewhere(machine: Machine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = guard.run(
        config=machine.config, log_key=machine.key, state_dir=elsewhere, wait=0, say=print
    )
    assert result.exit_code == 0
    assert {path.name for path in elsewhere.iterdir()} == {"guard-evidence.json", "guard.prom"}


@pytest.mark.parametrize("signed", [0, 5, 12])
def test_a_promoted_machines_first_start_and_its_repetition(machine: Machine, signed: int) -> None:
    machine.grow(signed)
    machine.promote(head(signed))
    assert machine.run().exit_code == 0
    assert parse_evidence(machine.evidence.read_bytes()).head == head(signed)
    assert machine.run().exit_code == 0


def test_a_promoted_machine_that_was_the_primary_before(machine: Machine) -> None:
    """Its tree-id was another then, and its tree must extend what it had proven."""
    machine.remember(head(7), tree_id=9)
    machine.promote(head(12))
    assert machine.run().exit_code == 0
    machine.remember(head(7, FOREIGN), tree_id=9)
    assert machine.run().details["reason"] == "tree-not-extension"


def test_a_promotion_stays_as_evidence(machine: Machine) -> None:
    machine.promote(head(7))
    machine.startup.unlink()
    machine.sign(head(7))
    assert machine.run().exit_code == 0
    machine.evidence.unlink()
    machine.sign(head(5))
    machine.grow(6)
    result = machine.run()
    assert result.details["reason"] == "tree-smaller"
    assert result.details["earlier"]["source"] == str(machine.promotion)


@settings(max_examples=60, deadline=None)
@given(
    promoted=st.integers(0, 16),
    seen=st.none() | st.integers(0, 16),
    now=st.integers(0, 16),
    forked_at=st.integers(0, 17),
)
def test_local_tree_is_proven_exactly_if_the_tree_is_the_promoted_one(
    server: FakeTrillian, promoted: int, seen: int | None, now: int, forked_at: int
) -> None:
    leaves = [*LEAVES[:forked_at], *(b"fork %d" % i for i in range(forked_at, 20))][:now]
    expected = leaves == LEAVES[:promoted] and now >= (seen or 0)
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory), reset(server))
        machine.promote(head(promoted))
        if seen is not None:
            machine.remember(head(seen))
        machine.trillian.trees[1].leaves = leaves
        assert (machine.run().exit_code == 0) is expected


LATER, EARLIER = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, -1))


def test_alone_with_a_permit(machine: Machine) -> None:
    machine.go_alone()
    machine.permit(LATER)
    assert machine.run().exit_code == 0


def test_a_gated_log_needs_nothing_of_the_oracle(machine: Machine) -> None:
    machine.permit(EARLIER)
    assert machine.run().exit_code == 0
    unreadable(machine.oracle)
    assert machine.run().exit_code == 0


def test_the_permit_is_over_to_the_second(machine: Machine) -> None:
    machine.go_alone()
    config = guard.read_config(machine.config)
    until = LATER.replace(microsecond=0)
    machine.permit(until)
    moment = timedelta(microseconds=1)
    guard.check_replication(config, KEY, machine.oracle, until - moment)
    for now in (until, until + moment):
        with pytest.raises(guard.Refused, match="has ended") as refusal:
            guard.check_replication(config, KEY, machine.oracle, now)
        assert "playbooks/reseed.yml" in str(refusal.value)
        assert f"{until:%H:%M:%SZ}" in str(refusal.value)


def test_the_refusal_to_go_alone_names_what_is_missing(machine: Machine) -> None:
    replace(machine.config, "secondary-url", "# ")
    assert "has secondary-pubkey-file and no secondary-url" in machine.run().message
    machine.write_config()
    replace(machine.config, "secondary-pubkey-file", "# ")
    assert "has secondary-url and no secondary-pubkey-file" in machine.run().message
    machine.go_alone()
    assert "neither secondary-url nor secondary-pubkey-file" in machine.run().message


@settings(max_examples=60, deadline=None)
@given(
    signed=st.integers(0, 16),
    seen=st.none() | st.integers(0, 16),
    now=st.integers(0, 16),
    forked_at=st.integers(0, 17),
)
def test_proven_exactly_if_nothing_known_has_changed(
    server: FakeTrillian, signed: int, seen: int | None, now: int, forked_at: int
) -> None:
    """The definition: the tree begins with the leaves that were signed, and those seen before."""
    leaves = [*LEAVES[:forked_at], *(b"fork %d" % i for i in range(forked_at, 20))][:now]
    expected = all(leaves[:size] == LEAVES[:size] and now >= size for size in (signed, seen or 0))
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory), reset(server))
        machine.sign(head(signed))
        if seen is not None:
            machine.remember(head(seen))
        machine.trillian.trees[1].leaves = leaves
        assert (machine.run().exit_code == 0) is expected


# Refused


def new_with_evidence(machine: Machine, proven: TreeHead, tree_id: int = 1) -> None:
    machine.sth.unlink()
    machine.start_anew()
    machine.remember(proven, tree_id)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def unreadable(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()  # even root cannot read it


def change_tree(machine: Machine, **fields: object) -> None:
    for name, value in fields.items():
        setattr(machine.trillian.trees[1], name, value)


def steps(*each: Callable[[Machine], object]) -> Callable[[Machine], object]:
    return lambda machine: [step(machine) for step in each]


REFUSALS: list[tuple[str, str, Callable[[Machine], object]]] = [
    ("older database restored", "tree-smaller", lambda m: m.grow(4)),
    ("database emptied, tree made again", "tree-smaller", lambda m: m.grow(0)),
    ("smaller than seen at an earlier start", "tree-smaller", lambda m: m.remember(head(13))),
    (
        "seen more than is there, sth rolled back too",
        "tree-smaller",
        steps(lambda m: m.remember(head(12)), lambda m: m.grow(8)),
    ),
    ("foreign tree of equal size", "tree-other-root", lambda m: m.grow(5, FOREIGN)),
    (
        "other root than seen before",
        "tree-other-root",
        lambda m: m.remember(head(12, [*LEAVES[:11], b"x"])),
    ),
    ("foreign larger tree", "tree-not-extension", lambda m: m.grow(12, FOREIGN)),
    (
        "larger than signed, but not what was seen",
        "tree-not-extension",
        lambda m: m.remember(head(7, FOREIGN)),
    ),
    ("tree-id file lost", "tree-id-missing", lambda m: m.tree_id.unlink()),
    ("tree-id file emptied", "tree-id-empty", lambda m: m.tree_id.write_text("")),
    (
        "tree-id file as upstream documents it",
        "tree-id-malformed",
        lambda m: m.tree_id.write_text("tree_id=1\n"),
    ),
    ("no newline", "tree-id-malformed", lambda m: m.tree_id.write_text("tree-id=1")),
    ("tree id 0", "tree-id-malformed", lambda m: m.tree_id.write_text("tree-id=0\n")),
    ("too large", "tree-id-malformed", lambda m: m.tree_id.write_text(f"tree-id={2**63}\n")),
    ("second line", "tree-id-malformed", lambda m: m.tree_id.write_text("tree-id=1\n\n")),
    ("tree unknown to Trillian", "tree-unknown", lambda m: m.name_tree(2)),
    ("tree deleted", "tree-deleted", lambda m: change_tree(m, deleted=True)),
    ("a secondary's tree", "tree-type", lambda m: change_tree(m, type="PREORDERED_LOG")),
    ("frozen", "tree-state", lambda m: change_tree(m, state="FROZEN")),
    ("draining", "tree-state", lambda m: change_tree(m, state="DRAINING")),
    ("never initialised", "tree-uninitialised", lambda m: change_tree(m, leaves=None)),
    ("sth lost", "sth-missing", lambda m: m.sth.unlink()),
    (
        "sth lost, seen before",
        "sth-missing",
        steps(lambda m: m.remember(head(5)), lambda m: m.sth.unlink()),
    ),
    ("sth empty", "sth-malformed", lambda m: m.sth.write_text("")),
    ("sth cut off", "sth-malformed", lambda m: m.sth.write_text(m.sth.read_text()[:-1])),
    ("sth garbage", "sth-malformed", lambda m: m.sth.write_bytes(b"\xff\n")),
    ("sth altered", "sth-signature", lambda m: replace(m.sth, "size=5", "size=4")),
    (
        "sth by another key",
        "sth-signature",
        lambda m: m.sign(head(5), Ed25519PrivateKey.from_private_bytes(bytes(32))),
    ),
    ("log.pub of another log", "sth-signature", lambda m: m.key.write_text("00" * 32)),
    ("log.pub lost", "log-key", lambda m: m.key.unlink()),
    ("log.pub garbage", "log-key", lambda m: m.key.write_bytes(b"\xff")),
    ("log.pub of RSA", "log-key", lambda m: m.key.write_text("ssh-rsa AAAA")),
    (
        "promoted, and startup file beside sth",
        "startup-and-sth",
        steps(lambda m: m.promote(head(12)), lambda m: m.sign(head(5))),
    ),
    ("startup file beside sth", "startup-and-sth", lambda m: m.startup.write_text("startup=empty")),
    (
        "local-tree",
        "startup-local-tree",
        steps(lambda m: m.sth.unlink(), lambda m: m.startup.write_text("startup=local-tree\n")),
    ),
    (
        "promoted as another tree",
        "startup-local-tree",
        lambda m: m.promote(head(12), tree_id=2),
    ),
    ("promoted, and grown since", "startup-local-tree", lambda m: m.promote(head(11))),
    ("promoted, and shrunk since", "tree-smaller", lambda m: m.promote(head(13))),
    (
        "promoted with another root",
        "tree-other-root",
        lambda m: m.promote(head(12, FOREIGN)),
    ),
    (
        "promoted, but the tree is a secondary's still",
        "tree-type",
        steps(lambda m: m.promote(head(12)), lambda m: change_tree(m, type="PREORDERED_LOG")),
    ),
    (
        "promoted, but the tree is frozen still",
        "tree-state",
        steps(lambda m: m.promote(head(12)), lambda m: change_tree(m, state="FROZEN")),
    ),
    (
        "promoted, but it had proven more before",
        "tree-smaller",
        steps(lambda m: m.promote(head(12)), lambda m: m.remember(head(13))),
    ),
    (
        "promoted, neither sth nor startup file",
        "sth-missing",
        steps(lambda m: m.promote(head(12)), lambda m: m.startup.unlink()),
    ),
    (
        "promotion of another log",
        "promotion-log-key",
        lambda m: m.promote(head(12), key=PublicKey(bytes(32))),
    ),
    ("promotion garbage", "promotion-malformed", lambda m: m.promotion.write_text("{")),
    (
        "promotion with a key too many",
        "promotion-malformed",
        steps(lambda m: m.promote(head(12)), lambda m: replace(m.promotion, "{", '{"more": 1,')),
    ),
    ("promotion unreadable", "unreadable", lambda m: unreadable(m.promotion)),
    (
        "new, but promoted",
        "startup-evidence",
        steps(
            lambda m: m.promote(EMPTY_TREE_HEAD),
            lambda m: m.start_anew(),
        ),
    ),
    (
        "startup of another mode",
        "startup-malformed",
        steps(lambda m: m.sth.unlink(), lambda m: m.startup.write_text("startup=saved\n")),
    ),
    (
        "startup empty",
        "startup-malformed",
        steps(lambda m: m.sth.unlink(), lambda m: m.startup.write_text("")),
    ),
    (
        "new, but the tree is not empty",
        "startup-tree-not-empty",
        steps(lambda m: m.sth.unlink(), lambda m: m.startup.write_text("startup=empty\n")),
    ),
    (
        "new, but there is another tree",
        "startup-other-tree",
        steps(
            lambda m: m.sth.unlink(),
            lambda m: m.start_anew(),
            lambda m: m.trillian.trees.update({2: FakeTree(2)}),
        ),
    ),
    (
        "new, but there is a deleted tree",
        "startup-other-tree",
        steps(
            lambda m: m.sth.unlink(),
            lambda m: m.start_anew(),
            lambda m: m.trillian.trees.update({2: FakeTree(2, deleted=True)}),
        ),
    ),
    ("new, but seen larger", "startup-evidence", lambda m: new_with_evidence(m, head(5))),
    (
        "new, but another tree was seen",
        "startup-evidence",
        lambda m: new_with_evidence(m, EMPTY_TREE_HEAD, tree_id=2),
    ),
    (
        "new, but seen with another root",
        "startup-evidence",
        lambda m: new_with_evidence(m, TreeHead(0, bytes(32))),
    ),
    (
        "evidence of another log",
        "evidence-log-key",
        lambda m: m.remember(head(5), key=PublicKey(bytes(32))),
    ),
    ("evidence garbage", "evidence-malformed", lambda m: m.evidence.write_text("{")),
    ("evidence empty", "evidence-malformed", lambda m: m.evidence.write_text("")),
    ("no configuration", "config", lambda m: m.config.unlink()),
    ("configuration not TOML", "config", lambda m: m.write_config("=")),
    ("configuration not text", "config", lambda m: m.config.write_bytes(b"\xff")),
    ("no sth-file", "config", lambda m: replace(m.config, "sth-file", "other")),
    ("no [primary]", "config", lambda m: replace(m.config, "[primary]", "[secondary]")),
    ("[primary] no table", "config", lambda m: replace(m.config, "[primary]", "primary = 1\n#")),
    ("no tree-id file", "config", lambda m: replace(m.config, "trillian-tree-id-file", "other")),
    ("no Trillian", "config", lambda m: replace(m.config, "trillian-rpc-server", "other")),
    ("no secondary-url", "half-replicated", lambda m: replace(m.config, "secondary-url", "# ")),
    (
        "no secondary-pubkey-file",
        "half-replicated",
        lambda m: replace(m.config, "secondary-pubkey-file", "# "),
    ),
    (
        "secondary-url empty",
        "half-replicated",
        lambda m: replace(m.config, "http://192.0.2.2:6967/", ""),
    ),
    (
        "half a replication, with a permit to have none",
        "half-replicated",
        steps(lambda m: m.permit(LATER), lambda m: replace(m.config, "secondary-url", "# ")),
    ),
    (
        "secondary-url no string",
        "config",
        lambda m: replace(m.config, '"http://192.0.2.2:6967/"', "7"),
    ),
    (
        "settings of replication outside [primary]",
        "unreplicated",
        steps(
            lambda m: m.go_alone(),
            lambda m: m.config.write_text(
                f'{m.config.read_text()}[secondary]\nsecondary-url = "http://192.0.2.2:6967/"\n'
                'secondary-pubkey-file = "/etc/sigsum/secondary.pub"\n'
            ),
        ),
    ),
    ("alone, no oracle", "unreplicated", lambda m: m.go_alone()),
    (
        "alone, no permit",
        "unreplicated",
        steps(lambda m: m.go_alone(), lambda m: m.permit(None)),
    ),
    (
        "alone, permit ended",
        "unreplicated",
        steps(lambda m: m.go_alone(), lambda m: m.permit(EARLIER)),
    ),
    (
        "alone, the oracle is another log's",
        "config",
        steps(lambda m: m.go_alone(), lambda m: m.permit(LATER, PublicKey(bytes(range(32))))),
    ),
    (
        "alone, the oracle's configuration is not one",
        "config",
        steps(lambda m: m.go_alone(), lambda m: m.permit(LATER, more="more = 1\n")),
    ),
    (
        "alone, the oracle's configuration is not TOML",
        "config",
        steps(lambda m: m.go_alone(), lambda m: m.oracle.write_text("=")),
    ),
    (
        "alone, the oracle is a witness's",
        "unreplicated",
        steps(
            lambda m: m.go_alone(),
            lambda m: m.oracle.write_text(
                f'public_key = "{KEY.ssh}"\n[witness]\norigins = ["a"]\n'
                '[software_key]\nfile = "/etc/sigsum/key"\nlab_only = true\n'
            ),
        ),
    ),
    (
        "alone, the oracle's configuration unreadable",
        "unreadable",
        steps(lambda m: m.go_alone(), lambda m: unreadable(m.oracle)),
    ),
    ("tree-id unreadable", "unreadable", lambda m: unreadable(m.tree_id)),
    ("sth unreadable", "unreadable", lambda m: unreadable(m.sth)),
    ("startup unreadable", "unreadable", lambda m: unreadable(m.startup)),
    ("evidence unreadable", "unreadable", lambda m: unreadable(m.evidence)),
    ("log.pub unreadable", "unreadable", lambda m: unreadable(m.key)),
    ("configuration unreadable", "unreadable", lambda m: unreadable(m.config)),
]


@pytest.mark.parametrize(
    ("reason", "spoil"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusals(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    spoil: Callable[[Machine], object],
) -> None:
    monkeypatch.setattr(guard, "DEFAULT_STATE_DIR", machine.state)
    spoil(machine)
    before = machine.evidence.read_bytes() if machine.evidence.is_file() else None
    result = machine.run(wait=None)  # it must not wait for a no to become a yes
    assert result.exit_code == 1
    assert f"REFUSED ({reason})" in result.message
    assert "docs/bcp/start-refused.md" in result.message
    marker = json.loads(machine.marker.read_bytes())
    assert marker == result.details
    assert marker["reason"] == reason
    assert marker["procedure"] == "docs/bcp/start-refused.md"
    assert metric(machine, "sigsum_guard_refused") == f'{{reason="{reason}"}} 1'
    after = machine.evidence.read_bytes() if machine.evidence.is_file() else None
    assert after == before
    assert machine.said == []


def test_every_reason_has_a_refusal_above() -> None:
    source = Path(guard.__file__).read_text()
    reasons = set(re.findall(r'(?:Refused|refuse|_parse)\(\s*"([a-z-]+)"', source))
    kinds = re.findall(r'= _read_evidence\(\s*"([a-z]+)"', source)
    problems = re.findall(r'f"\{kind\}-([a-z-]+)"', source)
    assert (kinds, problems) == (["evidence", "promotion"], ["malformed", "log-key"])
    reasons |= {f"{kind}-{problem}" for kind in kinds for problem in problems}
    tested = {reason for _, reason, _ in REFUSALS}
    assert len(reasons) > 20
    assert reasons - tested == {"internal-error"}


def test_a_refusal_names_both_tree_heads(machine: Machine) -> None:
    machine.remember(head(7))
    machine.grow(4)
    result = machine.run()
    marker = json.loads(machine.marker.read_bytes())
    assert marker["earlier"] == {
        "size": 5,
        "root_hash": head(5).root.hex(),
        "source": str(machine.sth),
    }
    assert marker["tree"] == {"size": 4, "root_hash": head(4).root.hex()}
    assert marker["tree_id"] == 1
    assert datetime.fromisoformat(marker["time"]).tzinfo == UTC
    for known in (head(5), head(4)):
        assert f"size {known.size}, root {known.root.hex()}" in result.message
    assert metric(machine, "sigsum_guard_proven_size") == "7"


def test_a_refusal_that_cannot_be_recorded_is_still_one(machine: Machine) -> None:
    machine.grow(4)
    machine.marker.mkdir()
    result = machine.run()
    assert result.exit_code == 1
    assert "could not be recorded" in result.message


def test_a_refusal_ends_when_its_cause_does(machine: Machine) -> None:
    machine.grow(4)
    assert machine.run().exit_code == 1
    machine.grow(5)
    assert machine.run().exit_code == 0
    assert not machine.marker.exists()
    assert metric(machine, "sigsum_guard_refused") == "0"


def test_a_bug_is_never_a_pass(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(guard, "judge", broken)
    result = machine.run(wait=None)
    assert result.exit_code == 1
    assert (
        "REFUSED (internal-error): the guard itself failed: RuntimeError: a bug" in result.message
    )
    assert json.loads(machine.marker.read_bytes())["reason"] == "internal-error"
    assert "Traceback" in capfd.readouterr().err


# Cannot tell


def untouched(machine: Machine) -> bool:
    return sorted(path.name for path in machine.state.iterdir()) == ["sth", "tree-id"]


CALLS = ("GetTree", "GetLatestSignedLogRoot", "GetConsistencyProof")


@pytest.mark.parametrize("call", CALLS)
def test_errors_of_trillian_are_no_verdict(machine: Machine, call: str) -> None:
    for code in (code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK):
        if (call, code) in (
            ("GetTree", "NOT_FOUND"),
            ("GetLatestSignedLogRoot", "FAILED_PRECONDITION"),
        ):
            continue  # definite, and tested above

        def fail(method: str, code: str = code) -> None:
            if method == call:
                raise Failure(code, "invalid connection")

        machine.trillian.before = fail
        result = machine.run()
        assert result.exit_code == 75
        assert result.details["outcome"] == "cannot-tell"
        assert "invalid connection" in result.message
        assert untouched(machine)


def test_an_unreadable_database_is_not_a_smaller_tree(machine: Machine) -> None:
    """Trillian answers OK with size 0 when it cannot read its table of tree heads."""
    machine.trillian.root_is_unreadable = True
    assert machine.run().exit_code == 75
    assert untouched(machine)


def test_the_tree_shrinks_between_two_calls(machine: Machine) -> None:
    """A restore under the guard's feet: no proof at first, then the tree is seen to be smaller."""

    def restore(method: str) -> None:
        if method == "GetConsistencyProof":
            machine.grow(4)

    machine.trillian.before = restore
    result = machine.run(wait=5)
    assert "without a consistency proof" in machine.said[0]
    assert result.details["reason"] == "tree-smaller"


def test_no_trillian(machine: Machine) -> None:
    replace(machine.config, machine.trillian.address, "127.0.0.1:1")
    result = machine.run()
    assert result.exit_code == 75
    assert "UNAVAILABLE" in result.message
    assert untouched(machine)


def test_waits_until_trillian_is_back_saying_each_reason_once(machine: Machine) -> None:
    answers = iter(["UNAVAILABLE", "UNKNOWN", "UNKNOWN"])

    def fail(_method: str) -> None:
        if code := next(answers, None):
            raise Failure(code, "starting")

    machine.trillian.before = fail
    assert machine.run(wait=None).exit_code == 0
    assert len(machine.said) == 2
    assert all(line.startswith("cannot tell yet: ") for line in machine.said)


def test_an_exhausted_machine_is_no_verdict(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(guard, "read_if_there", exhausted)
    assert machine.run().exit_code == 75
    assert untouched(machine)


@pytest.mark.parametrize("failing", ["guard-evidence.json", "guard.prom", "guard-refused.json"])
def test_no_start_without_a_record(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(path: Path, *_: object) -> None:
        if path.name == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(guard, "write_durably", full)
    monkeypatch.setattr(guard, "remove_durably", full)
    result = machine.run()
    assert result.exit_code == 75
    assert "No space left" in result.message


# Files


@given(size=st.integers(0, 2**63 - 1), root=st.binary(min_size=32, max_size=32))
def test_evidence_round_trip(size: int, root: bytes) -> None:
    evidence, now = Evidence(TreeHead(size, root), 7, KEY.hash), datetime.now(UTC)
    assert parse_evidence(format_evidence(evidence, now)) == evidence
    assert parse_promotion(format_promotion(evidence, now)) == evidence
    for parse, data in (
        (parse_evidence, format_promotion(evidence, now)),
        (parse_promotion, format_evidence(evidence, now)),
    ):
        with pytest.raises(UsageError, match="keys"):
            parse(data)


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": True},
        {"size": 1.0},
        {"size": "1"},
        {"size": 2**63},
        {"tree_id": None},
        {"root_hash": "00"},
        {"root_hash": 5},
        {"root_hash": "zz" * 32},
        {"extra": 1},
    ],
)
def test_malformed_evidence(machine: Machine, change: dict[str, object]) -> None:
    machine.remember(head(5))
    fields = json.loads(machine.evidence.read_bytes()) | change
    machine.evidence.write_text(json.dumps(fields))
    assert machine.run().details["reason"] == "evidence-malformed"


@pytest.mark.parametrize("text", ["[]", "null", "1", "{}"])
def test_evidence_of_another_form(machine: Machine, text: str) -> None:
    machine.evidence.write_text(text)
    assert machine.run().details["reason"] == "evidence-malformed"


def test_log_go_may_read_what_the_guard_writes(machine: Machine) -> None:
    machine.run()
    assert machine.evidence.stat().st_mode & 0o777 == 0o644
    assert machine.metrics.stat().st_mode & 0o777 == 0o644


def test_deleted_is_part_of_a_trees_description() -> None:
    assert "marked as deleted" in Tree(1, "LOG", "ACTIVE", "a", deleted=True).described


# The command


def command(machine: Machine, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        cli.app,
        [
            "guard",
            f"--config={machine.config}",
            f"--log-key={machine.key}",
            "--wait=0",
            *arguments,
        ],
    )
    return result.exit_code, result.stdout, result.stderr


def test_command_exit_codes(machine: Machine) -> None:
    code, stdout, stderr = command(machine)
    assert (code, stdout) == (0, "")
    assert stderr.startswith("proven: tree 1 ")
    machine.trillian.root_is_unreadable = True
    code, stdout, stderr = command(machine)
    assert (code, stdout) == (75, "")
    assert "cannot tell yet: " in stderr
    machine.trillian.root_is_unreadable = False
    machine.grow(3)
    code, stdout, stderr = command(machine)
    assert (code, stdout) == (1, "")
    assert "REFUSED (tree-smaller)" in stderr


def test_command_json(machine: Machine) -> None:
    code, stdout, _ = command(machine, "--json")
    assert code == 0
    assert json.loads(stdout) == {
        "outcome": "proven",
        "tree_id": 1,
        "tree": {"size": 12, "root_hash": head(12).root.hex()},
    }
    machine.grow(3)
    code, stdout, _ = command(machine, "--json")
    assert code == 1
    assert json.loads(stdout)["reason"] == "tree-smaller"


def test_command_takes_the_oracles_configuration(machine: Machine) -> None:
    machine.go_alone()
    machine.permit(LATER)
    assert command(machine, f"--oracle={machine.oracle}")[0] == 0
    machine.permit(EARLIER)
    code, _, stderr = command(machine, f"--oracle={machine.oracle}")
    assert (code, "REFUSED (unreplicated)" in stderr) == (1, True)


def test_command_help_teaches() -> None:
    text = CliRunner().invoke(cli.app, ["guard", "--help"]).stdout
    for word in (
        "--oracle",
        "Exit 0, proven",
        "Exit 75, cannot tell",
        "Exit 1, refused",
        "Example:",
    ):
        assert word in text
