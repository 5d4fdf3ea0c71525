"""The pages lead somewhere: the two commands are on the first screen, and no link is dead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.tree import ROOT, pages

FIRST_SCREEN_LINES = 40

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *#*$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The fragments that a forge makes of headings: lower case, punctuation gone, a dash for each space."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _dead_links(page: Path, root: Path) -> list[str]:
    prose = _CODE.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    dead = []
    for link in _LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists() and target.is_relative_to(root)
        if not is_there or (fragment and target.suffix == ".md" and fragment not in _anchors(target)):
            dead.append(link)
    return dead


def test_the_first_screen_shows_the_two_commands() -> None:
    """Goal: whoever opens the page can start at once."""
    screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN_LINES]
    commands = {line.split("#")[0].strip() for line in screen}
    assert {"make demo", "make test"} <= commands


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Goal: no link within the project to a file or a heading that is not there."""
    assert _dead_links(page, ROOT) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """Goal: the search above can find something: a missing file, and a missing heading."""
    page = tmp_path / "page.md"
    page.write_text("# Here\n[gone](gone.md) [above](#above) [here](#here) `[code](code.md)`\n", encoding="utf-8")
    assert _dead_links(page, tmp_path) == ["gone.md", "#above"]
