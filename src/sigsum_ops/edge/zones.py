"""What ``resolver_zones`` may say: zones that the site's resolver does not ask from the root on."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

_FIELDS = {"name", "forward", "servers", "trust_anchors", "insecure"}


def problems(zones: object) -> Iterator[tuple[str, str]]:
    """What is wrong, each with what is allowed there; nothing where all can be right."""
    if zones is None or zones == "":
        return
    if not isinstance(zones, list):
        yield f"is {zones!r}", "a list of zones"
        return
    for zone in zones:
        if not isinstance(zone, Mapping) or not zone.keys() <= _FIELDS:
            yield f"has {zone!r}", f"a zone with {', '.join(sorted(_FIELDS))}"
            continue
        name = zone.get("name")
        if not _is_name(name):
            yield f"has the name {name!r}", "the name of a zone, such as example.org, or a dot"
        for field in ("forward", "servers"):
            for address in zone.get(field) or []:
                if not _is_address(address):
                    allowed = "an IP address of another machine"
                    yield f"{name}: {field} has {address!r}", allowed
        if bool(zone.get("forward")) == bool(zone.get("servers")):
            allowed = "either forward (resolvers) or servers (the zone's own)"
            yield f"{name}: has both or neither of forward and servers", allowed
        for anchor in zone.get("trust_anchors") or []:
            if not _is_anchor(anchor):
                allowed = "a DS or DNSKEY record as a zone file has it"
                yield f"{name}: trust_anchors has {anchor!r}", allowed


def _is_name(text: object) -> bool:
    if not isinstance(text, str) or not text.isascii() or any(c.isspace() for c in text):
        return False
    try:
        return bool(text) and dns.name.from_text(text).to_wire() is not None
    except dns.exception.DNSException:
        return False


def _is_address(text: object) -> bool:
    try:
        address = ipaddress.ip_address(text if isinstance(text, str) else "")
    except ValueError:
        return False
    # unbound asks nobody on its own machine.
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _is_anchor(text: object) -> bool:
    words = str(text).split()
    kinds = [kind for kind in ("DS", "DNSKEY") if kind in words]
    if not kinds or not _is_name(words[0]):
        return False
    kind = dns.rdatatype.from_text(kinds[0])
    rest = str(text).partition(f" {kinds[0]} ")[2] or str(text).partition(f"\t{kinds[0]}\t")[2]
    try:
        dns.rdata.from_text(dns.rdataclass.IN, kind, rest.partition(";")[0])
    except (dns.exception.DNSException, ValueError):
        return False
    return True
