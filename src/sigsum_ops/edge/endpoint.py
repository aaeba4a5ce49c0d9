"""What the settings of the log's public endpoint (role ``tls_proxy``) may say."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

URL = "tls_proxy_url"
CERTIFICATE = "tls_proxy_certificate_file"
KEY = "tls_proxy_key_file"
EMAIL = "tls_proxy_acme_email"
DIRECTORY = "tls_proxy_acme_directory"
ROOT = "tls_proxy_acme_root_file"
PEERS = "tls_proxy_peers"

# A certificate that ends so soon is not put in place: who does it now has to do it again at once.
SOON = datetime.timedelta(days=2)
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", re.ASCII)
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+", re.ASCII)

Wrong = tuple[str, str, str]


def problems(variables: Mapping[str, object]) -> Iterator[Wrong]:
    """What is wrong with what is written, each as setting, what was found, and what is allowed.

    No file is read and no clock: a promotion is not refused for a certificate that has ended.

    Args:
        variables: of one machine.
    """
    url, certificate, key, email, directory = (
        str(variables.get(name) or "") for name in (URL, CERTIFICATE, KEY, EMAIL, DIRECTORY)
    )
    if host(url) is None:
        yield URL, f"is {url!r}", "https://NAME/ or https://NAME/PATH/, at port 443"
    if email and (certificate or key):
        allowed = f"{CERTIFICATE} and {KEY}, or {EMAIL}, and not both"
        yield EMAIL, "is set beside a certificate of one's own", allowed
    elif email:
        if not _EMAIL.fullmatch(email):
            yield EMAIL, f"is {email!r}", "an address for mail"
        if not directory.startswith("https://") and directory:
            yield DIRECTORY, f"is {directory!r}", "the https URL of an ACME directory"
    elif not (certificate and key):
        allowed = f"{CERTIFICATE} and {KEY} together, or {EMAIL} for ACME"
        yield CERTIFICATE, "or its key is not set", allowed
    peers = variables.get(PEERS) or []
    if not isinstance(peers, list) or not all(_is_address(peer) for peer in peers):
        yield PEERS, f"is {peers!r}", "a list of IPv4 and IPv6 addresses"


def host(url: str) -> str | None:
    """The name in a URL that a log can be published at."""
    if any(not c.isprintable() for c in url):  # of which urlsplit takes some away
        return None
    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    rest = parts.query or parts.fragment or parts.username or parts.password
    whole = parts.scheme == "https" and port in {None, 443} and not rest
    return name if whole and _NAME.fullmatch(name) and _PATH.fullmatch(parts.path) else None


def root_problems(pem: str) -> Iterator[Wrong]:
    """The same of the text of ``tls_proxy_acme_root_file``."""
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        yield ROOT, f"is not read: {error}", "a PEM file with certificates"


def pair_problems(
    chain_pem: str, key_pem: str, name: str, now: datetime.datetime
) -> Iterator[Wrong]:
    """The same of the texts of a certificate's and its key's files.

    Args:
        chain_pem: the certificate, and then those that lead to its root.
        key_pem: its private key. No message has any of it.
        name: which the certificate must have.
        now: with its time zone.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
    except ValueError as error:
        allowed = "a PEM file with the certificate, and then those that lead to its root"
        yield CERTIFICATE, f"is not read: {error}", allowed
        return
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        found = f"is not read: {type(error).__name__}"
        yield KEY, found, "a PEM file with the certificate's private key, without a passphrase"
        return
    leaf = chain[0]
    if key.public_key() != leaf.public_key():
        yield (
            KEY,
            "is not the key of the certificate",
            f"the key of {leaf.subject.rfc4514_string()}",
        )
    if not any(_covers(pattern, name) for pattern in _names(leaf)):
        found = f"is for {', '.join(_names(leaf)) or 'no name'}"
        yield CERTIFICATE, found, f"a certificate with the name {name}"
    if now < leaf.not_valid_before_utc or leaf.not_valid_after_utc < now + SOON:
        found = f"is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}"
        yield CERTIFICATE, found, f"one that is valid now, and for {SOON.days} days more"
    for lower, upper in itertools.pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            found = (
                f"has {upper.subject.rfc4514_string()} where the issuer of the one before belongs"
            )
            yield CERTIFICATE, found, "the certificate first, each followed by its issuer's"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return found.value.get_values_for_type(x509.DNSName)


def _covers(pattern: str, name: str) -> bool:
    """RFC 9525: a star stands for the whole of the first label."""
    first, _, rest = name.partition(".")
    return pattern.lower() == name or (bool(first) and pattern.lower() == f"*.{rest}")


def _is_address(peer: object) -> bool:
    try:
        ipaddress.ip_address(str(peer))
    except ValueError:
        return False
    return True


def is_everywhere(endpoint: str) -> bool:
    """Whether ``host:port`` can be reached at every address of its machine."""
    address = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return address == ""
