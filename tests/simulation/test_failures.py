"""The table of failures: with few seeds here, and its page with many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest

from coordinator.driver.driver import Driver
from coordinator.failures.measures import Cell
from coordinator.failures.moments import Moment
from coordinator.failures.play import all_cells, cell, places
from coordinator.failures.protocols import PROTOCOLS
from coordinator.failures.report import failed, page
from coordinator.failures.scenarios import OUTAGE_S, SCENARIOS
from coordinator.failures.scene import Scene, SceneFailed
from participant import termination
from participant.recovery import Recovery

SEEDS = 3
ALL_CELLS_TIMEOUT_S = 300
PAGE = Path(__file__).parents[2] / "docs/concepts/failures.md"
MARK = "<!-- drawn -->\n"


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return list(all_cells(places([], []), SEEDS, processes=1))


@pytest.mark.timeout(ALL_CELLS_TIMEOUT_S)
def test_everything_is_as_theory_says_and_as_we_promise(cells: list[Cell]) -> None:
    """Goal: every claim holds in every cell that it speaks of."""
    assert len(cells) == len(PROTOCOLS) * len(SCENARIOS)
    assert list(failed(cells)) == []


@pytest.mark.timeout(ALL_CELLS_TIMEOUT_S)
def test_the_page_shows_this_table(cells: list[Cell]) -> None:
    """Goal: the same protocols, scenarios, verdicts and claims; only what was measured may differ. `make failures`
    writes it anew."""
    _, _, drawn = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert list(_without_numbers(drawn)) == list(_without_numbers(page(cells)))


def _without_numbers(text: str) -> Iterator[str]:
    """The lines; of a section with numbers, only what each line begins with."""
    is_measured = is_counted = False
    for line in text.splitlines():
        if line.startswith("## "):
            is_measured = line.startswith(("## For how long", "## What is aborted"))
            is_counted = line.startswith("## All or nothing")
        if re.match(r"\d+ seeds ", line):
            continue
        shown = line.partition(" | ")[0] if is_measured else line
        yield _without_counts(shown) if is_counted else shown


def _without_counts(line: str) -> str:
    """What nobody claims to be atomic breaks in some runs only, and perhaps in none of few."""
    return re.sub(r"NO, \d+ of \d+", "NO", re.sub(r"(yes|NO, \d+ of \d+); by chance", "by chance", line))


def test_the_same_seed_gives_the_same_run() -> None:
    """Goal: a cell can be played again, on any machine."""
    assert cell(("2pc-staged", "split-one-way"), 2) == cell(("2pc-staged", "split-one-way"), 2)


def test_processes_of_their_own_play_the_same() -> None:
    wanted = places(["2pc-alone", "saga"], ["refused"])
    assert list(all_cells(wanted, 2, processes=2)) == list(all_cells(wanted, 2, processes=1))


def test_whoever_stops_listening_leaves_nobody_playing() -> None:
    """Goal: no process goes on with a table that nobody wants any more. Seen red with a pool that is left alone."""
    cells = all_cells(places(["2pc-alone"], ["nothing", "dies-before"]), 100, processes=2)
    next(cells)
    assert active_children()
    cells.close()
    assert not active_children()


def test_participants_that_give_up_by_themselves_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canary: who aborts on silence, as people are tempted to do about problem 3, breaks what is decided."""

    async def gives_up(recovery: Recovery, key: object) -> None:
        await recovery._resource.abort(key)  # type: ignore[arg-type]

    monkeypatch.setattr(Recovery, "_resolve", gives_up)
    assert cell(("2pc-alone", "some-hear"), 2).broken == 2
    assert list(failed([cell(("2pc-alone", "some-hear"), 1)]))


def test_a_leader_that_takes_nothing_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canary: without the work of the next leader, steps that were begun stay half done."""
    wake = Driver.wake

    def only_for_its_own(driver: Driver) -> None:
        if driver.plan is not None:
            wake(driver)

    monkeypatch.setattr(Driver, "wake", only_for_its_own)
    assert cell(("message", "dies-decided"), 1).broken == 1


def test_of_three_the_other_two_end_what_the_dead_one_has_heard() -> None:
    """Goal: who dies with the coordinator has heard the decision, and nobody else. Seen red where the answer to a
    precommit that comes after the decision was taken for hearing it: then the dead one holds its rows, too."""
    assert list(failed([cell(("3pc-quorum-of-3-alone", "all-who-know-die"), 5)])) == []


def test_a_majority_that_is_everybody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canary: two of three that wait for the third are blocked by one machine, as in two phases."""
    monkeypatch.setattr(termination, "majority", lambda count: count)
    blocked = cell(("3pc-quorum-of-3-alone", "all-who-know-die"), 2)
    assert blocked.locks_held_ms.p50 >= OUTAGE_S * 1_000
    assert ["those that are left end it" in line for line in failed([blocked])] == [True]


def test_a_part_that_only_the_third_leaves_undone_is_found() -> None:
    """Canary: of three participants, all are looked at."""
    of_three = next(protocol for protocol in PROTOCOLS if len(protocol.moves) == 3)
    forgetful = replace(of_three, transact=lambda client, asked: client.commit(asked.branches[:-1], gid=asked.gid))
    scene = Scene(forgetful, "nothing", 0)
    scene.when(Moment.ASKED, lambda scene: scene.repair_in(0.0))
    run = scene.run()
    assert run.committed
    assert not run.atomic


def test_a_fault_that_never_strikes_is_no_result() -> None:
    """Goal: a scenario that waits for what does not come says so, instead of showing that all is well."""
    scene = Scene(PROTOCOLS[0], "never", 0)
    scene.when(Moment.LAST_TOLD, lambda _: None)
    with pytest.raises(SceneFailed, match="did not strike"):
        scene.run()
