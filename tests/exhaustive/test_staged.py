"""The staged path in small worlds: what a client may hear before the decision is recorded stays true.

Goal: a leader implies a decision from the record of the branches and their votes, and tells it. Whatever happens then,
a crash, a takeover, a deadline before or after it, a leader that is cut off from the log and goes on implying from what
it hears while another one drives: no record ever says the contrary, nobody hears two decisions, whoever asks after
somebody was told hears no less, and in the end the transaction is decided and every branch has ended accordingly.
Method: as in `test_two_phase`. The canaries remove the conditions of the path one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement

import pytest

from coordinator.effects import Call, Step
from coordinator.facts import Facts
from coordinator.ledger import transitions
from coordinator.ledger.commands import BY_VOTES, Decide
from coordinator.ledger.records import Decision, Path, Phase, TransactionRecord
from coordinator.ledger.transitions import Event, Guard, Transition
from coordinator.protocols import two_phase
from coordinator.protocols.two_phase import Plan
from participant.branch import Ask, Rule, Verdict
from participant.wire import BranchState, Verb
from tests.exhaustive.broken import breaks, votes
from tests.exhaustive.search import Census, search
from tests.exhaustive.states import FORGOTTEN, with_branch
from tests.exhaustive.world import NO, READ_ONLY, YES, Rules, Violation, World

WILLS = (YES, NO, READ_ONLY)
PAIRS = list(combinations_with_replacement(WILLS, 2))


def saw_both_ends(census: Census, wills: tuple[str, ...]) -> bool:
    return census.aborted > 0 and (census.committed > 0) is (NO not in wills)


@pytest.mark.parametrize("wills", PAIRS, ids="+".join)
def test_two_branches_one_crash_and_one_late_or_lost_reply(wills: tuple[str, ...]) -> None:
    census = search(Rules(Path.STAGED), wills, crashes=1, timeouts=1)
    assert census.worlds > 5_000
    assert saw_both_ends(census, wills)


@pytest.mark.parametrize("wills", PAIRS, ids="+".join)
def test_two_branches_and_a_leader_that_is_cut_off(wills: tuple[str, ...]) -> None:
    """It goes on asking and telling while its successor asks, prevents and decides."""
    census = search(Rules(Path.STAGED), wills, crashes=0, timeouts=0, cuts=1)
    assert census.worlds > 2_000
    assert saw_both_ends(census, wills)


def test_two_branches_a_leader_that_is_cut_off_and_one_request_that_comes_twice() -> None:
    census = search(Rules(Path.STAGED), (YES, YES), crashes=0, timeouts=0, copies=1, cuts=1)
    assert census.worlds > 5_000
    assert saw_both_ends(census, (YES, YES))


@pytest.mark.parametrize("will", WILLS)
@pytest.mark.parametrize("path", [Path.STAGED, Path.ONE_PHASE])
def test_one_branch_a_leader_that_is_cut_off_and_everything_else(path: Path, will: str) -> None:
    """With one crash, which makes a third leader, and one late or lost reply."""
    census = search(Rules(path), (will,), crashes=1, timeouts=1, cuts=1)
    assert census.worlds > 5_000
    assert saw_both_ends(census, (will,))


@pytest.mark.parametrize("wills", [(YES, YES, YES), (YES, YES, READ_ONLY)], ids="+".join)
def test_three_branches_and_one_crash(wills: tuple[str, ...]) -> None:
    census = search(Rules(Path.STAGED), wills, crashes=1, timeouts=0)
    assert census.worlds > 5_000
    assert saw_both_ends(census, wills)


@pytest.mark.parametrize("wills", [(YES, YES), (YES, NO), (YES, READ_ONLY)], ids="+".join)
@pytest.mark.parametrize("paths", [(Path.STAGED, Path.CLASSIC), (Path.CLASSIC, Path.STAGED)], ids=" then ".join)
def test_a_next_attempt_on_another_path_and_one_request_that_comes_twice(
    paths: tuple[Path, Path], wills: tuple[str, ...]
) -> None:
    """Harmless where no attempt leaves the decision to a branch: nothing was told before the record was there."""
    census = search(Rules(paths[0], retry_paths=paths), wills, crashes=1, timeouts=0, copies=1)
    assert census.worlds > 2_000
    assert saw_both_ends(census, wills)


# Canaries: the conditions of the path, one by one


def test_a_prepared_branch_that_aborts_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Condition: a yes is irrevocable."""
    breaks(monkeypatch, BranchState.PREPARED, Ask.EXPIRE, Rule(Verdict.RUN, (BranchState.ABORTED,)))
    with pytest.raises(Violation, match="one branch committed, another aborted"):
        search(Rules(Path.STAGED), (YES, YES), crashes=1, timeouts=0)


class PreventsForNow(Rules):
    """The participant answers *prevented*, but leaves no tombstone."""

    def participated(self, durable: str, will: str, verb: str, one_phase: bool) -> tuple[str, str, str]:
        if verb == Verb.PREVENT and durable == BranchState.UNKNOWN:
            return durable, BranchState.ABORTED, ""
        return super().participated(durable, will, verb, one_phase)


def test_a_prevention_that_leaves_no_tombstone_is_found() -> None:
    """Condition: what was prevented stays so. A late prepare gives a cut-off leader the vote that it waits for.

    Somebody must still be listening for that vote: a crash alone does no harm.
    """
    search(PreventsForNow(Path.STAGED, alarms=False), (YES, YES), crashes=1, timeouts=0)
    with pytest.raises(Violation, match="the client was told commit, the record says abort"):
        search(PreventsForNow(Path.STAGED, alarms=False), (YES, YES), crashes=0, timeouts=0, cuts=1)


def test_another_list_of_branches_for_the_same_gid_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Condition: the record of the branches is frozen. The ledger does not compare the digests."""
    monkeypatch.setitem(transitions._HOLDS, Guard.SAME_REQUEST, lambda record, command: True)
    with pytest.raises(Violation, match="told commit, of branches that nobody has asked"):
        search(Rules(Path.STAGED), (YES, YES), crashes=0, timeouts=0)


class BeginsAgain(Rules):
    """What was aborted may be begun again under its gid; for what the client hears this is a new transaction."""

    def faults(self, world: World) -> Iterator[tuple[str, World]]:
        yield from super().faults(world)
        if world.phase is Phase.ABORTED and not world.driver and world.copies:
            anew = world._replace(
                phase=None,
                tombstone=False,
                path=self.path,
                driver="plan",
                told="",
                copies=world.copies - 1,
                branches=tuple(b._replace(ended=False) for b in world.branches),
            )
            yield "the client begins again what was aborted", self.step(anew)


def test_a_gid_that_is_begun_again_is_found() -> None:
    """Condition: an attempt has its own number, which is the gid. A late abort of the first one hits the second."""
    with pytest.raises(Violation, match="one branch committed, another aborted"):
        search(BeginsAgain(Path.STAGED, alarms=False), (YES, YES), crashes=1, timeouts=1, copies=1)


def takes_over_as_its_own(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """A leader that has taken over believes that nobody was told anything."""
    if plan is None and record is not None and record.phase is Phase.PREPARING:
        plan = Plan(record.gid, record.digest, record.path, record.branches, record.deadline_ms)
    return two_phase.decide(plan, record, facts, now)


def test_a_late_abort_after_a_takeover_that_prevents_nobody_is_found() -> None:
    """Condition: who takes over finds out by preventing."""
    with pytest.raises(Violation, match="the client was told commit, the record says abort"):
        search(Rules(Path.STAGED, decide=takes_over_as_its_own), (YES, YES), crashes=1, timeouts=0)


class AnswersReaders(Rules):
    """Whoever leads answers who reads: "undecided", while it has not found out."""

    def answers_readers(self, world: World) -> bool:
        return world.phase is Phase.PREPARING


def test_a_reader_who_hears_less_than_was_told_is_found() -> None:
    """Why a leader that has taken over lets readers wait (`Transactions.outcome`)."""
    with pytest.raises(Violation, match="the client was told commit, and who asks then hears nothing of it"):
        search(AnswersReaders(Path.STAGED), (YES, YES), crashes=1, timeouts=0)


def test_a_ledger_in_which_the_last_decision_wins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Condition: racing deciders agree. A commit comes after an abort for lateness that was given up."""
    contrary = Transition(Phase.ABORTING, Event.COMMIT, (Guard.FROM_VOTES, Guard.OWED), Phase.COMMITTING)
    monkeypatch.setitem(transitions._ROWS, (Phase.ABORTING, Event.COMMIT), (contrary,))
    with pytest.raises(Violation, match="the client was told abort, the record says commit"):
        search(Rules(Path.STAGED), (YES, YES), crashes=0, timeouts=1)


def commits_what_is_implied(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Begins phase two while the decision is on its way into the log."""
    step = two_phase.decide(plan, record, facts, now)
    if record is None or step.implied is None or step.implied.decision is not Decision.COMMIT:
        return step
    uncalled = [b.branch for b in record.branches if facts.of(b.branch).question is not Verb.COMMIT]
    return step._replace(effects=step.effects + tuple(Call(branch, Verb.COMMIT) for branch in uncalled))


class Hasty(Rules):
    """A commit before its record breaks no promise here: only what comes of it counts."""

    commits_unrecorded = True


class Forgetful(Hasty):
    """A participant that forgets a branch as soon as its leader knows the end of it.

    A commit of what it does not know it takes for a repeat, as XA's XAER_NOTA is taken.
    """

    def faults(self, world: World) -> Iterator[tuple[str, World]]:
        yield from super().faults(world)
        for i, branch in enumerate(world.branches):
            if branch.durable == branch.fact[3] == BranchState.COMMITTED and not branch.requests:
                yield f"{branch.will} forgets", with_branch(world, i, branch._replace(durable=FORGOTTEN))

    def participated(self, durable: str, will: str, verb: str, one_phase: bool) -> tuple[str, str, str]:
        if durable != FORGOTTEN:
            return super().participated(durable, will, verb, one_phase)
        if verb == Verb.COMMIT:
            return FORGOTTEN, BranchState.COMMITTED, ""
        after, *said = super().participated(BranchState.UNKNOWN, will, verb, one_phase)
        return FORGOTTEN if after == BranchState.UNKNOWN else after, *said


def test_phase_two_of_an_implied_decision_whose_branches_are_forgotten_is_found() -> None:
    """Condition: phase two waits for the record, *or* nobody forgets. Each alone keeps the promises."""
    wills = (YES, YES)
    with pytest.raises(Violation, match="committed before the commit was recorded"):
        search(Rules(Path.STAGED, decide=commits_what_is_implied), wills, crashes=0, timeouts=0)
    search(Hasty(Path.STAGED, decide=commits_what_is_implied), wills, crashes=1, timeouts=0)
    search(Forgetful(Path.STAGED), wills, crashes=1, timeouts=0)
    with pytest.raises(Violation, match="one branch committed, another aborted"):
        search(Forgetful(Path.STAGED, decide=commits_what_is_implied), wills, crashes=1, timeouts=0)


class CannotPrevent(Rules):
    """The participant does not know the verb: what comes back is no answer."""

    def participated(self, durable: str, will: str, verb: str, one_phase: bool) -> tuple[str, str, str]:
        return (durable, "", "") if verb == Verb.PREVENT else super().participated(durable, will, verb, one_phase)


def test_the_staged_path_with_a_participant_that_cannot_prevent_is_found() -> None:
    """Condition: each participant can prevent. A leader that took over asks for ever; the classic path ends."""
    search(CannotPrevent(Path.CLASSIC), (YES, YES), crashes=1, timeouts=0)
    with pytest.raises(Violation, match="it goes round for ever"):
        search(CannotPrevent(Path.STAGED), (YES, YES), crashes=1, timeouts=0)


def forgets_its_own_abort(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Implies from late votes, although it has proposed to abort for lateness."""
    facts.overdue = False
    return two_phase.decide(plan, record, facts, now)


def test_a_commit_that_is_implied_beside_an_abort_under_way_is_found() -> None:
    with pytest.raises(Violation, match="the client was told commit, the record says abort"):
        search(Rules(Path.STAGED, decide=forgets_its_own_abort), (YES, YES), crashes=0, timeouts=0)


def implies_from_votes_alone(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Does not wait for the record of the branches."""
    step = two_phase.decide(plan, record, facts, now)
    if record is None and plan is not None and votes(plan, facts) == {BranchState.PREPARED}:
        return step._replace(implied=Decide(plan.gid, Decision.COMMIT, BY_VOTES, 0))
    return step


def test_a_commit_that_is_implied_before_the_branches_are_recorded_is_found() -> None:
    """The leader dies, the record with it; a participant in doubt asks, and hears *abort*."""
    with pytest.raises(Violation, match="the client was told commit, the record says abort"):
        search(Rules(Path.STAGED, decide=implies_from_votes_alone), (YES, YES), crashes=1, timeouts=0)
