"""How often a step is asked for; what is asked, and in which order, stands in `tests/traces` and `tests/property`."""

from __future__ import annotations

import pytest

from coordinator.effects import Call, CallEnded
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_VOTES, Begin, Decide
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Retry, StepRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.steps import decide
from participant.wire import Verb

ATTEMPTS = 40
PAUSE_MAX_S = 1.0
LONGEST = 0.999  # the draw that waits longest

PIVOT = StepRecord(Mode.PIVOT, (), None, None, (), Retry(1, 100, 100))
FORWARD = PIVOT._replace(mode=Mode.FORWARD)
SAGA = PIVOT._replace(mode=Mode.SAGA, undo="undo", done=True)


@pytest.mark.parametrize(("step", "decision"), [(FORWARD, Decision.COMMIT), (SAGA, Decision.ABORT)])
def test_a_step_behind_the_decision_is_asked_for_soon_however_long_it_was_away(
    step: StepRecord, decision: Decision
) -> None:
    """Its participant does not ask by itself when it comes back, as one in doubt does. Red with its longer pauses."""
    ledger = Ledger()
    branches = (BranchRecord("pay", "bank", "do", b"", step=PIVOT), BranchRecord("b", "mail", "do", b"", step=step))
    ledger.execute(Begin("t", b"d", Path.STEPS, branches, 1_000, 0))
    ledger.execute(Decide("t", decision, BY_VOTES, 0, done=("pay",)))
    facts, now = Facts(0.0), 0.0
    for _ in range(ATTEMPTS):
        asked = decide(None, ledger.get("t"), facts, now)
        (call,) = asked.effects
        assert isinstance(call, Call)
        facts.note(call)
        facts.fold(CallEnded(call.branch, Verb.COMMIT, None, "nobody there"), now, LONGEST)
        wake_at = decide(None, ledger.get("t"), facts, now).wake_at
        assert wake_at is not None
        assert now < wake_at <= now + PAUSE_MAX_S
        now = wake_at
