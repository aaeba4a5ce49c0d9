"""What docs/ceremonies/custody.md has people type restores an oracle, with Debian's own client."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sigsum_ops.hsm import plan as plans
from sigsum_ops.hsm.device import Device
from sigsum_ops.hsm.rehearsal import serve
from tests.hsm.ceremony.table import HEX, PLAN, SHARES, Table

PAGES = Path(__file__).parents[3] / "docs/ceremonies"
CUSTODY, ROUTINE = PAGES / "custody.md", PAGES / "routine-checks.md"
NEW = 90000009
MISSING = [name for name in ("yubihsm-shell", "openssl") if shutil.which(name) is None]


def _blocks(page: Path) -> list[str]:
    return [
        textwrap.dedent(block).strip()
        for block in re.findall(r"^ *```\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    ]


def test_the_page_has_what_is_tried_here() -> None:
    starts = (
        *("umask", "umask", "for name", "connect", "connect", "delete 0 400", "sigsum-ops"),
        "openssl",
    )
    assert [
        block.startswith(start) for block, start in zip(_blocks(CUSTODY), starts, strict=True)
    ] == [True] * len(starts)


@dataclass(frozen=True)
class Case:
    """A plan, and what in the page is to be said otherwise for its oracle."""

    backup: str = HEX
    generation: str = "new"
    oracle: str = "log-1"
    instead: tuple[tuple[str, str], ...] = ()


CASES = {
    "hex": Case(),
    "shares": Case(backup=SHARES),
    "established": Case(generation="established"),
    "witness": Case(
        oracle="witness-1",
        instead=(
            ('200 "Logsrv authentication" 10', '300 "Witness authentication" 11'),
            ("500", "600"),
            ("log-authentication", "witness-authentication"),
            ("log-signing", "witness-signing"),
            ("in log", "in witness"),
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)}: Debian has packages of them"
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_oracle_is_restored_as_the_page_says(memory: Path, case: Case) -> None:
    text = PLAN.format(generation=case.generation, backup=case.backup, more="")
    text += "  - {name: witness-1, role: witness-oracle, serial: 90000004}\n"
    table = Table(memory, plans.loads(text, "test"))
    (planned,) = (device for device in table.plan.devices if device.name == case.oracle)
    opened, mounted = memory / "open", memory / "mounted"
    mounted.mkdir()
    # One medium, or as many as the threshold.
    for number, medium in enumerate(table.media[: 1 if case.backup == HEX else 2], 1):
        (mounted / str(number)).symlink_to(medium)

    def said(block: str) -> str:
        for theirs, ours in (
            *case.instead,
            ("/dev/shm/open", str(opened)),
            ("/media", str(mounted)),
            ("log-north", case.oracle),
            ("backup-safe", "backup-1"),
        ):
            block = block.replace(theirs, ours)
        if case.generation == "established":
            lines = [
                line for line in block.splitlines() if not re.search("audit|health", line, re.I)
            ]
            block = "\n".join(lines)
        return block

    def typed(block: str, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=opened if opened.exists() else memory,
            input=block,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        everything = done.stdout + done.stderr
        assert done.returncode == 0, everything
        assert not re.search(r"fail|invalid|error|unable", everything, re.I), everything
        return done.stdout

    def ours(block: str, connector: str) -> str:
        words = shlex.split(block.replace("\\\n", " "))[1:]
        return typed("", sys.executable, "-m", "sigsum_ops.cli", *words, "--connector", connector)

    from_hex, from_shares, passphrases, export, provision, lock, status, health = _blocks(CUSTODY)
    yearly = next(block for block in _blocks(ROUTINE) if "status backup-safe" in block)
    if case.generation == "established":
        passphrases = passphrases.replace(" audit health", "")
        status = f"{status.splitlines()[0]}".rstrip("\\")
    with table.devices() as urls, serve({NEW: memory / "devices"}) as new:
        table.perform(list(urls.values()), resume=False)
        typed(said(from_hex if case.backup == HEX else from_shares), "bash", "-e")
        typed(said(passphrases), "bash", "-e")
        backup = typed(said(export), "yubihsm-shell", "-C", urls[90000001])
        restored = typed(said(f"{provision}\n{lock}"), "yubihsm-shell", "-C", new[NEW])
        public = re.compile(r"-----BEGIN PUBLIC KEY-----.*-----END PUBLIC KEY-----", re.S)
        assert public.findall(restored) == public.findall(backup) != []
        assert f"Found {4 if case.generation == 'established' else 7} object(s)" in restored
        (opened / "PLAN").write_text(text.replace(str(planned.serial), str(NEW)))
        assert "As planned" in ours(said(status), new[NEW])
        assert "As planned" in ours(said(yearly), urls[90000001])
        if case.generation == "new":
            pem = (opened / "health-key.pem").read_bytes()
            key = load_pem_public_key(pem)
            assert isinstance(key, Ed25519PublicKey)
            assert typed(said(health), "bash", "-e") == key.public_bytes_raw().hex()
        with Device(new[NEW]) as device:
            secret = (opened / "backup-authentication.hex").read_bytes().strip()
            assert not device.opens(100, secret)
    # What the passphrases do not show.
    kept = json.loads((memory / "devices" / f"{NEW}.json").read_text())
    assert {(each["type"], each["id"]) for each in kept["objects"]} == {
        (spec.type, spec.id) for spec in table.plan.specs(planned)
    }
    assert dict(kept["command_audit"]) == dict(planned.command_audit)
