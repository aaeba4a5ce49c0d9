"""Ed25519 with an expanded key (RFC 8032 section 5.1), of which the seed is not known.

A key that left a device under wrap without its seed consists of the scalar and the prefix that the
seed hashes to. ``cryptography`` signs with seeds only, so what is beyond it is done here. This is
arithmetic on Python's integers: it takes about a millisecond, and as much time as it likes depends
on the key. That is fit for rehearsals, and for nothing else.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha512

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493  # order of the base point
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202

# Extended homogeneous coordinates: x = X/Z, y = Y/Z, x*y = T/Z.
_Point = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def expand(seed: bytes) -> tuple[int, bytes]:
    """The scalar and the prefix of a seed (section 5.1.5)."""
    digest = sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    scalar &= (1 << 254) - 8
    return scalar | 1 << 254, digest[32:]


def public_key(scalar: int) -> bytes:
    """The public key of a scalar."""
    return _encode(_times_base(scalar))


def sign(scalar: int, prefix: bytes, public: bytes, message: bytes) -> bytes:
    """The signature that the seed would give (section 5.1.6)."""
    nonce = _number(prefix + message)
    commitment = _encode(_times_base(nonce))
    challenge = _number(commitment + public + message)
    return commitment + ((nonce + challenge * scalar) % _L).to_bytes(32, "little")


def _number(data: bytes) -> int:
    return int.from_bytes(sha512(data).digest(), "little") % _L


def _add(a: _Point, b: _Point) -> _Point:
    """The sum of two points (section 5.1.4)."""
    ax, ay, az, at = a
    bx, by, bz, bt = b
    minus = (ay - ax) * (by - bx) % _P
    plus = (ay + ax) * (by + bx) % _P
    t = 2 * at * bt * _D % _P
    z = 2 * az * bz % _P
    e, f, g, h = plus - minus, z - t, z + t, plus + minus
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


@cache
def _windows() -> tuple[tuple[_Point, ...], ...]:
    """For each of a scalar's 64 hexadecimal digits, that place's multiples of the base point."""
    windows = []
    unit = _BASE
    for _ in range(64):
        multiples = [_NEUTRAL]
        for _ in range(15):
            multiples.append(_add(multiples[-1], unit))
        windows.append(tuple(multiples))
        unit = _add(multiples[-1], unit)
    return tuple(windows)


def _times_base(scalar: int) -> _Point:
    point = _NEUTRAL
    for place, multiples in enumerate(_windows()):
        point = _add(point, multiples[scalar >> 4 * place & 15])
    return point


def _encode(point: _Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    return (y * inverse % _P | (x * inverse % _P & 1) << 255).to_bytes(32, "little")
