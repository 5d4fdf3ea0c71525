"""The table of modes: the same in the code, in its docstring and in the documentation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.ledger.records import Mode
from coordinator.protocols import modes
from coordinator.protocols.modes import MODES, NAME_CHARS_MAX, Does, attempt_name, draw, name_of
from participant.ids import BRANCH_BYTES_MAX

PAGE = Path(__file__).parents[4] / "docs" / "internals" / "modes.md"
MARK = "<!-- drawn -->\n"


def _cells(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell; of the others, what stands before a comma."""
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.partition(",")[0].strip() for cell in cells] for first, *cells in rows}


def test_the_documentation_shows_this_table() -> None:
    """Red whenever the table changes and the page does not; COMMITD_REWRITE=1 redraws it."""
    prose, _, drawn = PAGE.read_text(encoding="utf-8").partition(MARK)
    if os.environ.get("COMMITD_REWRITE"):
        PAGE.write_text(prose + MARK + draw(), encoding="utf-8")
        return
    assert drawn == draw()


def test_the_docstring_shows_this_table() -> None:
    """The docstring says more (*undo, if it has run*), and nothing else."""
    assert modes.__doc__ is not None
    assert _cells(modes.__doc__) == _cells(draw())


def test_each_mode_is_drawn_from_its_row() -> None:
    """Goal: the pictures show the same as the table: what is asked by which decision, and that nothing is."""
    drawn = draw()
    assert "        tcc_run --> tcc_confirm: commit\n        tcc_confirm --> [*]\n" in drawn
    assert "        saga_run --> [*]: commit\n        saga_run --> saga_undo: abort\n" in drawn
    assert "        [*] --> forward_run: commit\n        forward_run --> [*]\n    }\n" in drawn
    assert drawn.count('    state "') == len(MODES) + sum(len(rules.asked) for rules in MODES.values())


def test_every_mode_has_a_row_and_everything_it_may_be_asked_is_used() -> None:
    assert set(MODES) == set(Mode)
    assert {does for rules in MODES.values() for does in (rules.before, rules.on_commit, rules.on_abort)} == {
        *Does,
        None,
    }


@pytest.mark.parametrize(
    ("does", "attempt", "name"),
    [
        (Does.PREPARE, 1, "hotel"),
        (Does.RUN, 1, "hotel"),
        (Does.RUN, 2, "hotel:2"),
        (Does.UNDO, 1, "hotel:undo"),
        (Does.CONFIRM, 3, "hotel:confirm:3"),
    ],
)
def test_each_attempt_is_a_branch_of_its_own(does: Does, attempt: int, name: str) -> None:
    assert attempt_name("hotel", does, attempt) == name
    assert name_of(name) == "hotel"


def test_the_longest_name_leaves_room_for_every_attempt() -> None:
    longest = attempt_name("x" * NAME_CHARS_MAX, Does.CONFIRM, 10**12)
    assert len(longest) <= BRANCH_BYTES_MAX
