"""Sagas, TCC, messages and any mixture of them, whatever happens meanwhile.

Goal: each action takes effect once; if it is committed, all have, and if it is aborted, all that has run is undone, in
the opposite order; nobody is left prepared; everybody was given the results that it takes; nothing runs
before its time; and once nothing goes wrong
any more, it ends.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.ledger.records import BranchRecord, Decision, Mode, Reporting, Retry, StepRecord
from coordinator.protocols.declaration import check
from coordinator.protocols.modes import DECIDING, MODES
from tests.support.step_world import Fates, StepWorld

BEFORE = [mode for mode, rules in MODES.items() if rules.before is not None and mode not in DECIDING]

REPORTING = (None, None, Reporting("token", "secret"))


def _may_be_reported(mode: Mode, modes: list[Mode]) -> bool:
    return mode is Mode.FORWARD or (mode in (Mode.SAGA, Mode.TCC) and Mode.TWO_PHASE not in modes)


@st.composite
def transactions(draw: st.DrawFn) -> tuple[BranchRecord, ...]:
    """Any well-formed mixture: branches before the decision, perhaps a pivot, or a source; and branches behind it."""
    modes = draw(st.lists(st.sampled_from(BEFORE), max_size=4))
    modes += [Mode.PIVOT] if draw(st.booleans()) else []
    modes = modes or [Mode.SOURCE]
    modes += [Mode.FORWARD] * draw(st.integers(0, 2))
    branches: list[BranchRecord] = []
    for place, mode in enumerate(modes):
        name = "abcdefgh"[place]
        is_before = MODES[mode].before is not None
        earlier = [
            b.branch for b, m in zip(branches, modes, strict=False) if not is_before or MODES[m].before is not None
        ]
        after = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2)) if earlier else []
        givers = [
            b.branch
            for b, m in zip(branches, modes, strict=False)
            if b.branch in after and m is not Mode.TWO_PHASE and MODES[m].before is not None
        ]
        takes = [(f"from_{giver}", giver) for giver in givers if mode is not Mode.TWO_PHASE and draw(st.booleans())]
        if MODES[mode].on_abort is not None and mode is not Mode.TWO_PHASE and draw(st.booleans()):
            takes.append(("own", name))
        attempts = 1 if mode in (Mode.TWO_PHASE, Mode.SOURCE) else draw(st.integers(1, 3))
        step = StepRecord(
            mode,
            tuple(after),
            f"confirm-{name}" if mode is Mode.TCC else None,
            f"undo-{name}" if mode in (Mode.TCC, Mode.SAGA) else None,
            tuple(takes),
            Retry(attempts, 100, 1_000),
            not_before_ms=draw(st.sampled_from([0, 500, 20_000])) if mode is Mode.FORWARD else 0,
            reporting=draw(st.sampled_from(REPORTING)) if _may_be_reported(mode, modes) else None,
        )
        action = None if mode is Mode.SOURCE else f"do-{name}"
        branches.append(BranchRecord(name, f"bank-{name}", action, b"", step=step))
    check(branches)
    return tuple(branches)


def actions_of(branches: tuple[BranchRecord, ...]) -> list[str]:
    named = [(b.action, b.step.confirm, b.step.undo) for b in branches if b.step is not None]
    return [action for actions in named for action in actions if action is not None] or ["send"]


@settings(max_examples=600, deadline=None)
@given(transactions(), st.integers(0, 2**32), st.data())
def test_any_transaction_of_steps_ends_as_it_should(
    branches: tuple[BranchRecord, ...], seed: int, data: st.DataObject
) -> None:
    refusals = data.draw(st.dictionaries(st.sampled_from(actions_of(branches)), st.integers(1, 3), max_size=2))
    sends = data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    before = [b.action for b in branches if b.step is not None and MODES[b.step.mode].before and b.action is not None]
    foreign = data.draw(st.sampled_from([frozenset[str](), frozenset(), *(frozenset([action]) for action in before)]))
    cancel = data.draw(st.sampled_from([0.0, 0.05]))
    world = StepWorld(branches, Random(seed), Fates(cancel=cancel, sends=sends, refusals=refusals, foreign=foreign))
    world.run(events=80)
    world.audit()
    assert world.record is not None
    assert not foreign or world.record.decision is Decision.ABORT


@settings(max_examples=100, deadline=None)
@given(transactions(), st.integers(0, 2**32))
def test_without_any_fault_it_commits(branches: tuple[BranchRecord, ...], seed: int) -> None:
    world = StepWorld(branches, Random(seed), Fates(0, 0, 0, 0, reports=1.0, declines=0, sends=1.0))
    world.run(events=0)
    world.audit()
    assert world.record is not None
    assert world.record.decision is Decision.COMMIT
    assert not world.alarms
