"""The pages as one HTML file that needs nothing else, and as a PDF to print.

**Markdown** is read by markdown-it-py, which rich brings already: CommonMark by its specification,
and a list of tokens in which links, blocks and the decision tree can be found, not guessed.

**The PDF** is made by WeasyPrint of that same HTML. Tried beside it: fpdf2, which this project has
for the ceremony's pages, and which needs no system library; but it would need a second layout in
code, has no page numbers in links nor headings kept with what follows, and knows Latin-1 only
unless a font is brought along. WeasyPrint takes all of this from the style sheet. It needs Pango
from the system; where that is missing, the HTML is there and any browser prints it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigsum_ops.errors import OpsError
from sigsum_ops.site.runbook import REPOSITORY, commands, pages
from sigsum_ops.site.runbook.facts import Site
from sigsum_ops.site.runbook.pages import Page

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

_TEMPLATE = "page.html.j2"
# Printed with the plan, since a lost device wants it; its blocks have a test of their own.
_APPENDIX = REPOSITORY / "docs/ceremonies/custody.md"
_TREE = "the-decision-tree"
LIBRARIES = ("libpango-1.0-0", "libpangoft2-1.0-0", "libharfbuzz-subset0")


@dataclass(frozen=True)
class Section:
    """A page as HTML: the name that links have for it, its title, and all names in it."""

    anchor: str
    title: str
    html: str
    names: frozenset[str]


def html(sources: Sequence[Page], site: Site) -> str:
    """The whole plan as one page.

    Raises:
        UsageError: a variable that a page names is not set.
        OpsError: a link goes nowhere.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    appendix = Page(_APPENDIX, _APPENDIX.read_text(encoding="utf-8"))
    anchors = {page.path.resolve(): _anchor(page) for page in (*sources, appendix)}
    sections = [
        _section(page, pages.fill(page, page.text, site), site, anchors) for page in sources
    ]
    sections.append(_section(appendix, appendix.text, site, anchors))
    _check_links(sections)
    template = Environment(
        loader=PackageLoader("sigsum_ops.site.runbook", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(_TEMPLATE)
    return template.render(site.values, site=site, sections=sections)


def pdf(page: str) -> bytes:
    """The same to print on A4, from what ``html`` returned.

    Raises:
        OpsError: WeasyPrint or a library that it needs is missing.
    """
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as error:
        raise OpsError(
            f"the HTML is written, the PDF is not: {str(error).splitlines()[0]}",
            hint=f"apt-get install {' '.join(LIBRARIES)}, or print the HTML from a browser.",
        ) from error
    document: bytes = HTML(string=page).write_pdf()
    return document


def _anchor(page: Page) -> str:
    return "index" if page.path.stem == "README" else page.path.stem


def _section(page: Page, text: str, site: Site, anchors: dict[Path, str]) -> Section:
    parser = pages.parser()
    parser.add_render_rule("fence", _fence)
    renderer: Any = parser.renderer
    tokens = parser.parse(text)
    anchor, names = _anchor(page), {}
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            title = tokens[number + 1]
            level = int(token.tag[1])
            name = anchor if level == 1 else f"{anchor}--{_slug(title.content)}"
            token.attrSet("id", name)
            names[name] = title.content
        elif token.type == "inline":
            _retarget(token, page, anchors)
            if token.content.startswith("[ ] ") and token.children:
                token.children[0].content = token.children[0].content.removeprefix("[ ] ")
                tokens[number - 2].attrSet("class", "tick")  # item, paragraph, this
            if token.content.endswith(":"):
                tokens[number - 1].attrSet("class", "lead")  # kept with what follows
    return Section(
        anchor,
        names[anchor],
        "".join(_render(tokens, renderer, parser.options, {"site": site})),
        frozenset(names),
    )


def _render(
    tokens: Sequence[Token], renderer: RendererHTML, options: Any, environment: dict[str, Any]
) -> Iterator[str]:
    """HTML of the tokens, where the list below the tree's heading is a tree."""
    start = next(
        (n for n, token in enumerate(tokens) if str(token.attrGet("id")).endswith(f"--{_TREE}")),
        None,
    )
    if start is None:
        yield renderer.render(tokens, options, environment)
        return
    first = next(n for n in range(start, len(tokens)) if tokens[n].type == "ordered_list_open")
    last = next(n for n in range(first, len(tokens)) if tokens[n].type == "ordered_list_close")
    yield renderer.render(tokens[:first], options, environment)
    yield from _tree(tokens[first:last], renderer, options)
    yield renderer.render(tokens[last + 1 :], options, environment)


def _tree(tokens: Sequence[Token], renderer: RendererHTML, options: Any) -> Iterator[str]:
    """Questions from top to bottom, the ways out of each to its right."""
    questions: list[tuple[str, list[str]]] = []
    depth = 0
    for token in tokens:
        depth += (token.type == "bullet_list_open") - (token.type == "bullet_list_close")
        if token.type != "inline":
            continue
        children = token.children or []
        if depth == 0:
            questions.append((renderer.render(children, options, {}), []))
            continue
        at = next((n for n, child in enumerate(children) if child.type == "link_open"), 0)
        answer = renderer.render(children[:at], options, {}).strip().removesuffix(":")
        goal = renderer.render(children[at:], options, {})
        questions[-1][1].append(
            f'<div class="exit"><span class="answer">{answer}</span>'
            f'<span class="goal">{goal}</span></div>'
        )
    yield '<div class="tree">\n'
    for number, (question, exits) in enumerate(questions, start=1):
        yield (
            f'<div class="row"><div class="ask"><b>{number}</b><span>{question}</span></div>'
            f'<div class="exits">{"".join(exits)}</div></div>\n'
        )
        if number < len(questions):
            yield '<div class="next">no</div>\n'
    yield "</div>\n"


def _fence(
    renderer: RendererHTML,  # noqa: ARG001 - the signature that markdown-it calls
    tokens: Sequence[Token],
    index: int,
    options: Any,  # noqa: ARG001
    environment: dict[str, Any],
) -> str:
    """A block with where it is typed above it."""
    from markupsafe import escape

    token, site = tokens[index], environment["site"]
    on = re.search(r"\bon=(\S+)", token.info)
    kind = caption = ""
    if on:
        place = "controller" if on[1] == commands.CONTROLLER else f"{site.host(on[1])}, as root"
        caption = f"<figcaption>on {'the ' * (place == 'controller')}{escape(place)}</figcaption>"
    elif token.info.split() == ["text"]:
        kind, caption = ' class="prints"', "<figcaption>prints</figcaption>"
    return f"<figure{kind}>{caption}<pre><code>{escape(token.content)}</code></pre></figure>\n"


def _retarget(token: Token, page: Page, anchors: dict[Path, str]) -> None:
    """Point links to where their pages are in this file; what is elsewhere says where."""
    for child in token.children or []:
        target = child.attrGet("href") if child.type == "link_open" else None
        if target is None or re.match(r"[a-z]+:", str(target)):
            continue
        path, _, fragment = str(target).partition("#")
        file = (page.path.parent / path).resolve() if path else page.path.resolve()
        if file in anchors:
            name = anchors[file] + (f"--{fragment}" if fragment else "")
            child.attrSet("href", f"#{name}")
        else:
            child.tag, child.attrs = "span", {"class": "elsewhere"}
            where = file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file
            child.attrSet("title", str(where))
            _closing(token, child).tag = "span"


def _closing(token: Token, opening: Token) -> Token:
    children = token.children or []
    after = children[children.index(opening) :]
    return next(child for child in after if child.type == "link_close")


def _check_links(sections: Sequence[Section]) -> None:
    there = {name for section in sections for name in section.names}
    for section in sections:
        for target in re.findall(r'href="#([^"]+)"', section.html):
            if target not in there:
                raise OpsError(f"{section.anchor}: a link goes to #{target}, which is nowhere")


def _slug(heading: str) -> str:
    """The name of a heading as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.replace(" ", "-")
