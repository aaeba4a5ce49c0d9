"""Where this machine gets Debian from, so that the lab's machines get it there too.

Reads sources in both formats of sources.list(5): one line each, and deb822.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sigsum_ops.errors import OpsError

_RELEASES = r"(?:bullseye|bookworm|trixie|forky|sid|oldoldstable|oldstable|stable|testing|unstable)"
_ARCHIVE = re.compile(_RELEASES)
_UPDATES = re.compile(rf"{_RELEASES}-updates")
_SECURITY = re.compile(rf"{_RELEASES}(?:-security|/updates)")
_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<rest>.+)"
)
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Source:
    """One repository that apt is configured with."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]


@dataclass(frozen=True)
class Mirror:
    """The addresses of Debian's archive and of its security archive."""

    archive: str
    security: str

    def sources(self, suite: str) -> str:
        """A deb822 sources file for ``suite``."""
        return (
            f"Types: deb\nURIs: {self.archive}\nSuites: {suite} {suite}-updates\n"
            f"Components: main\nSigned-By: {_KEYRING}\n\n"
            f"Types: deb\nURIs: {self.security}\nSuites: {suite}-security\n"
            f"Components: main\nSigned-By: {_KEYRING}\n"
        )


def parse_one_line(text: str) -> Iterator[Source]:
    """Sources in a ``.list`` file; source packages and comments are left out."""
    for line in text.splitlines():
        if match := _ONE_LINE.fullmatch(line.partition("#")[0].strip()):
            components = tuple(match["rest"].split())
            yield Source((match["uri"],), (match["suite"],), components)


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources in a ``.sources`` file; disabled ones and source packages are left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", kept):
        fields: dict[str, list[str]] = {}
        values: list[str] = []
        for line in stanza.splitlines():
            if line[:1].isspace():
                values += line.split()
            elif ":" in line:
                key, _, value = line.partition(":")
                values = fields.setdefault(key.strip().lower(), [])
                values += value.split()
        enabled = fields.get("enabled", ["yes"])[0].lower() not in {"no", "false", "0", "off"}
        if enabled and "deb" in fields.get("types", []):
            yield Source(
                tuple(fields.get("uris", [])),
                tuple(fields.get("suites", [])),
                tuple(fields.get("components", [])),
            )


def choose_mirror(sources: Iterable[Source]) -> Mirror:
    """Tell Debian's archive from other repositories that use Debian's suite names.

    Debian's own has a ``-updates`` suite beside the release, which third parties do not have; where
    none has, the first with a release's name and a component ``main`` is taken. Raises OpsError if
    there is none. Without a security source the archive's is taken to stand beside it.
    """
    usable = [
        (uri, source.suites)
        for source in sources
        if "main" in source.components
        for uri in source.uris
        if uri.startswith(("http://", "https://"))
    ]

    def first(pattern: re.Pattern[str]) -> str | None:
        return next((u for u, suites in usable if any(map(pattern.fullmatch, suites))), None)

    archive = first(_UPDATES) or first(_ARCHIVE)
    if archive is None:
        raise OpsError(
            "apt's sources on this machine name no mirror of Debian",
            hint="the lab takes its mirror from /etc/apt/sources.list(.d): add a line "
            "`deb https://MIRROR/debian trixie main` there",
        )
    security = first(_SECURITY) or f"{archive.rstrip('/')}-security"
    return Mirror(archive, security)


def machine_mirror(directory: Path = Path("/etc/apt")) -> Mirror:
    """The mirror of the machine that this runs on."""
    sources: list[Source] = []
    main = directory / "sources.list"
    for path in [main, *sorted((directory / "sources.list.d").glob("*"))]:
        if path.suffix == ".list" and path.is_file():
            sources += parse_one_line(path.read_text(errors="replace"))
        elif path.suffix == ".sources":
            sources += parse_deb822(path.read_text(errors="replace"))
    return choose_mirror(_resolve(source) for source in sources)


def _resolve(source: Source) -> Source:
    """Replace ``mirror+file:`` (Debian's cloud images) by what the file names."""
    uris: list[str] = []
    for uri in source.uris:
        prefix, found, path = uri.partition("mirror+file:")
        if found and not prefix and Path(path).is_file():
            uris += [
                line.split()[0] for line in Path(path).read_text().splitlines() if line.strip()
            ]
        else:
            uris.append(uri)
    return Source(tuple(uris), source.suites, source.components)


def machine_proxies() -> str:
    """apt's proxy settings on this machine, as lines of apt.conf."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return "".join(
        f"{line}\n"
        for line in dump.splitlines()
        if re.match(r"Acquire::https?::Proxy\b", line) and not line.endswith('"";')
    )


def machine_ports() -> list[int]:
    """The ports at which apt asks: those of the mirrors and proxies, and the usual ones."""
    mirror = machine_mirror()
    given = re.findall(
        r"//[^/\s]*:(\d+)", f"{mirror.archive} {mirror.security} {machine_proxies()}"
    )
    return sorted({80, 443, *map(int, given)})
