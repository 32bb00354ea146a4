"""Links in the documentation are valid."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.project import PROJECT

_PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, with dashes."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _broken(page: Path) -> list[str]:
    """Return the links of `page` to a missing file or heading."""
    found = []
    for link in _LINK.findall(_CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link has an existing file and heading as its target."""
    assert _broken(page) == []


def test_broken_links_are_seen(tmp_path: Path) -> None:
    """A missing file and a missing heading are found; code and external links are ignored."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `small` page\n[a](gone.md) [b](#a-small-page) [c](page.md#no) `[d](x)` [e](http://x)\n"
    )
    assert _broken(page) == ["gone.md", "page.md#no"]
