"""Rate limits of a log: the inventory's ``log_server_rate_limit``, and log-go's rate-limit file.

A submitter shows by a token that it controls a domain (log.md, section 4); log-go looks the
domain's key up in the DNS and counts the leaf. It reads the file at its start only, and counts from
there: a restart of the log sets all counts to zero. Limits are leaves in 24 hours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sigsum_ops.errors import UsageError

# Debian's package publicsuffix; the log reads what is there when it starts.
SUFFIXES = "/usr/share/publicsuffix/public_suffix_list.dat"
_MOST = 2**31 - 1
_HASH = re.compile(r"[0-9a-f]{64}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# At least two labels, of which the last is no number: an address is no domain.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?!\d+$){_LABEL}", re.ASCII)
_KINDS = {
    "key": "the SHA-256 of a submitter's public key, 64 lower-case hex digits in quotes"
    " (sigsum-key to-hash)",
    "domain": "a domain in lower case, such as example.org, without the label _sigsum_v1",
    "public": "a number of leaves for each registered domain that is not listed",
}
_LIMIT = f"a number of leaves in 24 hours, 0 to {_MOST}"


@dataclass(frozen=True)
class RateLimits:
    """How many leaves who may submit in 24 hours.

    ``key`` by hash of the submitter's key, without a token; ``domain`` for a domain with all that
    is below it; ``public`` for each other registered domain, ``None`` for none.
    """

    key: Mapping[str, int] = field(default_factory=dict)
    domain: Mapping[str, int] = field(default_factory=dict)
    public: int | None = None


def parse(setting: object) -> RateLimits | None:
    """Read the inventory's setting; ``None`` where it is empty, and submissions are not limited.

    Raises:
        UsageError: what cannot be right; the message starts with its place in the setting.
    """
    if setting is None or setting == "" or setting == {}:
        return None
    if not isinstance(setting, Mapping):
        raise UsageError(f"is {setting!r}", hint=f"a mapping of {', '.join(_KINDS)}")
    if unknown := sorted(str(kind) for kind in setting if kind not in _KINDS):
        raise UsageError(f"has {unknown[0]!r}", hint=f"a mapping of {', '.join(_KINDS)}")
    public = setting.get("public")
    limits = RateLimits(
        key=dict(_listed("key", setting, _HASH)),
        domain=dict(_listed("domain", setting, _DOMAIN)),
        public=None if public is None else _limit("public", public),
    )
    if limits == RateLimits():
        raise UsageError("lets nobody submit", hint="one entry or more, or no such setting")
    return limits


def _listed(
    kind: str, setting: Mapping[str, object], form: re.Pattern[str]
) -> Iterator[tuple[str, int]]:
    listed = setting.get(kind)
    if listed is None:
        return
    if not isinstance(listed, Mapping):
        raise UsageError(f"{kind}: is {listed!r}", hint=f"each a line {kind}: limit")
    for name, limit in listed.items():
        # YAML makes a number of a hash that happens to have no letters.
        if not isinstance(name, str) or len(name) > 253 or not form.fullmatch(name):
            raise UsageError(f"{kind}: has {name!r}", hint=_KINDS[kind])
        if not all(map(_is_normal, name.split("."))):
            raise UsageError(
                f"{kind}: has {name!r}, which is no international name as it is normally written",
                hint="log-go would not start with it; write each label as a registry does",
            )
        yield str(name), _limit(f"{kind}: {name}", limit)


def _is_normal(label: str) -> bool:
    """Whether log-go takes a label: one in Punycode (RFC 3492) is of a lower-case, normal name."""
    if not label.startswith("xn--"):
        return True
    try:
        text = label.removeprefix("xn--").encode().decode("punycode")
    except UnicodeError:
        return False
    normal = unicodedata.normalize("NFKC", text).lower()
    return text.isprintable() and not text.isascii() and text == normal


def _limit(place: str, limit: object) -> int:
    if isinstance(limit, bool) or not re.fullmatch(r"[0-9]+", str(limit), re.ASCII):
        raise UsageError(f"{place}: is {limit!r}", hint=_LIMIT)
    number = int(str(limit))
    if number > _MOST:
        raise UsageError(f"{place}: is {limit!r}", hint=_LIMIT)
    return number


def render(limits: RateLimits) -> str:
    """The lines of log-go's file, in an order that does not depend on the inventory's."""
    lines = [f"key {name} {limit}" for name, limit in sorted(limits.key.items())]
    lines += [f"domain {name} {limit}" for name, limit in sorted(limits.domain.items())]
    if limits.public is not None:
        lines.append(f"public {SUFFIXES} {limits.public}")
    return "".join(f"{line}\n" for line in lines)
