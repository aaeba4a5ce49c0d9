"""dns check, against name servers that answer over sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.edge import dns as edge_dns
from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import PublicKey

KEY, OTHER = PublicKey(bytes(range(32))), PublicKey(bytes(32))
NAME = "_sigsum_v1.example.org"


def run(*arguments: str) -> tuple[int, dict]:  # type: ignore[type-arg]
    done = CliRunner().invoke(app, ["dns", "check", "example.org", "--only", "--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, json.loads(done.stdout)


def test_a_key_is_found_with_its_ttl(serve: Callable) -> None:  # type: ignore[type-arg]
    server = serve(f"_sigsum_v1 300 TXT {KEY.hex}")
    code, report = run("--resolver", str(server))
    assert (code, report["problems"]) == (0, [])
    [seen] = report["servers"]
    assert (seen["keys"], seen["ttl"], seen["name"]) == ([KEY.hex], 300, NAME)
    assert server.asked == [NAME], "a log asks for nothing else either"


def test_several_keys_are_several_records(serve: Callable) -> None:  # type: ignore[type-arg]
    server = serve(f"_sigsum_v1 60 TXT {KEY.hex}\n_sigsum_v1 60 TXT {OTHER.hex}")
    code, report = run("--resolver", str(server))
    assert code == 0
    assert set(report["servers"][0]["keys"]) == {KEY.hex, OTHER.hex}


def test_an_alias_is_followed(serve: Callable) -> None:  # type: ignore[type-arg]
    server = serve(f"_sigsum_v1 60 CNAME keys\nkeys 60 TXT {KEY.hex}")
    assert run("--resolver", str(server))[1]["servers"][0]["keys"] == [KEY.hex]


def test_the_fallback_works_and_is_said(serve: Callable) -> None:  # type: ignore[type-arg]
    server = serve(f"_sigsum_v0 60 TXT {KEY.hex}")
    code, report = run("--resolver", str(server))
    assert report["servers"][0]["keys"] == [KEY.hex]
    assert code == 1
    assert "works still" in report["problems"][0]


@pytest.mark.parametrize(
    "owner", ["_sigsum", "@", "_sigsum_v1.example.org"], ids=["old label", "no label", "twice"]
)
def test_a_key_where_no_log_looks(serve: Callable, owner: str) -> None:  # type: ignore[type-arg]
    code, report = run("--resolver", str(serve(f"{owner} 60 TXT {KEY.hex}")))
    assert code == 1
    assert report["servers"][0]["keys"] == []
    assert f"move it to {NAME}" in report["problems"][1]


def test_servers_that_differ_are_told_apart(serve: Callable) -> None:  # type: ignore[type-arg]
    new, old = serve(f"_sigsum_v1 60 TXT {KEY.hex}"), serve("")
    code, report = run("--resolver", str(new), "--resolver", str(old))
    assert code == 1
    assert [len(view["keys"]) for view in report["servers"]] == [1, 0]
    assert "has no TXT record" in report["problems"][0]


def test_the_key_that_is_meant_must_be_there(serve: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    server, file = serve(f"_sigsum_v1 60 TXT {KEY.hex}"), tmp_path / "key.pub"
    file.write_text(f"{KEY.ssh}\n")
    assert run("--resolver", str(server), "--key", str(file))[0] == 0
    file.write_text(f"{OTHER.ssh}\n")
    code, report = run("--resolver", str(server), "--key", str(file))
    assert code == 1
    assert OTHER.hex in report["problems"][0]


def test_a_log_tries_ten_keys(serve: Callable) -> None:  # type: ignore[type-arg]
    zone = "\n".join(f"_sigsum_v1 60 TXT {bytes([n] * 32).hex()}" for n in range(11))
    code, report = run("--resolver", str(serve(zone)))
    assert len(report["servers"][0]["keys"]) == 10
    assert code == 1
    assert "11 records" in report["problems"][0]


def test_a_broken_signature_is_a_failure_of_the_resolver(serve: Callable) -> None:  # type: ignore[type-arg]
    server = serve("", rcodes={NAME: dns.rcode.SERVFAIL})
    code, report = run("--resolver", str(server))
    assert code == 1
    assert "DNSSEC" in report["problems"][0]
    assert server.asked == [NAME], "a log asks for the fallback only where there is nothing"


def test_the_zones_own_servers_are_asked(
    serve: Callable,  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = serve(f"_sigsum_v1 60 TXT {KEY.hex}")
    stale = serve("ns 60 A 127.0.0.1")
    _of_the_zone(monkeypatch, stale, own)
    done = CliRunner().invoke(app, ["dns", "check", "log.example.org", "--json"])
    report = json.loads(done.stdout)
    assert [view["recursive"] for view in report["servers"]] == [True, False]
    assert report["servers"][1]["server"].startswith("ns.example.org.")


def test_a_zones_server_that_leads_elsewhere_is_not_blamed(
    serve: Callable,  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An alias out of the zone: its own server knows no more, and a log finds the key."""
    own = serve("_sigsum_v1 60 CNAME keys.example.net.")
    found = serve(f"_sigsum_v1 60 TXT {KEY.hex}\nns 60 A 127.0.0.1")
    _of_the_zone(monkeypatch, found, own)
    done = CliRunner().invoke(app, ["dns", "check", "example.org", "--json"])
    report = json.loads(done.stdout)
    assert [view["status"] for view in report["servers"]] == ["found", "leads elsewhere"]
    assert (done.exit_code, report["problems"]) == (0, [])


def test_a_zone_that_does_not_validate_has_its_own_servers_and_not_its_parents(
    serve: Callable,  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = serve("")
    failing = dict.fromkeys((NAME, "example.org"), dns.rcode.SERVFAIL)
    _of_the_zone(monkeypatch, serve("", rcodes=failing), own)
    done = CliRunner().invoke(app, ["dns", "check", "example.org", "--json"])
    assert [view["status"] for view in json.loads(done.stdout)["servers"]] == ["SERVFAIL"]


def _of_the_zone(monkeypatch: pytest.MonkeyPatch, resolver: object, own: Any) -> None:
    """Have one server for this machine's resolver, and another for the zone's own."""
    monkeypatch.setattr(edge_dns, "system", lambda: [edge_dns.server(str(resolver))])
    made = edge_dns.Server

    def at_port(name: str, address: str, port: int = 53, recursive: bool = True) -> edge_dns.Server:
        return made(name, address, port if recursive else own.port, recursive)

    monkeypatch.setattr(edge_dns, "Server", at_port)


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = run("--resolver", "127.0.0.1#1")
    assert code == 1
    assert "no answer" in report["problems"][0]
    monkeypatch.setattr(edge_dns, "_ask", _no_way)
    code, report = run("--resolver", "2001:db8::1")
    assert report["problems"] == ["no server can be reached from here"]


async def _no_way(_of: edge_dns.Server, name: str) -> edge_dns.Answer:
    return edge_dns.Answer(name, edge_dns.NO_WAY)


@pytest.mark.parametrize("text", ["ns.example.org", "192.0.2.1#0", "192.0.2.1#x", "192.0.2.1:53"])
def test_what_is_no_resolver_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        edge_dns.server(text)


def test_lines_for_a_person(serve: Callable) -> None:  # type: ignore[type-arg]
    server = serve(f"_sigsum_v1 300 TXT {KEY.hex}")
    arguments = ["dns", "check", "example.org", "--only", "--resolver", str(server)]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines == [
        "127.0.0.1: 1 key(s), kept for 300 s",
        f"    {KEY.hex}",
        "every server gives a log the key of example.org",
    ]


def test_record_prints_what_belongs_in_the_zone(tmp_path: Path) -> None:
    file = tmp_path / "key.pub"
    file.write_text(f"{KEY.ssh} tokens\n")
    done = CliRunner().invoke(app, ["dns", "record", str(file), "--domain", "example.org"])
    assert done.stdout == f'{NAME}. IN TXT "{KEY.hex}"\n'
