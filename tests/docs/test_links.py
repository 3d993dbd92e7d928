"""The links of the documents: each leads somewhere, and every page is reached from the README."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.paths import ROOT


class Page(NamedTuple):
    """What a page says of itself."""

    links: tuple[str, ...]
    """Images, too, each as it is written."""
    anchors: frozenset[str]
    """Of its headings, as GitHub makes them, and of its HTML."""
    text: str
    """Without its code."""


class Markup(HTMLParser):
    """Reads the links and the anchors of the HTML within a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down where a tag leads, and what leads to it."""
        for name, value in attrs:
            if name in ("href", "src", "srcset") and value:
                self.links.append(value.split()[0])
            elif value and (name == "id" or (tag, name) == ("a", "name")):
                self.anchors.append(value)


@cache
def read(file: Path) -> Page:
    """Read a page of Markdown, as GitHub does."""
    tokens = MarkdownIt("commonmark").enable("table").parse(file.read_text())
    markup, headings, links, text = Markup(), [], [], []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "html_block":
            markup.feed(token.content)
        for part in token.children or ():
            if part.type == "html_inline":
                markup.feed(part.content)
            elif part.type in ("link_open", "image"):
                links.append(str(part.attrs.get("href") or part.attrs.get("src")))
            elif part.type == "text":
                text.append(part.content)
        if before and before.type == "heading_open":
            headings.append(token)
    anchors = [*anchors_of(headings), *markup.anchors]
    return Page((*links, *markup.links), frozenset(anchors), "\n".join(text))


def anchors_of(headings: list[Token]) -> Iterator[str]:
    """Make the ids of headings as GitHub does: of their words, numbered where they repeat."""
    seen: Counter[str] = Counter()
    for heading in headings:
        parts = [part for part in heading.children or () if part.type in ("text", "code_inline")]
        shown = "".join(part.content for part in parts)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        yield f"{name}-{seen[name]}" if seen[name] else name
        seen[name] += 1


def pages(root: Path) -> list[Path]:
    """Return the README and every page of docs/."""
    return [root / "README.md", *sorted(root.glob("docs/**/*.md"))]


def target(root: Path, page: Path, path: str) -> Path:
    """Return what a link of a page leads to; a folder is shown by its README, if it has one."""
    way = unquote(path)
    found = (root / way.lstrip("/") if way.startswith("/") else page.parent / way).resolve()
    return found / "README.md" if (found / "README.md").is_file() else found


def complaint(root: Path, page: Path, link: str) -> str | None:
    """Return what is wrong with a link; one that leads out of the repository is not followed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        is_ours = parts.scheme == "http" and parts.hostname == "localhost"
        return None if parts.scheme == "https" or is_ours else "is not https"
    found = target(root, page, parts.path) if parts.path else page
    if not found.exists() or not found.is_relative_to(root.resolve()):
        return "leads nowhere"
    if not parts.fragment:
        return None
    if found.suffix == ".md":
        is_there = unquote(parts.fragment) in read(found).anchors
    else:
        lines = re.fullmatch(r"L(\d+)(?:-L(\d+))?", parts.fragment)
        last = int(lines[2] or lines[1]) if lines else 0
        is_there = found.is_file() and 0 < last <= len(found.read_text().splitlines())
    return None if is_there else "leads to a page without this place"


def complaints(root: Path, page: Path) -> list[str]:
    """Return what is wrong with the links of a page."""
    told = [(link, complaint(root, page, link)) for link in read(page).links]
    broken = re.findall(r"\]\(\S*|\]\[\S*", read(page).text)
    return [f"{link} {why}" for link, why in told if why] + [f"{one} is no link" for one in broken]


def unreached(root: Path) -> list[Path]:
    """Return the pages to which no way leads from the README."""
    reached: set[Path] = set()
    ahead = [(root / "README.md").resolve()]
    while ahead:
        page = ahead.pop()
        if page.suffix == ".md" and page not in reached and page.is_file():
            reached.add(page)
            paths = [urlsplit(link) for link in read(page).links]
            ahead += [target(root, page, one.path) for one in paths if one.path and not one.scheme]
    return [page for page in pages(root) if page.resolve() not in reached]


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert complaints(ROOT, page) == []


def test_every_page_is_reached_from_the_readme() -> None:
    assert unreached(ROOT) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A README that leads to a page with two headings of one name, to a folder and to code."""
    (tmp_path / "docs" / "folder").mkdir(parents=True)
    (tmp_path / "code.py").write_text("one\ntwo\n")
    (tmp_path / "docs" / "page.md").write_text("# Why `x_y`, and 1.\n\n## Twice\n\n## Twice\n")
    (tmp_path / "docs" / "folder" / "README.md").write_text("# Here\n\n[back](../page.md)\n")
    (tmp_path / "README.md").write_text(
        "# Top\n\n[a](docs/page.md#why-x_y-and-1) [b](docs/page.md#twice-1) [c](code.py#L1-L2)\n"
        "[d](#top) [e](https://example.com) [f][named] `[g](nowhere)` ![h](code.py)\n"
        '<a href="docs/folder#here">i</a>\n\n[named]: docs/folder\n'
    )
    return tmp_path


def test_what_is_in_order_is_let_pass(tree: Path) -> None:
    assert [complaints(tree, page) for page in pages(tree)] == [[], [], []]
    assert unreached(tree) == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("[x](docs/none.md)", "docs/none.md leads nowhere"),
        ("![x](none.svg)", "none.svg leads nowhere"),
        ('<img src="none.svg">', "none.svg leads nowhere"),
        ("[x](../)", "../ leads nowhere"),
        ("[x](docs/page.md#none)", "docs/page.md#none leads to a page without this place"),
        ("[x](docs/page.md#twice-2)", "docs/page.md#twice-2 leads to a page without this place"),
        ("[x](#none)", "#none leads to a page without this place"),
        ("[x](code.py#L3)", "code.py#L3 leads to a page without this place"),
        ("[x](http://example.com)", "http://example.com is not https"),
        ("[x](docs/page .md)", "](docs/page is no link"),
        ("[x][unnamed]", "][unnamed] is no link"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(tree: Path, link: str, why: str) -> None:
    (tree / "README.md").write_text(f"# Top\n\n{link}\n")
    assert complaints(tree, tree / "README.md") == [why]


def test_a_page_without_a_way_to_it_is_named(tree: Path) -> None:
    orphan = tree / "docs" / "orphan.md"
    orphan.write_text("# Alone\n\n[itself](orphan.md)\n")
    assert unreached(tree) == [orphan]
