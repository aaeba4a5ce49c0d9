"""Who may come in by ssh: what an inventory may say; ssh-keygen makes the keys."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sigsum_ops.edge.access import is_key, problems

# As OpenSSH prints one of a token of hardware (PROTOCOL.u2f: type, point, application).
SK = (
    "sk-ssh-ed25519@openssh.com"
    " AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAILc/WLSm0fYeDzCvcr3s"
    "TI1aZkOwqX7ZGFNjPcT7vLZVAAAABHNzaDo= alice@token"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Public keys by their kind."""
    directory = tmp_path_factory.mktemp("keys")
    for name, kind in (("one", "ed25519"), ("two", "ed25519"), ("rsa", "rsa"), ("nist", "ecdsa")):
        command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"{name} key", "-f", name]
        subprocess.run(command, cwd=directory, check=True)
    return {path.stem: path.read_text().strip() for path in Path(directory).glob("*.pub")}


def test_keys(keys: dict[str, str]) -> None:
    assert is_key(keys["one"])
    assert is_key(SK)
    kind, blob, _ = keys["one"].split(" ", 2)
    assert is_key(f"{kind} {blob}")
    for wrong in (
        keys["rsa"],
        keys["nist"],
        blob,
        f"{kind} {blob[:-8]}",
        f"{kind} {keys['rsa'].split()[1]}",
        f'command="true" {keys["one"]}',
        f"{keys['one']}\n{keys['two']}",
        f"{kind} not-base64!",
        "",
        None,
        7,
    ):
        assert not is_key(wrong), wrong


def test_operators_that_can_be_right(keys: dict[str, str]) -> None:
    operators = {"root": {"keys": [keys["one"]]}, "alice": {"keys": [keys["two"], SK]}}
    assert list(problems({"ssh_access_operators": operators})) == []
    for user in ("root", "alice", "", None):
        assert not list(problems({"ssh_access_operators": operators, "ansible_user": user}))
    host_key = {"ssh_access_host_key": keys["one"]}
    assert not list(problems({"ssh_access_operators": operators, **host_key}))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ssh_access_operators": {}}, "is {}"),
        ({"ssh_access_operators": ["alice"]}, "is ['alice']"),
        ({"alice": None}, "has None for alice"),
        ({"alice": {"keys": []}}, "has no keys for alice"),
        ({"alice": {"keys": "ONE"}}, "has no keys for alice"),
        ({"alice": {"keys": ["RSA"]}}, "for alice"),
        ({"alice": {"keys": ["TWO"], "sodu": False}}, "sodu"),
        ({"alice": {"keys": ["TWO"], "sudo": "no"}}, "has sudo: 'no' for alice"),
        ({"alice": {"keys": ["ONE"]}}, "has one key twice"),
        ({"Alice": {"keys": ["TWO"]}}, "has 'Alice'"),
        ({"a b": {"keys": ["TWO"]}}, "has 'a b'"),
        ({"sigsum-log": {"keys": ["TWO"]}}, "has 'sigsum-log'"),
        ({"ansible_user": "carol"}, "is without carol"),
        ({"ansible_user": "bob"}, "no sudo"),
        ({"ssh_access_host_key": "RSA"}, "ssh_access_host_key is"),
        ({"ssh_access_host_key": SK}, "ssh_access_host_key is"),
    ],
)
def test_operators_that_cannot_be_right(
    keys: dict[str, str], changed: dict[str, object], says: str
) -> None:
    def put(value: object) -> object:
        """The key in the place of its name."""
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        if isinstance(value, list):
            return [put(each) for each in value]
        return keys.get(str(value).lower(), value) if isinstance(value, str) else value

    three = SK.replace("LSm0", "LSn0")
    operators: dict[str, object] = {
        "root": {"keys": ["ONE"]},
        "bob": {"keys": [three], "sudo": False},
    }
    settings = {"ssh_access_operators", "ssh_access_host_key", "ansible_user"}
    operators |= {name: its for name, its in changed.items() if name not in settings}
    variables: dict[str, object] = {"ssh_access_operators": operators}
    variables |= {name: its for name, its in changed.items() if name in settings}
    found = list(problems({name: put(value) for name, value in variables.items()}))
    assert len(found) == 1, found
    setting, wrong, allowed = found[0]
    assert says in f"{setting} {wrong}. Allowed: {allowed}."
