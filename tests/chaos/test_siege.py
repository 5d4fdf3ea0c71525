"""The short form of the siege; `make kills` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.siege import besiege

KILLS = 20
SEED = 20_261_123


@pytest.mark.timeout(300)
async def test_random_kills_under_load_leave_the_books_right(tmp_path: Path) -> None:
    """Goal: whatever process dies whenever, no money is lost, no answer is wrong, nothing stays undecided.

    Seen red with a bank that rolls back a branch in doubt when no replica answers it.
    """
    outcomes = await besiege(KILLS, SEED, tmp_path, print)
    assert outcomes.verdict.findings == ()
    assert outcomes.ok
    assert outcomes.kills.total() == KILLS
