"""Whether a tree head has the cosignatures that a policy wants: each verified, and none assumed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.edge import quorum
from sigsum_ops.edge.quorum import judge
from sigsum_ops.log.keys import BadSignature, public_key_of
from sigsum_ops.log.policy import build, parse
from sigsum_ops.log.treehead import (
    Cosignature,
    CosignedTreeHead,
    SignedTreeHead,
    TreeHead,
    cosignature_message,
    log_origin,
    parse_cosignature_message,
)

LOG, *WITNESSES = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(4))
LOG_KEY = public_key_of(LOG)
HEAD = TreeHead(7, bytes(range(32)))
NOW = 1790000000


def policy_text(threshold: int) -> str:
    witnesses = {
        f"w{number}": {"key": public_key_of(key).hex} for number, key in enumerate(WITNESSES)
    }
    group = {"threshold": threshold, "members": list(witnesses)}
    setting = {"witnesses": witnesses, "groups": {"g": group}, "quorum": "g"}
    return build(setting, (LOG_KEY, "http://log.invalid/"))


def cosignature(number: int, head: TreeHead = HEAD, at: int = NOW) -> Cosignature:
    key = WITNESSES[number]
    message = cosignature_message(log_origin(LOG_KEY), at, head)
    return Cosignature(public_key_of(key).hash, at, key.sign(message))


def answer(*cosignatures: Cosignature) -> CosignedTreeHead:
    return CosignedTreeHead(
        SignedTreeHead(HEAD, LOG.sign(HEAD.checkpoint(LOG_KEY))), tuple(cosignatures)
    )


@pytest.mark.parametrize(("there", "ok"), [((), False), ((0,), False), ((0, 2), True)])
def test_two_of_three(there: tuple[int, ...], ok: bool) -> None:
    judged = judge(parse(policy_text(2).encode()), LOG_KEY, answer(*map(cosignature, there)))
    assert judged.ok == ok
    assert [name for name, at in judged.cosigned.items() if at] == [f"w{n}" for n in there]


def test_what_is_not_by_the_key_or_of_another_tree_head_does_not_count() -> None:
    other = cosignature(1, TreeHead(7, bytes(32)))
    forged = Cosignature(public_key_of(WITNESSES[2]).hash, NOW, bytes(64))
    moved = Cosignature(cosignature(0).key_hash, NOW + 1, cosignature(0).signature)
    judged = judge(parse(policy_text(1).encode()), LOG_KEY, answer(other, forged, moved))
    assert not judged.ok
    assert set(judged.cosigned.values()) == {None}


def test_old_ones_do_not_count_where_new_ones_are_wanted() -> None:
    wanted = parse(policy_text(1).encode())
    assert not judge(wanted, LOG_KEY, answer(cosignature(0)), since=NOW + 1).ok
    assert judge(wanted, LOG_KEY, answer(cosignature(0)), since=NOW).ok


def test_what_the_log_has_not_signed_is_an_error() -> None:
    forged = CosignedTreeHead(SignedTreeHead(HEAD, bytes(64)), (cosignature(0),))
    with pytest.raises(BadSignature):
        judge(parse(policy_text(1).encode()), LOG_KEY, forged)


def test_the_message_is_the_one_that_is_parsed() -> None:
    message = cosignature_message("example.org/log", NOW, HEAD)
    parsed = parse_cosignature_message(message, {"example.org/log"})
    assert (parsed.timestamp, parsed.head) == (NOW, HEAD)


def served(*answers: CosignedTreeHead) -> TestServer:
    """A log that gives these answers, the last of them again and again."""
    left = list(answers)

    async def get(_: web.Request) -> web.Response:
        head = left.pop(0) if len(left) > 1 else left[0]
        lines = [
            f"size={head.signed.head.size}",
            f"root_hash={head.signed.head.root.hex()}",
            f"signature={head.signed.signature.hex()}",
            *(
                f"cosignature={c.key_hash} {c.timestamp} {c.signature.hex()}"
                for c in head.cosignatures
            ),
        ]
        return web.Response(text="".join(f"{line}\n" for line in lines))

    application = web.Application()
    application.router.add_get("/get-tree-head", get)
    return TestServer(application)


async def test_a_quorum_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "AGAIN", 0.01)
    future = [cosignature(n, at=NOW * 2) for n in range(3)]
    wanted = parse(policy_text(2).encode())
    async with served(answer(*map(cosignature, range(3))), answer(future[0]), answer(*future)) as s:
        judged = await quorum._look(wanted, LOG_KEY, str(s.make_url("/")), 20)
    assert judged.ok
    assert set(judged.cosigned.values()) == {NOW * 2}


async def test_the_command(tmp_path: Path) -> None:
    file, key = tmp_path / "policy", tmp_path / "log.pub"
    file.write_text(policy_text(2))
    key.write_text(LOG_KEY.ssh)

    async def command(*arguments: str) -> tuple[int, str]:
        url = f"--url={log.make_url('/')}"
        done = await asyncio.to_thread(
            CliRunner().invoke, app, ["policy", "check", str(file), url, *arguments]
        )
        return done.exit_code, done.output

    async with served(answer(cosignature(1))) as log:
        code, said = await command()
        assert code == 1
        assert "w0 has not cosigned it" in said
        assert "w1 cosigned it at 2026-09-21" in said
        assert "no quorum, which takes 2" in said
    async with served(answer(cosignature(1), cosignature(2))) as log:
        code, said = await command("--json", f"--log-key={key}")
        assert code == 0
        cosigned = {"w0": None, "w1": NOW, "w2": NOW}
        assert json.loads(said) == {"ok": True, "size": 7, "cosigned": cosigned}


def test_a_policy_without_its_log_says_what_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_text("quorum none\n")
    done = CliRunner().invoke(app, ["policy", "check", str(file)])
    assert done.exit_code != 0
    assert "log line" in str(done.exception)
