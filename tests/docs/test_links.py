"""Every link in the documents leads somewhere, and every page can be reached from the README."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.paths import ROOT

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]*)\)|\b(?:href|src|srcset)=\"([^\"]*)\"")


def pages(root: Path) -> list[Path]:
    """Return the README and every page of docs/."""
    return [root / "README.md", *sorted(root.glob("docs/**/*.md"))]


def prose(page: Path) -> str:
    """Return the text of a page without its code."""
    return re.sub(r"`[^`]*`", "", FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    """Return the links and images of a page."""
    return [markdown or html for markdown, html in LINK.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """Return the ids that GitHub gives to the headings of a page."""
    ids: set[str] = set()
    counts: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        ids.add(f"{name}-{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return ids


def resolve(page: Path, path: str) -> Path:
    """Return the file that a path in a page leads to; for a folder, its README if it has one."""
    target = (page.parent / path).resolve() if path else page.resolve()
    return target / "README.md" if (target / "README.md").is_file() else target


def is_broken(root: Path, page: Path, link: str) -> bool:
    """Return whether a link is broken; links to other sites need only be https."""
    url = urlsplit(link)
    if url.scheme:
        return url.scheme != "https" and url.hostname != "localhost"
    target = resolve(page, url.path)
    if not target.exists() or not target.is_relative_to(root.resolve()):
        return True
    return bool(url.fragment) and (target.suffix != ".md" or url.fragment not in anchors(target))


def broken_links(root: Path, page: Path) -> list[str]:
    """Return the broken links of a page; reference links are not supported."""
    broken = [link for link in links(page) if is_broken(root, page, link)]
    return broken + re.findall(r"\]\[\S*", prose(page))


def unreachable_pages(root: Path) -> list[Path]:
    """Return the pages that no chain of links reaches from the README."""
    reached: set[Path] = set()
    queue = [(root / "README.md").resolve()]
    while queue:
        page = queue.pop()
        if page.suffix == ".md" and page not in reached and page.is_file():
            reached.add(page)
            urls = [urlsplit(link) for link in links(page)]
            queue += [resolve(page, url.path) for url in urls if url.path and not url.scheme]
    return [page for page in pages(root) if page.resolve() not in reached]


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_broken_link(page: Path) -> None:
    assert broken_links(ROOT, page) == []


def test_the_readme_leads_to_every_page() -> None:
    assert unreachable_pages(ROOT) == []


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("[x](docs/page.md#why-x_y-and-1) [x](docs/page.md#twice-1) [x](#top) `[x](none)`", []),
        ("[x](https://example.com) ![x](docs/page.md)", []),
        ("[x](none.md)", ["none.md"]),
        ('<img src="none.svg">', ["none.svg"]),
        ("[x](../)", ["../"]),
        ("[x](docs/page.md#twice-2)", ["docs/page.md#twice-2"]),
        ("[x](#none)", ["#none"]),
        ("[x](http://example.com)", ["http://example.com"]),
        ("[x][name]", ["][name]"]),
    ],
)
def test_a_broken_link_and_an_unreachable_page_are_found(
    tmp_path: Path, link: str, broken: list[str]
) -> None:
    (tmp_path / "docs").mkdir()
    page, orphan = tmp_path / "docs" / "page.md", tmp_path / "docs" / "orphan.md"
    page.write_text("# Why `x_y`, and 1.\n\n## Twice\n\n## Twice\n")
    orphan.write_text("# Alone\n\n[itself](orphan.md)\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Top\n\n[page](docs/page.md)\n\n{link}\n")
    assert broken_links(tmp_path, readme) == broken
    assert unreachable_pages(tmp_path) == [orphan]


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_placeholder_in_place_of_an_output(page: Path) -> None:
    assert re.findall(r"\{\{\d+\}\}", page.read_text()) == []
