"""A whole ceremony on rehearsal devices, by the command line, and what comes out of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from sigsum_ops.hsm import plan as plans
from sigsum_ops.hsm.ceremony import records, report
from sigsum_ops.hsm.ceremony.media import combine
from sigsum_ops.hsm.ceremony.rehearse import for_rehearsal, rehearse
from sigsum_ops.hsm.ceremony.words import words
from sigsum_ops.hsm.identity import REHEARSAL_SERIALS
from sigsum_ops.hsm.plan import DevicePlan
from sigsum_ops.hsm.rehearsal.state import State
from sigsum_ops.log.keys import PublicKey
from tests.hsm.ceremony.table import HEX, PLAN, SHARES, People, Table, small_plan

ROOT = Path(__file__).parents[3]
LAB_PLAN = ROOT / "inventories/lab/hsm-plan.yml"
HEALTH_KEY = 900
SECONDS = 60


def ceremony(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sigsum_ops.cli", "ceremony", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's site, rehearsed as an operator does it."""
    out = tmp_path_factory.mktemp("ceremony") / "rehearsal"
    before = time.monotonic()
    done = ceremony("rehearse", "--plan", LAB_PLAN, "--out", out, "--json")
    seconds = time.monotonic() - before
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["mode"] == "rehearsal"
    assert Path(result["transcript"]) == out / "transcript.jsonl"
    assert seconds < SECONDS
    return out


def test_the_labs_rehearsal_verifies(rehearsed: Path) -> None:
    arguments: list[str | Path] = [
        "--allowed-signers",
        rehearsed / "allowed_signers",
        "--plan",
        LAB_PLAN,
    ]
    done = ceremony("verify", rehearsed / "transcript.jsonl", *arguments, "--rehearsal", "--json")
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["ok"]) == (0, True), verdict
    assert {claim["rests_on"] for claim in verdict["claims"]} == {"device", "people"}
    assert sorted(verdict["public_keys"]) == ["log-signing-key", "witness-signing-key"]
    for name, line in verdict["public_keys"].items():
        told = f"{name} has the public key {PublicKey.from_ssh(line).hex} on "
        assert any(claim["claim"].startswith(told) for claim in verdict["claims"])
    assert sorted(verdict["device_keys"]) == ["log1", "log2", "witness1"]
    for device in plans.load(LAB_PLAN).devices:
        if device.name in verdict["device_keys"]:
            memory = rehearsed / "devices" / f"{device.serial}.json"
            held = {item.id: item for item in State.from_json(memory.read_bytes()).store}
            (line,) = verdict["device_keys"][device.name].values()
            assert held[HEALTH_KEY].body.endswith(PublicKey.from_ssh(line).raw)
    # It is no production, and without the list of signers it is nobody's.
    assert ceremony("verify", rehearsed / "transcript.jsonl", *arguments).returncode == 1
    alone = ceremony("verify", rehearsed / "transcript.jsonl", "--rehearsal")
    assert alone.returncode == 1
    assert "self-consistent only" in alone.stdout


def test_it_can_be_verified_from_a_copy_elsewhere(rehearsed: Path, tmp_path: Path) -> None:
    for name in ("transcript.jsonl", "allowed_signers"):
        (tmp_path / name).write_bytes((rehearsed / name).read_bytes())
    (tmp_path / "signatures").mkdir()
    for signature in (rehearsed / "signatures").iterdir():
        (tmp_path / "signatures" / signature.name).write_bytes(signature.read_bytes())
    done = ceremony(
        "verify",
        tmp_path / "transcript.jsonl",
        "--allowed-signers",
        tmp_path / "allowed_signers",
        "--rehearsal",
    )
    assert done.returncode == 0, done.stdout


def test_the_report_is_a_page_and_a_document(rehearsed: Path, tmp_path: Path) -> None:
    done = ceremony(
        "report",
        rehearsed / "transcript.jsonl",
        "--allowed-signers",
        rehearsed / "allowed_signers",
        "--rehearsal",
        "--out",
        tmp_path,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "REHEARSAL" in page
    assert "The transcript verifies." in page
    head = json.loads(
        ceremony("verify", rehearsed / "transcript.jsonl", "--rehearsal", "--json").stdout
    )["head"]
    assert " ".join(words(bytes.fromhex(head))[:4]) in page
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_a_rehearsal_begins_in_an_empty_directory_only(rehearsed: Path) -> None:
    before = (rehearsed / "transcript.jsonl").read_bytes()
    done = ceremony("rehearse", "--plan", LAB_PLAN, "--out", rehearsed)
    assert done.returncode == 2
    assert "holds a transcript already" in done.stderr
    assert (rehearsed / "transcript.jsonl").read_bytes() == before


@pytest.mark.parametrize("generation", ["established", "new"])
def test_devices_hold_the_plan_and_nothing_else(memory: Path, generation: str) -> None:
    table = Table(memory, small_plan(generation))
    with table.devices() as urls:
        table.perform(list(urls.values()), resume=False)
        assert table.holdings(urls) == table.planned()
    verdict = table.verdict()
    assert verdict.ok, verdict
    keys: dict[str, set[str]] = {}
    for record in table.records():
        if isinstance(record, records.PublicKey):
            keys.setdefault(record.object, set()).add(record.key)
    assert len(keys["log-signing-key"]) == 1


def test_every_log_audit_and_forced_audit_option(memory: Path) -> None:
    more = ", forced_audit: true, command_audit: {sign-eddsa: fixed, delete-object: on}"
    table = Table(memory, small_plan(more=more))
    with table.devices() as urls:
        table.perform(list(urls.values()), resume=False)
    assert table.verdict().ok, table.verdict()
    final = table.read_backs()[90000003]
    assert final.force_audit == 1
    assert final.command_audit["sign-eddsa"] == 2


class Socket(BaseHTTPRequestHandler):
    """One connector, with whatever device ``device`` says plugged into it."""

    device = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with urlopen(Request(self.device + self.path, data=body), timeout=5) as answer:  # noqa: S310
            frame = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(frame)))
        self.end_headers()
        self.wfile.write(frame)

    def log_message(self, *_: object) -> None:
        pass


def test_one_device_after_the_other_at_one_connector(memory: Path) -> None:
    table = Table(memory, small_plan())
    swaps: list[str] = []
    with table.devices() as urls, HTTPServer(("127.0.0.1", 0), Socket) as server:

        class Swapper(People):
            def bring(self, device: DevicePlan, _found: Sequence[str]) -> None:
                swaps.append(device.name)
                Socket.device = urls[device.serial]

        Socket.device = urls[90000003]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            connectors = [f"http://127.0.0.1:{server.server_address[1]}"]
            table.perform(connectors, Swapper(), resume=False)
        finally:
            server.shutdown()
            thread.join()
    assert table.verdict().ok, table.verdict()
    # Each device is taken in hand once: what is cloned waits in memory.
    assert swaps == ["backup-1", "backup-2", "log-1"]


def test_a_step_that_is_longer_than_the_devices_log(memory: Path) -> None:
    """It holds 62 entries, so it is fetched in between."""
    logged = ("put-authentication-key", "get-object-info", "list-objects", "get-pseudo-random")
    users = [f"user-{n}" for n in range(16)]
    more = (
        f", objects: [log-signing-key, {', '.join(users)}]"
        f", command_audit: {{{', '.join(f'{name}: on' for name in logged)}}}"
    )
    spec = "type: authentication-key, algorithm: aes128-yubico-authentication, domains: [10]"
    objects = "".join(
        f"  {name}: {{id: {n}, {spec}, label: {name}, capabilities: [sign-eddsa]}}\n"
        for n, name in enumerate(users, 1000)
    )
    text = PLAN.format(generation="new", backup=HEX, more=more) + f"objects:\n{objects}"
    table = Table(memory, plans.loads(text, "test"))
    with table.devices() as urls:
        table.perform(list(urls.values()), resume=False)
    assert table.verdict().ok, table.verdict()


def test_shares_restore_the_secrets(memory: Path) -> None:
    table = Table(memory, small_plan(backup=SHARES))
    with table.devices() as urls:
        table.perform(list(urls.values()), resume=False)
        assert table.verdict().ok, table.verdict()
        shares = [
            next(medium.rglob("backup-authentication.share-*.txt")).read_text().strip()
            for medium in table.media
        ]
        assert len(set(shares)) == 3
        from sigsum_ops.hsm.device import Device

        for pair in (shares[:2], shares[1:], shares[::2]):
            with combine(pair).hexadecimal() as passphrase, Device(urls[90000001]) as device:
                assert device.opens(100, passphrase)


def test_a_plan_of_real_devices_is_rehearsed_as_a_copy(tmp_path: Path) -> None:
    real = plans.load(ROOT / "inventories/example/hsm-plan.yml")
    copy = for_rehearsal(real)
    assert all(device.serial in REHEARSAL_SERIALS for device in copy.devices)
    assert [d.name for d in copy.devices] == [d.name for d in real.devices]
    people = People()
    rehearse(real, tmp_path / "out", people)
    assert plans.load(tmp_path / "out/plan.json") == copy
    arguments = [f"--allowed-signers={tmp_path}/out/allowed_signers"]
    arguments += [f"--plan={tmp_path}/out/plan.json", "--rehearsal"]
    done = ceremony("verify", tmp_path / "out/transcript.jsonl", *arguments)
    assert done.returncode == 0, done.stdout


def test_the_report_of_what_does_not_verify_says_so(rehearsed: Path, tmp_path: Path) -> None:
    from sigsum_ops.hsm.ceremony.verify import verify

    verdict = verify(
        rehearsed / "transcript.jsonl", allowed_signers=None, plan=None, rehearsal=True
    )
    built = report.build(rehearsed / "transcript.jsonl", verdict)
    assert "does NOT verify: self-consistent only" in report.html(built)
    report.write(built, tmp_path)
