"""Canonical JSON: one value has one form, so that its hash means something.

The subset of RFC 8785 (JSON Canonicalization Scheme) without fractions: objects, lists, strings,
booleans, null, and integers that every JSON reader holds exactly (RFC 7493, section 2.2). Keys are
sorted by their UTF-16 code units, there is no white space, and the bytes are UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

# A union of JSON's types; what ``parse`` returns consists of dict, list, str, int, bool and None.
Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]

MAX_INTEGER = 2**53 - 1


def dumps(value: Json) -> bytes:
    """The canonical form.

    Raises:
        ValueError: a fraction, an integer beyond ±(2^53-1), text that is not Unicode (a lone
            surrogate), or a type that JSON does not have.
    """
    try:
        return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loads(data: bytes) -> Json:
    """The value whose canonical form ``data`` is.

    Raises:
        ValueError: it is not JSON, or is written in another form than the canonical one: an auditor
            who hashes a value and one who hashes the bytes must not come to different results.
    """
    try:
        value = cast(
            Json,
            json.loads(
                data.decode("utf-8"),
                object_pairs_hook=_unique,
                parse_float=_refuse,
                parse_constant=_refuse,
            ),
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if dumps(value) != data:
        raise ValueError("not in canonical form (key order, white space, escapes or numbers)")
    return value


def _ordered(value: Json) -> Json:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(f"{value} is beyond what every JSON reader holds exactly")
        return int(value)  # not an enumeration's member, which json would write by its own rules
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key that is not text")
        # The default error handler refuses lone surrogates, as the encoding of values does.
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_ordered(item) for item in value]
    raise ValueError(f"{type(value).__name__} has no place in canonical JSON")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice in one object")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")
