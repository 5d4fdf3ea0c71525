"""Two-phase commit, step by step: what `decide` asks for in each situation."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from coordinator.effects import Call, CallEnded, Effect, ProposalEnded, Propose, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_INQUIRY, BY_VOTES, Begin, Command, Decide, End
from coordinator.ledger.records import BranchRecord, Decision, Path, TransactionRecord
from coordinator.ledger.table import Accepted, Ledger
from coordinator.protocols.two_phase import BACKOFF, REASON_CHARS_MAX, Plan, choose_path, decide
from participant.wire import Answer, BranchState, Capabilities, Verb

DEADLINE_MS = 10_000
YES = Answer(BranchState.PREPARED)
READ_ONLY = Answer(BranchState.READ_ONLY)
COMMITTED = Answer(BranchState.COMMITTED)
UNKNOWN = Answer(BranchState.UNKNOWN)


def no(reason: str = "no money") -> Answer:
    return Answer(BranchState.ABORTED, reason)


def plan(names: str = "ab", path: Path = Path.CLASSIC) -> Plan:
    return Plan("t", b"d", path, tuple(BranchRecord(n, f"bank-{n}", "debit", b"") for n in names), DEADLINE_MS)


def begin_of(asked: Plan) -> Begin:
    return Begin(asked.gid, asked.digest, asked.path, asked.branches, asked.deadline_ms, at_ms=0)


@dataclass
class Driver:
    """The smallest driver there can be: it notes every effect, and the test says how each came back."""

    plan: Plan | None
    ledger: Ledger = field(default_factory=Ledger)
    facts: Facts = field(default_factory=lambda: Facts(0.0))
    now: float = 0.0

    @property
    def record(self) -> TransactionRecord | None:
        return self.ledger.get("t")

    def step(self) -> Step:
        step = decide(self.plan, self.record, self.facts, self.now)
        for effect in step.effects:
            self.facts.note(effect)
        return step

    def effects(self) -> tuple[Effect, ...]:
        return self.step().effects

    def apply(self, command: Command) -> None:
        assert isinstance(self.ledger.execute(command), Accepted)

    def proposed(self, command: Command) -> tuple[Effect, ...]:
        """The proposal was applied; what comes next?"""
        self.apply(command)
        self.facts.fold(ProposalEnded(command), self.now, 0.5)
        return self.effects()

    def called(self, branch: str, verb: Verb, answer: Answer | None, error: str = "") -> tuple[Effect, ...]:
        """The call came back; what comes next?"""
        self.facts.fold(CallEnded(branch, verb, answer, error), self.now, 0.5)
        return self.effects()


def started(names: str = "ab", path: Path = Path.CLASSIC) -> Driver:
    """A driver whose first effects are under way."""
    driver = Driver(plan(names, path))
    driver.step()
    return driver


def begun(names: str = "ab", path: Path = Path.CLASSIC) -> Driver:
    driver = started(names, path)
    assert driver.plan is not None
    driver.proposed(begin_of(driver.plan))
    return driver


def taken_over(*commands: Command, names: str = "ab", path: Path = Path.CLASSIC) -> Driver:
    """A new leader: the record, and nothing else."""
    driver = Driver(None)
    for command in (begin_of(plan(names, path)), *commands):
        driver.apply(command)
    return driver


def commit(done: tuple[str, ...] = ()) -> Decide:
    return Decide("t", Decision.COMMIT, BY_VOTES, 0, done=done)


def abort(reason: str, culprit: str, done: tuple[str, ...]) -> Decide:
    return Decide("t", Decision.ABORT, BY_VOTES, 0, reason, culprit, done)


# Phase one


def test_the_record_and_all_votes_are_asked_for_at_once() -> None:
    step = Driver(plan()).step()
    assert step == Step(
        (Propose(begin_of(plan())), Call("a", Verb.PREPARE), Call("b", Verb.PREPARE)), wake_at=DEADLINE_MS / 1000
    )


def test_asking_again_before_anything_came_back_asks_for_nothing() -> None:
    assert started().effects() == ()


def test_all_yes_commits_once_the_record_is_there() -> None:
    driver = started()
    assert driver.called("a", Verb.PREPARE, YES) == ()
    assert driver.called("b", Verb.PREPARE, YES) == (), "the votes alone decide nothing"
    assert driver.proposed(begin_of(plan())) == (Propose(commit()),)


def test_a_no_aborts_at_once_with_its_reason() -> None:
    driver = begun("abc")
    assert driver.called("c", Verb.PREPARE, READ_ONLY) == ()
    assert driver.called("a", Verb.PREPARE, no()) == (Propose(abort("no money", "a", ("a", "c"))),)


def test_after_a_no_nobody_is_asked_again_while_the_record_is_on_its_way() -> None:
    driver = started()
    driver.called("a", Verb.PREPARE, None)
    driver.now = 5.0
    assert driver.called("b", Verb.PREPARE, no()) == ()
    assert driver.proposed(begin_of(plan())) == (Propose(abort("no money", "b", ("b",))),)


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ("", "voted no"),
        ("x" * 2 * REASON_CHARS_MAX, "x" * REASON_CHARS_MAX),
        ("broken \ud800 text", "broken ? text"),
    ],
)
def test_a_reason_is_made_fit_for_the_record(said: str, recorded: str) -> None:
    assert begun().called("a", Verb.PREPARE, no(said)) == (Propose(abort(recorded, "a", ("a",))),)


def test_a_vote_that_did_not_come_aborts_at_the_deadline() -> None:
    driver = begun("abc")
    driver.called("b", Verb.PREPARE, YES)
    driver.now = DEADLINE_MS / 1000
    assert driver.step() == Step(
        (Propose(Decide("t", Decision.ABORT, BY_DEADLINE, 0, "no vote within 10000 ms from a at bank-a, c at bank-c")),)
    )


def test_an_abort_by_deadline_says_why_the_vote_did_not_come() -> None:
    driver = begun("ab")
    driver.called("b", Verb.PREPARE, YES)
    driver.called("a", Verb.PREPARE, None, "connection refused")
    driver.now = DEADLINE_MS / 1000
    reason = "no vote within 10000 ms from a at bank-a (connection refused)"
    assert driver.effects() == (Propose(Decide("t", Decision.ABORT, BY_DEADLINE, 0, reason)),)


def test_votes_that_are_in_commit_even_when_the_deadline_has_passed() -> None:
    driver = started()
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, YES)
    driver.now = DEADLINE_MS / 1000 + 1
    assert driver.proposed(begin_of(plan())) == (Propose(commit()),)


def test_past_the_deadline_without_a_record_only_the_record_is_waited_for() -> None:
    driver = started()
    driver.called("a", Verb.PREPARE, None)
    driver.now = DEADLINE_MS / 1000
    assert driver.step() == Step()


def test_an_unknown_vote_is_asked_for_again_after_a_while() -> None:
    driver = begun()
    driver.now = 1.0
    assert driver.called("a", Verb.PREPARE, None) == ()
    assert driver.step().wake_at == 1.0 + BACKOFF.base_s / 2
    driver.now = 1.0 + BACKOFF.base_s / 2
    assert driver.effects() == (Call("a", Verb.PREPARE),)


@pytest.mark.parametrize("answer", [Answer(BranchState.ABORTED, "busy", retry=True), UNKNOWN])
def test_an_answer_that_is_no_vote_is_asked_for_again(answer: Answer) -> None:
    driver = begun()
    assert driver.called("a", Verb.PREPARE, answer) == ()
    driver.now = 1.0
    assert driver.effects() == (Call("a", Verb.PREPARE),)


@pytest.mark.parametrize("state", [BranchState.UNKNOWN, BranchState.WORKING])
def test_nothing_but_a_yes_counts_as_one(state: BranchState) -> None:
    driver = begun()
    driver.called("a", Verb.PREPARE, YES)
    assert driver.called("b", Verb.PREPARE, Answer(state)) == ()
    driver.now = DEADLINE_MS / 1000
    reason = "no vote within 10000 ms from b at bank-b"
    assert driver.effects() == (Propose(Decide("t", Decision.ABORT, BY_DEADLINE, 0, reason)),)


def test_a_lost_proposal_is_made_again_after_a_while() -> None:
    driver = started()
    driver.facts.fold(ProposalEnded(begin_of(plan())), 1.0, 0.5)
    driver.now = 1.0
    assert driver.step().effects == ()
    driver.now = 2.0
    assert driver.effects() == (Propose(begin_of(plan())),)


def test_read_only_branches_take_no_part_in_phase_two() -> None:
    driver = begun()
    driver.called("a", Verb.PREPARE, READ_ONLY)
    assert driver.called("b", Verb.PREPARE, YES) == (Propose(commit(done=("a",))),)
    assert driver.proposed(commit(done=("a",))) == (Call("b", Verb.COMMIT),)


def test_when_all_are_read_only_the_decision_is_the_end() -> None:
    driver = begun()
    driver.called("a", Verb.PREPARE, READ_ONLY)
    assert driver.called("b", Verb.PREPARE, READ_ONLY) == (Propose(commit(done=("a", "b"))),)
    driver.proposed(commit(done=("a", "b")))
    assert driver.step() == Step(done=True)


# Phase two


def test_commit_calls_follow_the_record_and_one_end_names_all() -> None:
    driver = begun()
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, YES)
    assert driver.effects() == (), "the decision is proposed, not recorded"
    assert driver.proposed(commit()) == (Call("a", Verb.COMMIT), Call("b", Verb.COMMIT))
    assert driver.called("b", Verb.COMMIT, COMMITTED) == (), "a is expected any moment"
    assert driver.called("a", Verb.COMMIT, COMMITTED) == (Propose(End("t", ("a", "b")), urgent=False),)
    driver.proposed(End("t", ("a", "b")))
    assert driver.step() == Step(done=True)


def test_a_branch_that_keeps_us_waiting_is_ended_apart() -> None:
    driver = taken_over(commit())
    assert driver.effects() == (Call("a", Verb.COMMIT), Call("b", Verb.COMMIT))
    driver.called("a", Verb.COMMIT, COMMITTED)
    assert driver.called("b", Verb.COMMIT, None) == (Propose(End("t", ("a",)), urgent=False),)
    driver.proposed(End("t", ("a",)))
    driver.now = 1.0
    assert driver.effects() == (Call("b", Verb.COMMIT),), "and asked until it confirms"
    assert driver.called("b", Verb.COMMIT, COMMITTED) == (Propose(End("t", ("b",)), urgent=False),)


def test_everybody_who_may_be_prepared_is_told_of_an_abort() -> None:
    driver = begun("abc")
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, no())
    effects = driver.proposed(abort("no money", "b", ("b",)))
    assert effects == (Call("a", Verb.ABORT), Call("c", Verb.ABORT)), "c has not answered: it may be prepared"
    driver.called("a", Verb.ABORT, no())
    assert driver.called("c", Verb.PREPARE, YES) == (), "a late vote changes nothing"
    assert driver.called("c", Verb.ABORT, no()) == (Propose(End("t", ("a", "c")), urgent=False),)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (no(), "branch a at bank-a says aborted, but"),
        (UNKNOWN, "bank-a knows nothing of a branch that it had prepared"),
    ],
)
def test_a_committed_branch_that_is_denied_is_loud_and_never_ended(answer: Answer, says: str) -> None:
    driver = taken_over(commit(done=("b",)))
    driver.step()
    assert driver.called("a", Verb.COMMIT, answer) == ()
    step = driver.step()
    assert says in step.contradiction
    assert (step.done, step.wake_at) == (False, BACKOFF.base_s / 2)
    driver.now = 1.0
    assert driver.effects() == (Call("a", Verb.COMMIT),)
    repaired = driver.called("a", Verb.COMMIT, COMMITTED)
    assert repaired == (Propose(End("t", ("a",)), urgent=False),)
    assert driver.step().contradiction == ""


def test_a_commit_by_somebody_else_of_what_we_abort_is_loud_and_never_ended() -> None:
    driver = taken_over(abort("no", "b", ("b",)))
    driver.step()
    driver.called("a", Verb.ABORT, COMMITTED)
    step = driver.step()
    assert step.contradiction == "branch a at bank-a says committed, but the transaction is aborted"
    assert not step.done


# Takeover


def test_a_new_leader_asks_for_the_votes_again() -> None:
    driver = taken_over()
    driver.now = driver.facts.started_at = 50.0
    assert driver.step() == Step((Call("a", Verb.PREPARE), Call("b", Verb.PREPARE)), wake_at=60.0)


def test_a_new_leader_tells_the_decision_to_every_open_branch() -> None:
    assert taken_over(commit(done=("b",))).effects() == (Call("a", Verb.COMMIT),)
    assert taken_over(abort("no", "a", ("a",))).effects() == (Call("b", Verb.ABORT),)


def test_a_finished_or_forgotten_transaction_needs_no_driver() -> None:
    assert taken_over(commit(done=("a", "b"))).step() == Step(done=True)
    assert Driver(None).step() == Step(done=True)


# One phase


def test_a_single_branch_decides_by_itself() -> None:
    driver = Driver(plan("a", Path.ONE_PHASE))
    one = Call("a", Verb.COMMIT, one_phase=True)
    assert driver.effects() == (Propose(begin_of(plan("a", Path.ONE_PHASE))), one)
    driver.proposed(begin_of(plan("a", Path.ONE_PHASE)))
    assert driver.called("a", Verb.COMMIT, COMMITTED) == (Propose(commit(done=("a",))),)
    driver.proposed(commit(done=("a",)))
    assert driver.step() == Step(done=True)


def test_a_single_branch_that_refuses_aborts() -> None:
    assert begun("a", Path.ONE_PHASE).called("a", Verb.COMMIT, no()) == (Propose(abort("no money", "a", ("a",))),)


def test_a_new_leader_repeats_the_one_phase_call() -> None:
    assert taken_over(names="a", path=Path.ONE_PHASE).effects() == (Call("a", Verb.COMMIT, one_phase=True),)


def late_one_phase() -> Driver:
    driver = begun("a", Path.ONE_PHASE)
    driver.now = DEADLINE_MS / 1000
    assert driver.step() == Step((Call("a", Verb.PREVENT),)), "lateness alone decides nothing"
    return driver


def test_past_the_deadline_the_single_branch_is_prevented() -> None:
    reason = "no outcome within 10000 ms from a"
    assert late_one_phase().called("a", Verb.PREVENT, no("prevented")) == (
        Propose(Decide("t", Decision.ABORT, BY_DEADLINE, 0, reason, done=("a",))),
    )


def test_what_had_committed_before_it_was_prevented_is_committed() -> None:
    assert late_one_phase().called("a", Verb.PREVENT, COMMITTED) == (Propose(commit(done=("a",))),)


def test_what_had_prepared_before_it_was_prevented_is_committed() -> None:
    """An abort could be overtaken by the one-phase commit that is still on its way."""
    driver = late_one_phase()
    assert driver.called("a", Verb.PREVENT, YES) == (Propose(commit()),)
    assert driver.proposed(commit()) == (Call("a", Verb.COMMIT),)


# A gid that is not ours


def tombstoned(driver: Driver) -> Driver:
    driver.apply(Decide("t", Decision.ABORT, BY_INQUIRY, 1))
    return driver


def test_branches_that_nobody_records_are_told_once_of_the_abort() -> None:
    driver = started("abc")
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, no())
    effects = tombstoned(driver).effects()
    assert effects == (Call("a", Verb.ABORT), Call("c", Verb.ABORT))
    assert driver.called("a", Verb.ABORT, None) == ()
    assert not driver.step().done, "c is still being told"
    driver.called("c", Verb.ABORT, no())
    assert driver.step() == Step(done=True)


def test_a_plan_that_comes_after_its_tombstone_calls_nobody() -> None:
    assert tombstoned(Driver(plan())).step() == Step(done=True)


def test_a_single_branch_that_committed_before_the_tombstone_is_loud() -> None:
    driver = started("a", Path.ONE_PHASE)
    driver.called("a", Verb.COMMIT, COMMITTED)
    tombstoned(driver).step()
    driver.called("a", Verb.ABORT, COMMITTED)
    step = driver.step()
    assert (step.done, step.contradiction) == (
        True,
        "branch a at bank-a says committed, but the transaction is aborted",
    )


def test_another_request_of_the_same_gid_is_left_alone() -> None:
    driver = started()
    driver.apply(Begin("t", b"other", Path.CLASSIC, plan().branches, DEADLINE_MS, 0))
    assert driver.step() == Step(done=True)


# The path


def test_the_path_is_chosen_by_what_the_participants_can_do() -> None:
    can, cannot = Capabilities("bank-a"), Capabilities("bank-a", one_phase=False)
    one, two = plan("a").branches, plan("ab").branches
    assert choose_path(one, {"bank-a": can}) is Path.ONE_PHASE
    assert choose_path(one, {"bank-a": cannot}) is Path.CLASSIC
    cannot_prevent = Capabilities("bank-a", prevent=False)  # past the deadline there would be no way to decide
    assert choose_path(one, {"bank-a": cannot_prevent}) is Path.CLASSIC
    assert choose_path(two, {"bank-a": can, "bank-b": can}) is Path.CLASSIC
