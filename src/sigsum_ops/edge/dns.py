"""``sigsum-ops dns check``: which keys a log finds for a domain, and who sees what.

Each server is asked as log-go asks its resolver: the record's label, then the fallback where there
is nothing. The system's resolvers, those that are named, and the zone's own servers are asked, so
that a record that is new, stale or wrong in one place shows where.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from sigsum_ops.edge import txt
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log.keys import PublicKey

TIMEOUT = 3.0  # seconds for one answer
_MOST_SERVERS = 13
NOTHING = "nothing"
NO_WAY = "cannot be reached from here"
# A zone's own server that names another place: an alias, or a part of the zone that others serve.
ELSEWHERE = "leads elsewhere"


@dataclass(frozen=True)
class Server:
    """Somebody to ask. ``recursive`` is false for a server of the zone itself."""

    name: str
    address: str
    port: int = 53
    recursive: bool = True


@dataclass(frozen=True)
class Answer:
    """What a server says of one name.

    ``status`` is ``found``, ``nothing`` (no such name, or none of that type), or what went wrong.
    ``seconds`` is how long resolvers may keep it.
    """

    name: str
    status: str
    records: tuple[txt.Record, ...] = ()
    seconds: int | None = None
    validated: bool = False


@dataclass(frozen=True)
class View:
    """What a log that uses this server finds. ``beside`` is asked only to explain ``nothing``."""

    server: Server
    answer: Answer
    beside: tuple[Answer, ...] = ()

    @property
    def keys(self) -> list[PublicKey]:
        """The keys that log-go tries."""
        tried = self.answer.records[: txt.MOST]
        return [record.key for record in tried if record.key is not None]


def server(text: str) -> Server:
    """A resolver as an argument names it: an address, and ``#port`` where that is not 53.

    Raises:
        UsageError: no address.
    """
    address, _, port = text.partition("#")
    try:
        ipaddress.ip_address(address)
        if port and not 0 < int(port) < 65536:
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no resolver", hint="Allowed is an IP address, or address#port"
        ) from error
    return Server(address, address, int(port or 53))


def system() -> list[Server]:
    """The resolvers of this machine.

    Raises:
        OpsError: it has none.
    """
    try:
        found = dns.resolver.Resolver().nameservers
    except dns.resolver.NoResolverConfiguration as error:
        raise OpsError(
            "this machine has no resolver in /etc/resolv.conf", hint="Name one: --resolver ADDRESS"
        ) from error
    return [Server(f"{address} (this machine's)", str(address)) for address in found]


async def check(domain: str, resolvers: Sequence[Server], *, zone: bool = True) -> list[View]:
    """Ask all of them at once, and the zone's own servers where ``zone`` says so."""
    servers = [*resolvers, *(await _servers_of(domain, resolvers) if zone else [])]
    return list(await asyncio.gather(*(_view(domain, each) for each in servers)))


async def _view(domain: str, of: Server) -> View:
    answer = await _ask(of, f"{txt.LABEL}.{domain}")
    if answer.status != NOTHING:
        return View(of, answer)
    # log-go takes the answer for the fallback only where that has one.
    fallback = await _ask(of, f"{txt.FALLBACK}.{domain}")
    if fallback.status == "found":
        return View(of, fallback, (answer,))
    # Where a zone's editor adds the zone's name to what is entered, it is there twice.
    elsewhere = [f"{txt.OUTDATED}.{domain}", domain, f"{txt.LABEL}.{domain}.{domain}"]
    beside = await asyncio.gather(*(_ask(of, name) for name in elsewhere if len(name) < 254))
    return View(of, answer, tuple(each for each in beside if each.status == "found"))


async def _ask(of: Server, name: str) -> Answer:
    query = dns.message.make_query(name, dns.rdatatype.TXT, want_dnssec=True)
    if not of.recursive:
        query.flags &= ~dns.flags.RD
    try:
        # ignore_errors: of datagrams that somebody else forges; the right one is waited for.
        response, _ = await dns.asyncquery.udp_with_fallback(
            query, of.address, timeout=TIMEOUT, port=of.port, ignore_errors=True
        )
    except dns.exception.Timeout:
        return Answer(name, f"no answer in {TIMEOUT:.0f} s")
    except OSError as error:
        # Such as a server with an IPv6 address, asked by a machine that has none.
        no_way = error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
        return Answer(name, NO_WAY if no_way else f"no answer: {error.strerror}")
    except dns.exception.DNSException as error:
        return Answer(name, f"no answer: {error}")
    validated = bool(response.flags & dns.flags.AD)
    match response.rcode():
        case dns.rcode.NXDOMAIN:
            return Answer(name, NOTHING, validated=validated)
        case dns.rcode.NOERROR:
            pass
        case code:
            return Answer(name, dns.rcode.to_text(code))
    # Aliases come in the same answer.
    sets = [found for found in response.answer if found.rdtype == dns.rdatatype.TXT]
    if not sets:
        alias = any(found.rdtype == dns.rdatatype.CNAME for found in response.answer)
        referral = not response.answer and any(
            found.rdtype == dns.rdatatype.NS for found in response.authority
        )
        leads = not of.recursive and (alias or referral)
        return Answer(name, ELSEWHERE if leads else NOTHING, validated=validated)
    records = tuple(txt.read(record.strings) for found in sets for record in found)
    return Answer(name, "found", records, min(found.ttl for found in sets), validated)


async def _servers_of(domain: str, resolvers: Iterable[Server]) -> list[Server]:
    """The servers of the zone that the record is in, as the first that knows them names them."""
    for each in resolvers:
        names: list[str] | None = []
        zone = dns.name.from_text(f"{txt.LABEL}.{domain}")
        # No further than to the domain's own zone: a failure there is not its parent's.
        while names == [] and len(zone) > 2:
            names = await _values(each, zone.to_text(), dns.rdatatype.NS)
            zone = zone.parent()
        found = []
        for name in (names or [])[:_MOST_SERVERS]:
            for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
                addresses = await _values(each, name, kind) or []
                found += [Server(f"{name} (of the zone)", a, recursive=False) for a in addresses]
        if found:
            return found
    return []


async def _values(of: Server, name: str, kind: dns.rdatatype.RdataType) -> list[str] | None:
    """The records of a name; None where it could not be asked."""
    query = dns.message.make_query(name, kind)
    # Also of a zone whose signatures are wrong: it is to be seen who serves that.
    query.flags |= dns.flags.CD
    try:
        response, _ = await dns.asyncquery.udp_with_fallback(
            query, of.address, timeout=TIMEOUT, port=of.port, ignore_errors=True
        )
    except (OSError, dns.exception.DNSException):
        return None
    if response.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return None
    sets = [found for found in response.answer if found.rdtype == kind]
    return sorted({str(record) for found in sets for record in found})


# --- What it means ------------------------------------------------------------------------------


def problems(domain: str, views: Sequence[View], key: PublicKey | None = None) -> list[str]:
    """What is wrong, and what to do; nothing where every server gives the log a key (that key)."""
    asked = [view for view in views if view.answer.status != NO_WAY]
    found = {each: None for view in asked for each in _problems(domain, view, key)}
    return list(found) if asked else ["no server can be reached from here"]


def _problems(domain: str, view: View, key: PublicKey | None) -> Iterator[str]:
    who, answer = view.server.name, view.answer
    if answer.status == ELSEWHERE:
        return  # the resolvers follow
    if answer.status == NOTHING:
        yield f"{who} has no TXT record {txt.LABEL}.{domain}" + (
            "" if not view.server.recursive else "; one that is new may need the time of a TTL"
        )
        for other in view.beside:
            if any(record.key for record in other.records):
                right = f"{txt.LABEL}.{domain}"
                yield f"there is a key at {other.name}, where no log looks: move it to {right}"
        return
    if answer.status != "found":
        hint = ": a DNSSEC signature that does not verify looks like this" * (
            answer.status == "SERVFAIL"
        )
        yield f"{who}: {answer.status}{hint}"
        return
    for record in answer.records:
        if record.problem:
            yield f"{answer.name}: the record {record.text[:100]!r} {record.problem}"
    if len(answer.records) > txt.MOST:
        yield (
            f"{answer.name}: {len(answer.records)} records, and a log tries {txt.MOST} of them, in"
            " the order that it is given: remove keys that are not used"
        )
    if answer.name.startswith(f"{txt.FALLBACK}."):
        yield f"{answer.name}: works still; newer logs look at {txt.LABEL}.{domain} only"
    if key is not None and key not in view.keys:
        yield f"{who} does not give the key {key.hex}"


def shown(view: View) -> dict[str, Any]:
    """A view for a machine."""

    def answered(answer: Answer) -> dict[str, Any]:
        return {
            "name": answer.name,
            "status": answer.status,
            "records": [
                {
                    "text": record.text,
                    "key": None if record.key is None else record.key.hex,
                    "problem": record.problem or None,
                }
                for record in answer.records
            ],
            "ttl": answer.seconds,
            "validated": answer.validated,
        }

    return {
        "server": view.server.name,
        "address": view.server.address,
        "recursive": view.server.recursive,
        **answered(view.answer),
        "keys": [key.hex for key in view.keys],
        "beside": [answered(each) for each in view.beside],
    }


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for a person."""
    for view in report["servers"]:
        said = f"{len(view['keys'])} key(s)" if view["status"] == "found" else view["status"]
        if view["ttl"] is not None:
            said += f", kept for {view['ttl']} s"
        if view["validated"]:
            said += ", validated by DNSSEC"
        yield f"{view['server']}: {said}"
        for record in view["records"]:
            yield f"    {record['key'] or record['text']}"
    for problem in report["problems"]:
        yield f"WRONG: {problem}"
    if not report["problems"]:
        yield f"every server gives a log the key of {report['domain']}"
