"""Words that say a thing is unfinished, and paths that exist on one machine only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.tree import PACKAGES, ROOT, code, texts

# Written in pieces, so that this file does not contain what it looks for.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
# With a message it is a contract ("this is never called, because ..."); without one it is a hole.
UNBUILT = re.compile(r"\bNot" + r"ImplementedError\b(?!\(.)|\bNot" + r"ImplementedError\(\)")
# Places of one machine, or of one person on it.
ONE_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|work|private)/\w")


def _found(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_nothing_is_left_for_later() -> None:
    """Goal: what is in the tree is finished; the rest stands in an issue."""
    assert _found(UNFINISHED, texts()) == []


def test_nothing_is_pretended() -> None:
    """Goal: no function that only promises to exist."""
    assert _found(UNBUILT, code(*PACKAGES)) == []


def test_no_path_of_one_machine() -> None:
    """Goal: the tree works wherever it is cloned to."""
    assert _found(ONE_MACHINE, texts()) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (UNFINISHED, "# TO" + "DO: later"),
        (UNBUILT, "raise Not" + "ImplementedError"),
        (ONE_MACHINE, "sys.path.append('/ho" + "me/me/src')"),
    ],
)
def test_the_patterns_find_what_they_look_for(pattern: re.Pattern[str], line: str) -> None:
    """Goal: a pattern that finds nothing proves nothing, so each is shown a line that it must find."""
    assert pattern.search(line)
