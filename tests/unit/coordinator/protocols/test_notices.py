"""Telling the application: when, what, until when, and never instead of anything else. Also `tests/traces/notice*`."""

from __future__ import annotations

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose, Step, Tell, TellEnded
from coordinator.facts import Facts
from coordinator.ledger.commands import Notified
from coordinator.ledger.records import BranchRecord, Notice, Path, Phase, TransactionRecord
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan
from participant.wire import Answer, BranchState, Verb

BRANCH = BranchRecord("a", "bank-a", "debit", b"")
COMMITTING = TransactionRecord("t", b"d", Path.CLASSIC, Phase.COMMITTING, (BRANCH,), 1_000, 1, notify="http://a")
COMMITTED = COMMITTING._replace(phase=Phase.COMMITTED, branches=(BRANCH._replace(ended=True),))


def driven(facts: Facts, record: TransactionRecord, now: float = 0.0) -> Step:
    """One step, whose effects are under way then."""
    step = decide(None, record, facts, now)
    for effect in step.effects:
        facts.note(effect)
    return step


def test_branches_and_the_application_are_told_at_once_and_neither_waits_for_the_other() -> None:
    facts = Facts(0.0)
    assert driven(facts, COMMITTING).effects == (Call("a", Verb.COMMIT), Tell(Notice.DECIDED))
    assert driven(facts, COMMITTING).effects == ()
    facts.fold(TellEnded(Notice.DECIDED), 0.0, 0.5)
    assert [effect.command for effect in driven(facts, COMMITTING).effects if isinstance(effect, Propose)] == [
        Notified("t", Notice.DECIDED)
    ]
    told = COMMITTING._replace(notified=Notice.DECIDED)
    facts.fold(ProposalEnded(Notified("t", Notice.DECIDED)), 0.0, 0.5)
    step = driven(facts, told)
    assert (step.effects, step.done) == ((), False)


def test_nobody_is_told_before_the_record_holds_the_decision_or_without_asking() -> None:
    for record in (COMMITTING._replace(phase=Phase.PREPARING), COMMITTING._replace(notify="")):
        assert not any(isinstance(effect, Tell) for effect in driven(Facts(0.0), record).effects)


def test_a_transaction_is_not_done_before_the_application_knows() -> None:
    facts = Facts(0.0)
    step = driven(facts, COMMITTED)
    assert (step.effects, step.done) == ((Tell(Notice.ENDED),), False)
    assert driven(facts, COMMITTED._replace(notified=Notice.ENDED)).done


def test_who_does_not_take_it_is_told_again_ever_more_rarely() -> None:
    facts = Facts(0.0)
    now, pauses = 0.0, []
    for _ in range(12):
        assert driven(facts, COMMITTED, now).effects == (Tell(Notice.ENDED),)
        facts.fold(TellEnded(Notice.ENDED, "it answered 503"), now, 0.999)
        waiting = driven(facts, COMMITTED, now)
        assert waiting.effects == ()
        assert waiting.wake_at is not None
        pauses.append(waiting.wake_at - now)
        now = waiting.wake_at
    assert pauses == sorted(pauses)
    assert 14.0 < pauses[-1] <= 15.0
    assert facts.notice.error == "it answered 503"


def test_the_end_waits_for_what_is_on_its_way() -> None:
    """So an application hears things in their order, unless an answer was lost."""
    facts = Facts(0.0)
    driven(facts, COMMITTING)
    assert driven(facts, COMMITTED).effects == ()
    facts.fold(TellEnded(Notice.DECIDED), 0.0, 0.5)
    assert driven(facts, COMMITTED).effects == (Tell(Notice.ENDED),), "and what has been overtaken is not noted"


def test_the_notes_of_branches_and_of_notices_do_not_stand_in_each_others_way() -> None:
    """Seen red with one place for both: each proposal made the other one due again, without end."""
    facts = Facts(0.0)
    driven(facts, COMMITTING)
    facts.fold(TellEnded(Notice.DECIDED), 0.0, 0.5)
    facts.fold(CallEnded("a", Verb.COMMIT, Answer(BranchState.COMMITTED)), 0.0, 0.5)
    assert len(driven(facts, COMMITTING).effects) == 2
    assert driven(facts, COMMITTING).effects == ()


def test_the_driver_of_another_request_tells_nobody() -> None:
    """The record belongs to whoever began it, and its own driver tells."""
    plan = Plan("t", b"other", Path.CLASSIC, (BRANCH,), 1_000)
    assert decide(plan, COMMITTED, Facts(0.0), 0.0) == Step(done=True)
