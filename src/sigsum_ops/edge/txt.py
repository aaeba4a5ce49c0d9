"""The TXT record by which a submitter shows that a domain is its own: log.md, section 4.

Pure: what a record may say, what log-go makes of a set of them, and how people get it wrong.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import PublicKey

LABEL = "_sigsum_v1"
# What log-go asks for where there is nothing at the first. Nobody asks for the last any more.
FALLBACK = "_sigsum_v0"
OUTDATED = "_sigsum"
# log-go tries no more than so many keys of one name, in the order in which they are answered.
MOST = 10

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?!\d+$){_LABEL}", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)
_FORM = "64 hex digits, and nothing else"


@dataclass(frozen=True)
class Record:
    """One TXT record: its key, or what keeps it from being one and what to do about it."""

    text: str
    key: PublicKey | None
    problem: str = ""


def domain(text: str) -> str:
    """A submitter's domain as log-go counts it: in lower case, without a dot at its end.

    Raises:
        UsageError: no domain, or one that has a label of the record already.
    """
    name = text.strip().lower().removesuffix(".")
    for label in (LABEL, FALLBACK, OUTDATED):
        if name.startswith(f"{label}."):
            raise UsageError(
                f"{text!r} is the name of the record",
                hint=f"Name the domain: {name.removeprefix(f'{label}.')}",
            )
    # The record's name may have 253 characters.
    if len(name) > 253 - len(LABEL) - 1 or not _DOMAIN.fullmatch(name):
        raise UsageError(
            f"{text!r} is no domain",
            hint="Allowed is a name such as log.example.org; write an international one as xn--…",
        )
    return name


def read(strings: Sequence[bytes]) -> Record:
    """One record, given as its character strings, as log-go reads it."""
    # A record's strings are one text (RFC 7208, section 3.3 says the same for SPF).
    text = b"".join(strings).decode("utf-8", "backslashreplace")
    if _HEX.fullmatch(text) and len(text) == 64:
        return Record(text, PublicKey.from_hex(text.lower()))
    return Record(text, None, _wrong(text))


def _wrong(text: str) -> str:
    """Why a record's text is no key, for the person who wrote it."""
    bare = text.strip().strip("\"'").strip()
    if not bare:
        return f"is empty; it should be {_FORM}"
    if bare != text and _is_key(bare):
        return "has quotes or spaces in its value; enter the digits alone, the DNS adds its quotes"
    if text.startswith(("ssh-", "ssh ")):
        try:
            return f"is an OpenSSH line; publish its hex form: {PublicKey.from_ssh(text).hex}"
        except UsageError:
            return "is an OpenSSH line of another kind of key, or a broken one; Ed25519 is needed"
    keys = re.findall(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])", text, re.ASCII)
    if len(keys) > 1 or (_HEX.fullmatch(text) and len(text) in {128, 192, 256}):
        return "has several keys; each needs a TXT record of its own, at the same name"
    if len(keys) == 1:
        return f"has more than the key; it should be {keys[0]} alone"
    if _HEX.fullmatch(text):
        return f"has {len(text)} hex digits; it should be {_FORM}"
    if (raw := _base64(bare)) is not None:
        return f"is base64; publish it in hex: {raw.hex()}"
    return f"is no key; it should be {_FORM}"


def _is_key(text: str) -> bool:
    return len(text) == 64 and _HEX.fullmatch(text) is not None


def _base64(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 32 else None


def zone_line(key: PublicKey, name: str | None = None) -> str:
    """The record in a zone file's form; relative to the domain's zone where no name is given."""
    owner = f"{LABEL}.{domain(name)}." if name else LABEL
    return f'{owner} IN TXT "{key.hex}"'
