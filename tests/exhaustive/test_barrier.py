"""Every order of try, confirm and cancel, each of them twice, with functions that refuse, or are lost before they end.

The world is one branch and the two rows of a shop: what is held, and what is sold. Whatever is under way may come at
any moment, so the search takes every sequence of what is on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from participant.barrier import Contradiction, Done, Outcome, Refused, Row, State, Step, StepKind, Verdict
from participant.errors import Reject, StepError

TRY, CONFIRM, CANCEL = StepKind.TRY, StepKind.CONFIRM, StepKind.CANCEL
ACTION, COMPENSATE = StepKind.ACTION, StepKind.COMPENSATE
STEPS = {kind: Step.of("g", "b", kind, {"pieces": 1}) for kind in StepKind}

# What a function may come to. Lost: the process dies before the commit.
DONE, REFUSED, LOST = "done", "refused", "lost"


class World(NamedTuple):
    """`held` and `sold` are the user's rows. `said`: the last answer to each step, as far as one was given."""

    row: Row
    held: int = 0
    sold: int = 0
    runs: tuple[StepKind, ...] = ()
    said: tuple[tuple[StepKind, Outcome], ...] = ()


EFFECTS = {TRY: (1, 0), CONFIRM: (-1, 1), CANCEL: (-1, 0), ACTION: (0, 1), COMPENSATE: (0, -1)}


def after(world: World, kind: StepKind, end: str) -> World:
    """One step, as a barrier does it."""
    step = STEPS[kind]
    rule = world.row.judge(step)
    row = world.row
    if rule.verdict is Verdict.RUN and end == LOST:
        return world
    if rule.verdict is Verdict.RUN and end == REFUSED:
        try:
            row = row.refused(step, Reject("no"), 0)
        except StepError:
            return world
    elif rule.verdict is Verdict.RUN:
        row = row.done(step, f"result of {kind}", 0)
        held, sold = EFFECTS[kind]
        world = world._replace(held=world.held + held, sold=world.sold + sold, runs=(*world.runs, kind))
    elif rule.verdict is Verdict.EMPTY:
        row = row.emptied(step, 0)
    return world._replace(row=row, said=(*world.said, (kind, row.outcome(step, rule))))


def histories(world: World, under_way: tuple[StepKind, ...]) -> Iterator[World]:
    """Every world that the steps under way can lead to, in every order, each with every end."""
    yield world
    for kind in dict.fromkeys(under_way):
        rest = list(under_way)
        rest.remove(kind)
        for end in (DONE, REFUSED, LOST):
            yield from histories(after(world, kind, end), tuple(rest))


def all_worlds(*under_way: StepKind) -> list[World]:
    return list(histories(World(Row(STEPS[TRY].key)), under_way))


@pytest.fixture(scope="module")
def tcc() -> list[World]:
    return all_worlds(TRY, TRY, CANCEL, CANCEL, CONFIRM, CONFIRM)


@pytest.fixture(scope="module")
def saga() -> list[World]:
    return all_worlds(ACTION, ACTION, ACTION, COMPENSATE, COMPENSATE, COMPENSATE)


def test_the_search_is_not_empty(tcc: list[World], saga: list[World]) -> None:
    """Goal: what is shown below is shown of something."""
    assert len(tcc) > 20_000
    assert {world.row.state for world in tcc} == {
        *(State.NEW, State.TRIED, State.CONFIRMED, State.CANCELLED, State.REFUSED),
    }
    assert {world.row.state for world in saga} == {State.NEW, State.ACTED, State.COMPENSATED, State.REFUSED}


def test_no_function_runs_twice(tcc: list[World], saga: list[World]) -> None:
    """Seen red with REPEAT of a confirm made RUN in the table."""
    for world in (*tcc, *saga):
        assert len(set(world.runs)) == len(world.runs), world


def test_rows_agree_with_the_state(tcc: list[World]) -> None:
    """Nothing is held but by what is tried, nothing is sold but by what is confirmed: never both, never twice.

    Seen red with a cancel of what is tried that does not run.
    """
    for world in tcc:
        assert (world.held, world.sold) == (world.row.state is State.TRIED, world.row.state is State.CONFIRMED), world


def test_what_is_compensated_leaves_nothing(saga: list[World]) -> None:
    for world in saga:
        assert world.sold == (world.row.state is State.ACTED), world


def test_a_cancel_that_was_answered_stays_true(tcc: list[World], saga: list[World]) -> None:
    """Whatever still arrives. Seen red with a late try that runs: it would hold for ever."""
    for world in (*tcc, *saga):
        for kind, outcome in world.said:
            if kind in (CANCEL, COMPENSATE) and isinstance(outcome, Done):
                assert (world.held, world.sold) == (0, 0), world


def test_a_branch_is_never_confirmed_and_cancelled(tcc: list[World]) -> None:
    """One of the two is a contradiction, and the other stays. Seen red with a cancel of what is confirmed that runs."""
    for world in tcc:
        done = {kind for kind, outcome in world.said if isinstance(outcome, Done)}
        assert not {CONFIRM, CANCEL} <= done, world


def test_a_step_is_answered_once_and_for_all(tcc: list[World], saga: list[World]) -> None:
    """A repeat gets the answer of the first, except a try whose branch was cancelled since: it is refused.

    Seen red with the result not kept.
    """
    for world in (*tcc, *saga):
        first: dict[StepKind, Outcome] = {}
        undone = False
        for kind, outcome in world.said:
            if isinstance(outcome, Contradiction):
                continue
            if undone and kind in (TRY, ACTION):
                assert isinstance(outcome, Refused), world
            else:
                assert first.setdefault(kind, outcome) == outcome, world
            undone = undone or kind in (CANCEL, COMPENSATE)


def test_a_confirm_is_done_only_after_a_try_was(tcc: list[World]) -> None:
    for world in tcc:
        if any(kind is CONFIRM and isinstance(outcome, Done) for kind, outcome in world.said):
            assert TRY in world.runs, world
