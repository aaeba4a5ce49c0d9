"""The transcript as a page to read, print and sign by hand: HTML, and PDF with the same content.

The page is for people; what counts is the transcript. So it begins with whether that verifies, and
carries the hashes by which page and transcript are known to belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.ceremony.records import (
    Confirmed,
    Device,
    Interrupted,
    Mode,
    Opened,
    PublicKey,
    Resumed,
    SecretBackedUp,
    Step,
)
from sigsum_ops.hsm.ceremony.transcript import Line, decode_all
from sigsum_ops.hsm.ceremony.verify import Verdict
from sigsum_ops.hsm.ceremony.words import words

if TYPE_CHECKING:
    from fpdf import FPDF

_TEMPLATE = "report.html.j2"
_WORDS_A_LINE = 4


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Hash:
    """A hash to compare: each line four bytes, in hexadecimal and as words."""

    title: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What the page says. ``problem`` is None where the transcript verifies."""

    title: str
    rehearsal: bool
    problem: str | None
    summary: tuple[str, ...]
    hashes: tuple[Hash, ...]
    tables: tuple[Table, ...]
    device_claims: tuple[str, ...]
    people_claims: tuple[str, ...]
    notes: tuple[str, ...]
    people: tuple[tuple[str, str], ...]


def build(transcript: Path, verdict: Verdict) -> Report:
    """Gather the page's content.

    Raises:
        OpsError: the transcript does not agree with itself, so nothing on a page would mean much.
    """
    if verdict.head is None:
        raise OpsError(
            f"{transcript}, line {verdict.line}: {verdict.reason}",
            hint="There is no page of a transcript that is not even consistent with itself.",
        )
    lines = decode_all(transcript.read_bytes())
    opened = lines[0].record
    assert isinstance(opened, Opened)  # noqa: S101 - it is consistent
    site = str(opened.plan["site"])
    first, last = lines[0], lines[-1]
    problem = None
    if not verdict.ok:
        place = f"line {verdict.line}: " if verdict.line else ""
        problem = f"{place}{verdict.reason}"
    return Report(
        title=f"Key ceremony of {site}",
        rehearsal=verdict.mode == Mode.REHEARSAL,
        problem=problem,
        summary=(
            f"{verdict.mode}, from {first.time} to {last.time} by the machine's clock",
            f"{len(lines)} lines in {transcript.name}",
        ),
        hashes=(
            hash_of("Hash of the plan", verdict.plan_hash or ""),
            hash_of("Hash of the closing line, which everyone signed", last.hash),
        ),
        tables=tuple(_tables(lines)),
        device_claims=tuple(c.claim for c in verdict.claims if c.rests_on == "device"),
        people_claims=tuple(c.claim for c in verdict.claims if c.rests_on == "people"),
        notes=verdict.notes,
        people=tuple((each["name"], each["role"]) for each in opened.plan["participants"]),
    )


def html(report: Report) -> str:
    """One page without anything from elsewhere."""
    return render(_TEMPLATE, report=report)


def render(template: str, **values: object) -> str:
    """One of this room's templates, which extend ``page.html.j2``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sigsum_ops.hsm.ceremony", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def pdf(report: Report) -> bytes:
    """The same on A4, with lines to sign on."""
    page = a4(report.title)
    if report.rehearsal:
        heading(page, "REHEARSAL: proves nothing about real devices", 14)
    verdict = report.problem and f"The transcript does NOT verify: {report.problem}"
    paragraph(page, verdict or "The transcript verifies.", bold=True)
    for text in report.summary:
        paragraph(page, text)
    for digest in report.hashes:
        heading(page, digest.title, 12)
        add_table(page, ("bytes", "to read aloud"), digest.lines, mono=True)
    for table in report.tables:
        heading(page, table.title, 12)
        add_table(page, table.columns, table.rows)
    for title, items in (
        ("What rests on the devices' answers", report.device_claims),
        ("What rests on the people", report.people_claims),
        ("To be weighed", report.notes),
    ):
        if items:
            heading(page, title, 12)
            for item in items:
                paragraph(page, f"- {item}")
    heading(page, "Signed by hand", 12)
    for name, role in report.people:
        page.ln(10)
        paragraph(page, f"{'_' * 48}   {name}, {role}")
    return bytes(page.output())


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """``report.html`` and ``report.pdf`` in the directory."""
    page, document = directory / "report.html", directory / "report.pdf"
    page.write_text(html(report), encoding="utf-8")
    document.write_bytes(pdf(report))
    return page, document


def hash_of(title: str, digest: str) -> Hash:
    """A hash in hexadecimal digits, made ready to be read aloud."""
    data = bytes.fromhex(digest)
    said = words(data)
    return Hash(
        title,
        tuple(
            (data[n : n + _WORDS_A_LINE].hex(" "), " ".join(said[n : n + _WORDS_A_LINE]))
            for n in range(0, len(data), _WORDS_A_LINE)
        ),
    )


def _tables(lines: Sequence[Line]) -> Iterator[Table]:
    devices: dict[int, Device] = {}
    keys: dict[tuple[str, str], list[str]] = {}
    backups: dict[tuple[str, ...], None] = {}
    for line in lines:
        match line.record:
            case Device() as device:
                devices[device.serial] = device
            case PublicKey() as key:
                holders = keys.setdefault((key.object, key.key), [])
                if devices[key.serial].name not in holders:
                    holders.append(devices[key.serial].name)
            case SecretBackedUp() as secret:
                owner = devices[secret.serial].name if secret.serial else "all devices"
                backups[secret.secret, owner, secret.medium, secret.form] = None
    yield Table(
        "Devices",
        ("name", "number on it", "firmware", "part"),
        tuple(
            (d.name, str(d.serial), ".".join(map(str, d.firmware)), d.part_number or "-")
            for d in devices.values()
        ),
    )
    yield Table(
        "Public keys",
        ("key", "Ed25519 public key", "on"),
        tuple((name, key, ", ".join(where)) for (name, key), where in keys.items()),
    )
    yield Table("Secrets on media", ("secret", "opens", "medium", "form"), tuple(backups))
    yield Table("What was done", ("time", "line", "what"), tuple(_events(lines)))


def _events(lines: Sequence[Line]) -> Iterator[tuple[str, str, str]]:
    for line in lines:
        match line.record:
            case Step(state="done") as step:
                what = f"{step.step}: done and proven"
            case Confirmed() as confirmed:
                what = f"{confirmed.step}: confirmed by {confirmed.participant}, {confirmed.role}"
            case Interrupted() as stop:
                left = ", ".join(f"{i.object.type} {i.object.id} on {i.serial}" for i in stop.left)
                what = f"interrupted: {stop.reason}; left on devices: {left or 'nothing'}"
            case Resumed():
                what = "resumed"
            case _:
                continue
        yield line.time[11:19], str(line.n), what


# --- fpdf2 --------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """The built-in fonts know Latin-1 only."""
    return text.encode("latin-1", "replace").decode("latin-1")


def a4(title: str) -> FPDF:
    """A document that begins with its title."""
    from fpdf import FPDF

    page = FPDF(format="A4")
    page.set_title(title)
    page.set_auto_page_break(auto=True, margin=18)
    page.add_page()
    heading(page, title, 18)
    return page


def heading(page: FPDF, text: str, size: int) -> None:
    """Bold, of ``size`` points, with room above."""
    page.ln(3)
    page.set_font("helvetica", "B", size)
    page.multi_cell(0, size * 0.5, _plain(text), new_x="LMARGIN", new_y="NEXT")


def paragraph(page: FPDF, text: str, *, bold: bool = False, mono: bool = False) -> None:
    """Text over the whole width."""
    page.set_font("courier" if mono else "helvetica", "B" if bold else "", 9)
    page.multi_cell(0, 5, _plain(text), new_x="LMARGIN", new_y="NEXT")


def add_table(
    page: FPDF,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    *,
    mono: bool = False,
) -> None:
    """Columns as wide as what is in them, relative to each other."""
    page.set_font("courier" if mono else "helvetica", "", 8)
    longest = [max(len(row[n]) for row in (columns, *rows)) + 2 for n in range(len(columns))]
    with page.table(col_widths=tuple(longest), text_align="LEFT", line_height=5) as table:
        for row in (columns, *rows):
            table.row([_plain(cell) for cell in row])
