"""Who may come in by ssh: what the settings of the role ``ssh_access`` may say."""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterator, Mapping

OPERATORS = "ssh_access_operators"
HOST_KEY = "ssh_access_host_key"
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}", re.ASCII)
# Of whom there is an account already, with another purpose.
_TAKEN = re.compile(r"sigsum-.*|trillian|unbound|litebastion|litewitness|mysql|nobody|daemon|_.*")
_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com")
_FIELDS = {"keys", "sudo"}

Wrong = tuple[str, str, str]


def problems(variables: Mapping[str, object]) -> Iterator[Wrong]:
    """What is wrong, each as setting, what was found, and what is allowed.

    Args:
        variables: of one machine, which has ``ssh_access_operators``.
    """
    operators = variables.get(OPERATORS)
    allowed = "operators by their account's name, each with keys"
    if not isinstance(operators, dict) or not operators:
        yield OPERATORS, f"is {operators!r}", allowed
        return
    keys: Counter[str] = Counter()
    for name, operator in operators.items():
        if not _NAME.fullmatch(str(name)) or _TAKEN.fullmatch(str(name)):
            yield OPERATORS, f"has {name!r}", "an account's name that nothing else has"
        if not isinstance(operator, dict) or not set(operator) <= _FIELDS:
            yield OPERATORS, f"has {operator!r} for {name}", "keys, and sudo: false"
            continue
        given = operator.get("keys")
        if not isinstance(given, list) or not given:
            yield OPERATORS, f"has no keys for {name}", "a list of ssh public keys"
            continue
        for key in given:
            if is_key(key):
                keys[str(key).split()[1]] += 1
            else:
                yield OPERATORS, f"has {key!r} for {name}", f"lines of a .pub file: {_TYPES}"
        if not isinstance(operator.get("sudo", True), bool):
            yield OPERATORS, f"has sudo: {operator['sudo']!r} for {name}", "true, false"
    if shared := [key for key, number in keys.items() if number > 1]:
        found = f"has one key twice ({', '.join(shared)})"
        yield OPERATORS, found, "keys by which each operator can be told from the others"
    yield from _comes_back(operators, variables.get("ansible_user"))
    host_key = variables.get(HOST_KEY)
    if host_key and not (is_key(host_key) and str(host_key).startswith("ssh-ed25519 ")):
        yield HOST_KEY, f"is {host_key!r}", "the line of /etc/ssh/ssh_host_ed25519_key.pub"


def _comes_back(operators: Mapping[str, object], user: object) -> Iterator[Wrong]:
    """Whether whoever converges the machine may converge it again."""
    if not user:
        return
    its = operators.get(str(user))
    allowed = f"ansible_user ({user}) among them, with sudo"
    if its is None:
        yield OPERATORS, f"is without {user}, as whom this machine is converged", allowed
    elif user != "root" and isinstance(its, dict) and its.get("sudo", True) is False:
        yield OPERATORS, f"gives {user}, as whom this machine is converged, no sudo", allowed


def is_key(line: object) -> bool:
    """Whether a line is an Ed25519 public key, in a token of hardware or not, without options."""
    if not isinstance(line, str) or not line.isprintable():
        return False
    words = line.split(" ")
    if len(words) < 2 or words[0] not in _TYPES:
        return False
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        return False
    kind = words[0].encode()
    start = len(kind).to_bytes(4, "big") + kind + (32).to_bytes(4, "big")
    return blob.startswith(start) and (
        len(blob) == len(start) + 32 if kind == b"ssh-ed25519" else len(blob) > len(start) + 36
    )
