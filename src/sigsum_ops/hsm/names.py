"""What people call the YubiHSM's constants: the spelling of yubihsm-shell, and back.

The library's enumerations have other names for some capabilities and algorithms; operators know
those of the shell, so plans and transcripts use these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR, OBJECT, OPTION, ORIGIN

_Member = TypeVar("_Member", ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR, OBJECT, OPTION, ORIGIN)

DOMAINS = range(1, 17)
ALL_DOMAINS = 0xFFFF


def _spelling(members: Iterable[_Member], **others: str) -> Mapping[str, _Member]:
    """By its name; ``others`` maps a member of the library to the shell's name for it."""
    return {
        others.get(name, name.lower().replace("_", "-")): member
        for member in members
        if (name := member.name) is not None
    }


def _algorithm(name: str) -> str:
    """``ed25519`` for EC_ED25519, ``ecp256`` for EC_P256, ``rsa2048`` for RSA_2048."""
    name = re.sub(r"^EC_(?=E[CD])|^RSA_(?=MGF1)", "", name)
    name = re.sub(r"^EC_(?=(?:P|K|BP)\d)|^RSA_(?=\d)", lambda found: found[0][:-1], name)
    return name.lower().replace("_", "-")


CAPABILITIES = _spelling(
    CAPABILITY,
    PUT_ASYMMETRIC="put-asymmetric-key",
    PUT_HMAC_KEY="put-mac-key",
    PUBLIC_WRAP_KEY_WRITE="put-public-wrap-key",
    PUBLIC_WRAP_KEY_DELETE="delete-public-wrap-key",
)
ALGORITHMS = _spelling(ALGORITHM, **{item.name: _algorithm(item.name) for item in ALGORITHM})
TYPES = _spelling(OBJECT)
COMMANDS = _spelling(COMMAND)
ERRORS = _spelling(ERROR)
OPTIONS = _spelling(OPTION)
AUDITS = _spelling(AUDIT)
ORIGINS = _spelling(ORIGIN)

ALL_CAPABILITIES = CAPABILITY(sum(CAPABILITIES.values()))


def name_of(table: Mapping[str, _Member], value: int) -> str:
    """The name of one constant; ``0x…`` where this version of the library knows none."""
    for name, member in table.items():
        if member == value:
            return name
    return f"0x{value:02x}"


def flag_names(table: Mapping[str, _Member], value: int) -> tuple[str, ...]:
    """The names of the bits that are set, in the order of the bits; ``0x…`` for an unknown one."""
    bits = (1 << n for n in range(value.bit_length()) if value >> n & 1)
    return tuple(name_of(table, bit) for bit in bits)


def flags(table: Mapping[str, _Member], names: Iterable[str]) -> int:
    """The inverse of ``flag_names``.

    Raises:
        KeyError: a name that is not in the table.
    """
    return sum({int(n, 16) if n.startswith("0x") else int(table[n]) for n in names})


def domain_numbers(mask: int) -> tuple[int, ...]:
    """The domains (1-16) of the device's bit mask."""
    return tuple(n for n in DOMAINS if mask >> (n - 1) & 1)


def domain_mask(domains: Iterable[int]) -> int:
    """The device's bit mask, in which bit n-1 is domain n."""
    return sum({1 << (n - 1) for n in domains})
