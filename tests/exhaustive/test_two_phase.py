"""Two-phase commit in worlds small enough to be searched completely.

Goal: no order of deliveries, with a crash of any party at any point, with replies that come late or never, requests
that come twice, and a client that posts again to a leader which chooses another path, breaks atomicity, reverses what
was told, commits against a vote, aborts without a reason, or goes on for ever. Method: `search` visits every reachable
world; `world` says what may happen, and what bounds it. The staged path has worlds of its own in `test_staged`.
The canaries break one rule each and require that the search finds a schedule that shows it; a search that finds
nothing in them would be worth nothing above.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import pytest

from coordinator.effects import Call, Propose, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_DEADLINE, Decide
from coordinator.ledger.records import Decision, Path, Phase, TransactionRecord
from coordinator.protocols import two_phase
from coordinator.protocols.two_phase import Plan
from participant.branch import Ask, Rule, Verdict
from participant.wire import BranchState, Verb
from tests.exhaustive.broken import breaks, votes
from tests.exhaustive.search import search
from tests.exhaustive.world import NO, READ_ONLY, YES, Rules, Violation

WILLS = (YES, NO, READ_ONLY)


def both_ends_are_reached(wills: tuple[str, ...], committed: int, aborted: int) -> bool:
    """A search that never commits, or never aborts, has not looked at much."""
    return aborted > 0 and (committed > 0) is (NO not in wills)


@pytest.mark.parametrize("wills", list(combinations_with_replacement(WILLS, 2)), ids="+".join)
def test_two_branches_one_crash_and_one_late_or_lost_reply(wills: tuple[str, ...]) -> None:
    census = search(Rules(), wills, crashes=1, timeouts=1)
    assert census.worlds > 5_000
    assert both_ends_are_reached(wills, census.committed, census.aborted)


@pytest.mark.parametrize("wills", list(combinations_with_replacement(WILLS, 2)), ids="+".join)
def test_two_branches_one_crash_and_one_request_that_comes_twice(wills: tuple[str, ...]) -> None:
    census = search(Rules(), wills, crashes=1, timeouts=0, copies=1)
    assert census.worlds > 1_000
    assert both_ends_are_reached(wills, census.committed, census.aborted)


@pytest.mark.parametrize("wills", list(combinations_with_replacement(WILLS, 3)), ids="+".join)
def test_three_branches_and_one_crash(wills: tuple[str, ...]) -> None:
    census = search(Rules(), wills, crashes=1, timeouts=0)
    assert census.worlds > 1_000
    assert both_ends_are_reached(wills, census.committed, census.aborted)


@pytest.mark.parametrize("will", WILLS)
@pytest.mark.parametrize(
    "paths",
    [(Path.CLASSIC, Path.CLASSIC), (Path.ONE_PHASE, Path.ONE_PHASE), (Path.CLASSIC, Path.ONE_PHASE)],
    ids=" then ".join,
)
def test_one_branch_and_an_attempt_after_each_of_two_crashes(paths: tuple[Path, Path], will: str) -> None:
    """With one late or lost reply and one request that comes twice. Only a single branch has a choice of paths."""
    census = search(Rules(paths[0], retry_paths=paths[1:]), (will,), crashes=2, timeouts=1, copies=1)
    assert census.worlds > 1_000
    assert both_ends_are_reached((will,), census.committed, census.aborted)


# Canaries


def commits_too_early(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Calls commit as soon as the votes are in, while the decision is still on its way into the log."""
    step = two_phase.decide(plan, record, facts, now)
    if record is None or record.phase is not Phase.PREPARING or votes(record, facts) != {BranchState.PREPARED}:
        return step
    return step._replace(effects=step.effects + tuple(Call(b.branch, Verb.COMMIT) for b in record.branches))


def test_a_commit_call_before_the_decision_is_recorded_is_found() -> None:
    with pytest.raises(Violation, match="committed before the commit was recorded"):
        search(Rules(decide=commits_too_early), (YES, YES), crashes=1, timeouts=0)


def answers_too_early(record: TransactionRecord | None, facts: Facts) -> Decision | None:
    """Tells the client as soon as the votes are in."""
    if votes(record, facts) == {BranchState.PREPARED}:
        return Decision.COMMIT
    return None if record is None else record.decision


def test_an_answer_before_the_decision_is_recorded_is_found() -> None:
    """The leader dies, the next one hears no vote in time: the client was told the contrary."""
    with pytest.raises(Violation, match="the client was told commit, the record says abort"):
        search(Rules(reply=answers_too_early), (YES, YES), crashes=1, timeouts=0)


def presumes_commit(record: TransactionRecord | None) -> tuple[Decision | None, bool]:
    return (Decision.COMMIT, False) if record is None else (record.decision, False)


@pytest.mark.parametrize("wills", list(product((YES,), (YES, NO))), ids="+".join)
def test_presuming_commit_of_an_unknown_transaction_is_found(wills: tuple[str, ...]) -> None:
    with pytest.raises(Violation, match=r"a branch committed|one branch committed"):
        search(Rules(inquire=presumes_commit), wills, crashes=1, timeouts=0)


def presumes_abort_without_a_record(record: TransactionRecord | None) -> tuple[Decision | None, bool]:
    return (Decision.ABORT, False) if record is None else (record.decision, False)


def test_presuming_abort_while_the_record_is_on_its_way_is_found() -> None:
    """Why the abort of an unknown gid is made durable first: the late record would meet votes that were yes."""
    with pytest.raises(Violation, match=r"another aborted|commit of a branch that is aborted|for ever"):
        search(Rules(inquire=presumes_abort_without_a_record), (YES, YES), crashes=0, timeouts=0)


def forgets_the_votes_of_others(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Commits when anybody has voted yes."""
    step = two_phase.decide(plan, record, facts, now)
    if record is None or record.phase is not Phase.PREPARING or BranchState.PREPARED not in votes(record, facts):
        return step
    commit = Decide("t", Decision.COMMIT, "votes", 0)
    return Step() if facts.proposal.in_flight else Step((Propose(commit),))


def test_a_commit_without_all_votes_is_found() -> None:
    with pytest.raises(Violation, match="committed against a vote"):
        search(Rules(decide=forgets_the_votes_of_others), (YES, NO), crashes=0, timeouts=0)


def takes_silence_for_a_no(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Aborts a late one-phase transaction without preventing its participant."""
    step = two_phase.decide(plan, record, facts, now)
    if not any(isinstance(effect, Call) and effect.verb is Verb.PREVENT for effect in step.effects):
        return step
    return Step((Propose(Decide("t", Decision.ABORT, BY_DEADLINE, 0)),))


def test_a_late_single_branch_that_is_not_prevented_is_found() -> None:
    with pytest.raises(Violation, match="what is recorded as aborted"):
        search(Rules(Path.ONE_PHASE, decide=takes_silence_for_a_no), (YES,), crashes=0, timeouts=0)


def aborts_on_takeover(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Presumes too much: a new leader aborts what it finds undecided."""
    if plan is None and record is not None and record.phase is Phase.PREPARING:
        abort = Decide("t", Decision.ABORT, "votes", 0)
        return Step() if facts.proposal.in_flight else Step((Propose(abort),))
    return two_phase.decide(plan, record, facts, now)


def test_an_abort_because_of_a_leader_change_is_found() -> None:
    with pytest.raises(Violation, match="aborted although everybody agreed and nobody was late"):
        search(Rules(decide=aborts_on_takeover), (YES, YES), crashes=1, timeouts=0)


def forgets_to_abort(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Never tells anybody of an abort."""
    step = two_phase.decide(plan, record, facts, now)
    calls = (effect for effect in step.effects if not (isinstance(effect, Call) and effect.verb is Verb.ABORT))
    return step._replace(effects=tuple(calls))


def test_a_transaction_that_never_finishes_is_found() -> None:
    with pytest.raises(Violation, match="the transaction never finishes"):
        search(Rules(decide=forgets_to_abort), (YES, NO), crashes=0, timeouts=0)


def asks_for_ever(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """Takes no answer to an abort for one."""
    for branch in record.branches if record is not None and record.phase is Phase.ABORTING else ():
        facts.of(branch.branch).state = None
    return two_phase.decide(plan, record, facts, now)


def test_a_protocol_that_goes_round_for_ever_is_found() -> None:
    with pytest.raises(Violation, match="it goes round for ever"):
        search(Rules(decide=asks_for_ever), (YES, NO), crashes=0, timeouts=0)


def believes_in_its_proposals(record: TransactionRecord | None, facts: Facts) -> Decision | None:
    """Takes the end of a proposal for its success."""
    if (
        record is not None
        and record.decision is None
        and facts.proposal.question is Decide
        and not facts.proposal.in_flight
        and votes(record, facts) == {BranchState.PREPARED}
    ):
        return Decision.COMMIT
    return None if record is None else record.decision


def test_a_lost_decision_that_was_told_is_found() -> None:
    """The answer to the proposal is lost, and the leader dies: the next one decides anew."""
    search(Rules(reply=believes_in_its_proposals), (YES, YES), crashes=1, timeouts=0)
    with pytest.raises(Violation, match="the client was told commit, the record says abort"):
        search(Rules(reply=believes_in_its_proposals), (YES, YES), crashes=1, timeouts=1)


def test_a_participant_that_takes_a_repeated_prepare_for_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, BranchState.COMMITTED, Ask.PREPARE, Rule(Verdict.CONTRADICTION, (), "prepared twice"))
    search(Rules(), (YES,), crashes=0, timeouts=0)
    with pytest.raises(Violation, match="prepared twice"):
        search(Rules(), (YES,), crashes=0, timeouts=0, copies=1)


def test_a_prepared_branch_that_obeys_a_commit_in_one_phase_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the participant's table answers PREPARED there, and does nothing.

    The first attempt takes a vote and dies unrecorded; the second one commits in one phase, while the inquiry of the
    participant, late or with its answer late, has the transaction recorded as aborted. It takes both: without the
    change of the path, or without the late inquiry, the search finds nothing.
    """
    obeys = Rule(Verdict.RUN, (BranchState.COMMITTED,))
    breaks(monkeypatch, BranchState.PREPARED, Ask.COMMIT_ONE_PHASE, obeys)
    for path in (Path.CLASSIC, Path.ONE_PHASE):
        search(Rules(path), (YES,), crashes=1, timeouts=1)
    changed = Rules(Path.CLASSIC, retry_paths=(Path.ONE_PHASE,))
    search(changed, (YES,), crashes=1, timeouts=0)
    with pytest.raises(Violation, match="a branch committed what is recorded as aborted"):
        search(changed, (YES,), crashes=1, timeouts=1)


@pytest.mark.parametrize("will", [YES, READ_ONLY])
@pytest.mark.parametrize("path", [Path.CLASSIC, Path.STAGED])
def test_an_attempt_that_does_not_know_of_a_commit_in_one_phase_is_found(path: Path, will: str) -> None:
    """Why `intake.path_of` refuses while a participant cannot be asked what it can do.

    The first attempt has its only branch commit in one phase, and dies unrecorded. A next attempt on the same path asks
    for what has become of it; one on another path aborts at its deadline.
    """
    search(Rules(Path.ONE_PHASE), (will,), crashes=1, timeouts=1, copies=1)
    with pytest.raises(Violation, match=r"what is recorded as aborted|abort of a branch that is committed"):
        search(Rules(Path.ONE_PHASE, retry_paths=(path,)), (will,), crashes=1, timeouts=1, copies=1)
