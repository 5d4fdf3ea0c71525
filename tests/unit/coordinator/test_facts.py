"""Facts: what is under way, and what was heard."""

from __future__ import annotations

import pytest

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose
from coordinator.facts import BranchFacts, Facts
from coordinator.ledger.commands import Decide, End
from coordinator.ledger.records import Decision
from participant.wire import Answer, BranchState, Verb

COMMIT = Decide("t", Decision.COMMIT, "votes", 0)
PREPARED, COMMITTED, ABORTED = BranchState.PREPARED, BranchState.COMMITTED, BranchState.ABORTED


def heard(*answers: Answer | None) -> BranchFacts:
    facts = Facts(0.0)
    for answer in answers:
        facts.fold(CallEnded("a", Verb.PREPARE, answer), 1.0, 0.5)
    return facts.of("a")


def test_at_first_nothing_is_known() -> None:
    facts = Facts(started_at=3.0)
    assert facts.started_at == 3.0
    known = facts.of("a")
    assert (known.state, known.question, known.in_flight, known.attempts) == (None, None, False, 0)
    assert (facts.proposal.question, facts.proposal.in_flight) == (None, False)


def test_a_call_is_under_way_until_it_comes_back() -> None:
    facts = Facts(0.0)
    facts.note(Call("a", Verb.PREPARE))
    assert facts.of("a").in_flight
    assert not facts.of("b").in_flight
    facts.fold(CallEnded("a", Verb.PREPARE, None, "refused"), 2.0, 0.25)
    known = facts.of("a")
    assert (known.in_flight, known.ended_at, known.draw, known.attempts) == (False, 2.0, 0.25, 1)
    facts.note(Call("a", Verb.PREPARE))
    assert facts.of("a").attempts == 2


def test_another_question_starts_counting_again() -> None:
    facts = Facts(0.0)
    facts.note(Call("a", Verb.PREPARE))
    facts.note(Call("a", Verb.ABORT))
    known = facts.of("a")
    assert (known.question, known.attempts, known.in_flight) == (Verb.ABORT, 1, True)


def test_the_late_end_of_an_older_question_ends_nothing_but_is_heard() -> None:
    facts = Facts(0.0)
    facts.note(Call("a", Verb.PREPARE))
    facts.note(Call("a", Verb.ABORT))
    facts.fold(CallEnded("a", Verb.PREPARE, Answer(PREPARED)), 2.0, 0.25)
    known = facts.of("a")
    assert (known.in_flight, known.ended_at, known.state) == (True, 0.0, PREPARED)


def test_a_proposal_is_under_way_until_it_comes_back() -> None:
    facts = Facts(0.0)
    facts.note(Propose(COMMIT))
    assert (facts.proposal.question, facts.proposal.in_flight) == (Decide, True)
    facts.fold(ProposalEnded(COMMIT), 2.0, 0.25)
    assert (facts.proposal.in_flight, facts.proposal.ended_at, facts.proposal.draw) == (False, 2.0, 0.25)
    facts.note(Propose(End("t", ("a",))))
    assert (facts.proposal.question, facts.proposal.attempts) == (End, 1)


def test_the_newest_word_counts_but_nothing_late_replaces_a_final_one() -> None:
    assert heard(Answer(PREPARED)).state is PREPARED
    assert heard(Answer(PREPARED), Answer(ABORTED, "no money")).state is ABORTED
    late = heard(Answer(ABORTED, "no money"), Answer(PREPARED))
    assert (late.state, late.reason) == (ABORTED, "no money")
    assert heard(Answer(ABORTED), Answer(COMMITTED)).state is COMMITTED, "somebody repaired the participant"


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (CallEnded("a", Verb.COMMIT, None, "connection refused"), "connection refused"),
        (CallEnded("a", Verb.COMMIT, None), "no answer"),
        (CallEnded("a", Verb.COMMIT, Answer(ABORTED, "busy", retry=True)), "busy"),
        (CallEnded("a", Verb.COMMIT, Answer(ABORTED, retry=True)), "asked to come again"),
    ],
)
def test_what_is_no_answer_says_nothing_of_the_branch(event: CallEnded, error: str) -> None:
    facts = Facts(0.0)
    facts.fold(event, 1.0, 0.5)
    assert (facts.of("a").state, facts.of("a").error) == (None, error)


def test_an_answer_clears_the_error() -> None:
    assert heard(None, Answer(PREPARED)).error == ""
