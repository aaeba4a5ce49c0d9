"""Who is told of an alert: what is wrong with the settings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

KINDS = ("page", "ticket", "dead_man")
WAYS = ("mail", "webhook")
_SMTP = {"smarthost", "from", "require_tls", "username"}


def problems(receivers: object, smtp: object) -> Iterator[str]:
    """One sentence for each, with its setting, its value and what is allowed.

    Args:
        receivers: monitoring_receivers.
        smtp: monitoring_smtp.
    """
    if not isinstance(receivers, Mapping) or not isinstance(smtp, Mapping):
        yield "monitoring_receivers and monitoring_smtp are mappings, or not set."
        return
    for key in smtp.keys() - _SMTP:
        yield f"monitoring_smtp: {key} is no setting. Allowed: {', '.join(sorted(_SMTP))}."
    for key in receivers.keys() - set(KINDS):
        yield f"monitoring_receivers: {key} is no kind. Allowed: {', '.join(KINDS)}."
    mailed = False
    for kind in KINDS:
        ways = receivers.get(kind) or {}
        if not isinstance(ways, Mapping) or ways.keys() - set(WAYS):
            yield f"monitoring_receivers.{kind} is {ways!r}. Allowed: {' and '.join(WAYS)}, lists."
            continue
        yield from _wrong(kind, ways)
        mailed = mailed or bool(ways.get("mail"))
        if kind == "page" and not any(ways.get(way) for way in WAYS):
            yield "monitoring_receivers.page has neither mail nor webhook: nobody would be woken."
    if mailed and not (smtp.get("smarthost") and smtp.get("from")):
        yield "monitoring_smtp has no smarthost, or no from: mail could not be sent."
    if smtp.get("smarthost") and ":" not in str(smtp["smarthost"]):
        yield f"monitoring_smtp.smarthost is {smtp['smarthost']}. Allowed: host:port."


def _wrong(kind: str, ways: Mapping[str, object]) -> Iterator[str]:
    allowed = {"mail": "addresses such as ops@example.org", "webhook": "http or https URLs"}
    for way in WAYS:
        values = ways.get(way) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(values, list) or not _fits(way, str(value)):
                yield (
                    f"monitoring_receivers.{kind}.{way} has {value!r}. Allowed: {allowed[way]},"
                    " in a list."
                )


def _fits(way: str, value: str) -> bool:
    if not value.isprintable() or " " in value:
        return False
    if way == "mail":
        name, at, host = value.partition("@")
        return bool(name and at and host)
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
