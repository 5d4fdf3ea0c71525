"""Three-phase commit, step by step: what is different from the classic path."""

from __future__ import annotations

import pytest

from coordinator.effects import Call, Effect, Haste, Propose
from coordinator.facts import Expiry
from coordinator.ledger.commands import BY_DEADLINE, BY_EXPIRY, BY_PARTICIPANTS, Decide, Precommit
from coordinator.ledger.records import Decision, Path
from participant.termination import COORDINATORS, Ballot, Leaning, Register
from participant.wire import Answer, BranchState, Verb
from participant.wire_three_phase import Terms
from tests.unit.coordinator.protocols.steps import (
    COMMITTED,
    DEADLINE_S,
    READ_ONLY,
    UNKNOWN,
    YES,
    Driver,
    abort,
    begun,
    commit,
    end,
    no,
    overdue,
    taken_over,
)

BOTH = pytest.mark.parametrize("path", [Path.THREE_PHASE, Path.UNSAFE_COMMIT_ON_SILENCE])
PRECOMMITTED = Answer(
    BranchState.PREPARED, three_phase=Terms(register=Register(Leaning.PRECOMMITTED, COORDINATORS, COORDINATORS))
)
PROMISED = Answer(BranchState.PREPARED, three_phase=Terms(register=Register(Leaning.PREPARED, Ballot(1, 2))))


def precommitting(names: str = "abc", path: Path = Path.THREE_PHASE) -> Driver:
    """A new leader that finds it so; its first calls are under way."""
    driver = taken_over(Precommit("t"), names=names, path=path)
    driver.step()
    return driver


def follow(decision: Decision, reason: str = "", culprit: str | None = None) -> Decide:
    return Decide("t", decision, BY_PARTICIPANTS, 0, reason, culprit)


@BOTH
def test_every_vote_a_yes_goes_through_the_log_before_anybody_is_asked_to_precommit(path: Path) -> None:
    driver = begun("ab", path)
    assert driver.called("a", Verb.PREPARE, YES) == ()
    assert driver.called("b", Verb.PREPARE, YES) == (Propose(Precommit("t"), Haste.NOW),)
    assert driver.proposed(Precommit("t")) == (Call("a", Verb.PRECOMMIT), Call("b", Verb.PRECOMMIT))


@BOTH
def test_a_no_aborts(path: Path) -> None:
    driver = begun("ab", path)
    driver.called("a", Verb.PREPARE, YES)
    assert driver.called("b", Verb.PREPARE, no()) == (Propose(abort("no money", "b", ("b",))),)


@BOTH
def test_it_may_abort_for_being_late_until_it_is_precommitting(path: Path) -> None:
    """Also a leader that has taken it over: nobody can have been told anything."""
    driver = taken_over(path=path)
    driver.step()
    driver.now = DEADLINE_S
    silent = "no vote within 10000 ms from a at bank-a, b at bank-b"
    assert driver.effects() == (Propose(overdue(silent)),)


def test_an_operator_ends_the_first_phase_and_not_the_second() -> None:
    by = BY_EXPIRY + "ann"
    driver = begun("ab", Path.THREE_PHASE)
    driver.facts.expiry = Expiry(by, "enough")
    assert driver.effects() == (Propose(Decide("t", Decision.ABORT, by, 0, "enough")),)
    driver = precommitting()
    driver.facts.expiry = Expiry(by, "enough")
    assert driver.effects() == ()


def test_a_majority_that_has_precommitted_is_the_decision() -> None:
    driver = precommitting("abcd")
    assert driver.called("a", Verb.PRECOMMIT, PRECOMMITTED) == ()
    assert driver.called("b", Verb.PRECOMMIT, PRECOMMITTED) == (), "two of four are none"
    assert driver.called("d", Verb.PRECOMMIT, PRECOMMITTED) == (Propose(commit()),)
    told = driver.proposed(commit())
    assert told == tuple(Call(name, Verb.COMMIT) for name in "abcd")


def test_one_that_has_promised_others_is_asked_again_and_does_not_count() -> None:
    driver = precommitting("ab")
    driver.called("a", Verb.PRECOMMIT, PRECOMMITTED)
    driver.called("b", Verb.PRECOMMIT, PROMISED)
    driver.now = 0.1
    assert driver.effects() == (Call("b", Verb.PRECOMMIT),)


@pytest.mark.parametrize("answer", [YES, UNKNOWN, None, PROMISED])
def test_what_is_no_promise_to_the_coordinators_does_not_count(answer: Answer | None) -> None:
    driver = precommitting("a")
    assert [each for each in driver.called("a", Verb.PRECOMMIT, answer) if isinstance(each, Propose)] == []


def test_who_knows_nothing_of_its_yes_is_reported_and_asked_again() -> None:
    """Seen red without a word: if none of them knows anything, it precommits for ever."""
    driver = precommitting("ab")
    driver.called("a", Verb.PRECOMMIT, UNKNOWN)
    step = driver.step()
    assert step.contradiction == "branch a at bank-a knows nothing of a yes that it voted, and does not precommit"
    driver.now = 0.1
    assert driver.effects() == (Call("a", Verb.PRECOMMIT),)
    driver.called("a", Verb.PRECOMMIT, PRECOMMITTED)
    assert driver.step().contradiction == ""


def test_a_promise_is_not_taken_back() -> None:
    """Seen red with the last answer counting only: it may be that of a later ballot, which leans the same way."""
    driver = precommitting("ab")
    driver.called("a", Verb.PRECOMMIT, PRECOMMITTED)
    later = Register(Leaning.PRECOMMITTED, Ballot(2, 1), Ballot(2, 1))
    driver.called("a", Verb.PRECOMMIT, Answer(BranchState.PREPARED, three_phase=Terms(register=later)))
    assert driver.called("b", Verb.PRECOMMIT, PRECOMMITTED) == (Propose(commit()),)


def test_late_in_the_second_phase_nothing_is_aborted() -> None:
    driver = precommitting()
    driver.now = 100 * DEADLINE_S
    assert [effect for effect in driver.effects() if isinstance(effect, Propose)] == []


@BOTH
@pytest.mark.parametrize(
    ("said", "decision"),
    [
        (COMMITTED, follow(Decision.COMMIT)),
        (Answer(BranchState.ABORTED), follow(Decision.ABORT, "its participants have ended it", "b")),
        (Answer(BranchState.ABORTED, "pre-aborted"), follow(Decision.ABORT, "pre-aborted", "b")),
    ],
)
def test_it_follows_what_the_participants_have_decided(path: Path, said: Answer, decision: Decide) -> None:
    driver = precommitting(path=path)
    assert driver.called("b", Verb.PRECOMMIT, said) == (Propose(decision),)


def test_who_has_voted_read_only_precommits_too_and_needs_no_telling() -> None:
    """It keeps a register as everybody does, or the majority would be another one."""
    driver = begun("ab", Path.THREE_PHASE)
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, READ_ONLY)
    assert driver.proposed(Precommit("t")) == (Call("a", Verb.PRECOMMIT), Call("b", Verb.PRECOMMIT))
    driver.called("b", Verb.PRECOMMIT, PRECOMMITTED._replace(state=BranchState.READ_ONLY))
    assert driver.called("a", Verb.PRECOMMIT, PRECOMMITTED) == (Propose(commit()),)
    assert driver.proposed(commit()) == (Call("a", Verb.COMMIT),)
    assert driver.called("a", Verb.COMMIT, COMMITTED) == (end("a", "b"),)


def test_a_new_leader_goes_on_from_the_record() -> None:
    driver = taken_over(Precommit("t"), path=Path.THREE_PHASE)
    assert driver.effects() == (Call("a", Verb.PRECOMMIT), Call("b", Verb.PRECOMMIT))


def test_nothing_is_implied() -> None:
    """A caller hears what the record holds."""
    driver = precommitting("a")
    step = driver.hear("a", Verb.PRECOMMIT, PRECOMMITTED)
    assert step.implied is None


# The textbook


def unsafe(*named: str) -> tuple[Driver, tuple[Effect, ...]]:
    driver = precommitting(path=Path.UNSAFE_COMMIT_ON_SILENCE)
    effects: tuple[Effect, ...] = ()
    for name in named:
        effects = driver.called(name, Verb.PRECOMMIT, PRECOMMITTED)
    return driver, effects


def test_the_textbook_waits_for_all_who_answer() -> None:
    """Who has not precommitted would abort on silence."""
    assert unsafe("a", "b")[1] == ()
    assert unsafe("a", "b", "c")[1] == (Propose(commit()),)


def test_the_textbook_commits_when_it_is_late() -> None:
    driver, _ = unsafe("a")
    driver.now = DEADLINE_S
    assert driver.effects() == (Propose(commit()),)


def test_the_deadline_is_nobodys_reason_in_the_log() -> None:
    """The table knows no abort for lateness there, whoever asked for it."""
    driver = precommitting()
    driver.ledger.execute(Decide("t", Decision.ABORT, BY_DEADLINE, 0))
    assert driver.record is not None
    assert driver.record.decision is None
