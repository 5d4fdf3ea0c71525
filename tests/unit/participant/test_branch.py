"""The table of one branch: complete, and each promise of the barrier read off it by enumeration."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from participant.branch import FINAL, REASON_CHARS_MAX, RULES, Ask, Branch, Verdict, draw, judge
from participant.errors import InvariantError
from participant.ids import BranchKey
from participant.wire import BranchState

KEY = BranchKey("g", "b")
EVERY = list(itertools.product(BranchState, Ask))
PAGE = Path(__file__).parents[3] / "docs" / "internals" / "branches.md"
MARK = "<!-- drawn -->\n"


def test_every_state_has_a_rule_for_everything_that_can_be_asked() -> None:
    """Red when a row is taken out of the table."""
    assert set(RULES) == set(EVERY)


def test_the_documentation_shows_this_table() -> None:
    """Red whenever the table changes and the page does not; COMMITD_REWRITE=1 redraws it."""
    prose, _, drawn = PAGE.read_text(encoding="utf-8").partition(MARK)
    if os.environ.get("COMMITD_REWRITE"):
        PAGE.write_text(prose + MARK + draw(), encoding="utf-8")
        return
    assert drawn == draw()


def test_the_picture_shows_what_changes_a_branch_and_nothing_else() -> None:
    """Goal: no arrow for a repeat or a refusal."""
    drawn = draw()
    assert "    prepared --> committed: commit\n" in drawn
    assert "    [*] --> aborted: work, prepare, commit in one phase, abort, prevent\n" in drawn
    assert "committed --> aborted" not in drawn
    assert drawn.count(" --> [*]\n") == len(FINAL)


@pytest.mark.parametrize(("state", "ask"), EVERY)
def test_a_rule_says_what_its_verdict_needs(state: BranchState, ask: Ask) -> None:
    """Only RUN and EMPTY change anything, and a refusal has a reason for people."""
    rule = judge(state, ask)
    if rule.verdict in (Verdict.REPEAT, Verdict.REFUSE, Verdict.CONTRADICTION):
        assert rule.next == (state,)
    if rule.verdict is Verdict.EMPTY:
        assert rule.next == (BranchState.ABORTED,)
    assert bool(rule.why) == (rule.verdict in (Verdict.REFUSE, Verdict.CONTRADICTION))


@pytest.mark.parametrize(("state", "ask"), EVERY)
def test_every_move_outside_the_table_is_an_error(state: BranchState, ask: Ask) -> None:
    """`move` is the only way to change a branch; it was seen red with its invariant taken out."""
    rule = judge(state, ask)
    allowed = rule.next if rule.verdict in (Verdict.RUN, Verdict.EMPTY) else ()
    for to in BranchState:
        branch = Branch(KEY, state)
        if to in allowed:
            assert branch.move(ask, to, at_ms=7).state is to
        else:
            with pytest.raises(InvariantError, match=f"{ask} must not lead from {state} to {to}"):
                branch.move(ask, to, at_ms=7)


def _reachable(start: BranchState, asks: set[Ask]) -> set[BranchState]:
    """Every state that `asks`, in any order and number, can lead to."""
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for ask in asks:
            for after in RULES[state, ask].next:
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
    return seen


def test_a_commit_and_an_abort_are_for_ever() -> None:
    for state in (BranchState.COMMITTED, BranchState.ABORTED):
        assert _reachable(state, set(Ask)) == {state}


def test_a_yes_is_taken_back_by_nothing_but_the_decision() -> None:
    """Neither time, nor prevent, nor a repeat, nor more work moves a prepared branch."""
    decisions = {Ask.COMMIT, Ask.COMMIT_ONE_PHASE, Ask.ABORT}
    assert _reachable(BranchState.PREPARED, set(Ask) - decisions) == {BranchState.PREPARED}


def test_nothing_is_committed_that_did_not_vote() -> None:
    """The decision alone commits no branch that has not said yes before, in whatever state it is."""
    for state in set(BranchState) - {BranchState.PREPARED, BranchState.COMMITTED}:
        assert BranchState.COMMITTED not in RULES[state, Ask.COMMIT].next


def test_an_abort_or_prevent_keeps_a_late_prepare_out() -> None:
    """Empty rollback, hanging prepare: after either, no order of asks leads to a yes."""
    for ask in (Ask.ABORT, Ask.PREVENT):
        assert RULES[BranchState.UNKNOWN, ask].verdict is Verdict.EMPTY
        for after in RULES[BranchState.UNKNOWN, ask].next:
            assert _reachable(after, set(Ask)).isdisjoint({BranchState.PREPARED, BranchState.COMMITTED})


@pytest.mark.parametrize("state", sorted(set(BranchState) - {BranchState.COMMITTED}))
def test_an_abort_leaves_aborted_whatever_the_branch_was(state: BranchState) -> None:
    """ "ABORTED, always, unless COMMITTED", says the wire's contract."""
    assert RULES[state, Ask.ABORT].next == (BranchState.ABORTED,)


@pytest.mark.parametrize("state", list(BranchState))
def test_prevent_leaves_nothing_open(state: BranchState) -> None:
    """Its answer is never UNKNOWN or WORKING, so the coordinator may conclude from it."""
    assert set(RULES[state, Ask.PREVENT].next).isdisjoint({BranchState.UNKNOWN, BranchState.WORKING})


@pytest.mark.parametrize("state", list(BranchState))
def test_asking_for_the_outcome_changes_nothing(state: BranchState) -> None:
    assert RULES[state, Ask.OUTCOME].verdict is Verdict.REPEAT


@pytest.mark.parametrize(
    ("state", "ask"),
    [
        (BranchState.UNKNOWN, Ask.COMMIT),
        (BranchState.WORKING, Ask.COMMIT),
        (BranchState.ABORTED, Ask.COMMIT),
        (BranchState.COMMITTED, Ask.ABORT),
    ],
)
def test_what_only_a_broken_coordinator_asks_is_a_contradiction(state: BranchState, ask: Ask) -> None:
    """Exactly these four: everything else happens by late, lost or repeated messages alone."""
    assert RULES[state, ask].verdict is Verdict.CONTRADICTION
    assert sum(rule.verdict is Verdict.CONTRADICTION for rule in RULES.values()) == 4


def test_only_what_holds_nothing_may_be_forgotten() -> None:
    assert set(BranchState) - FINAL == {BranchState.UNKNOWN, BranchState.WORKING, BranchState.PREPARED}


def test_a_branch_is_bound_to_the_request_that_it_began_with() -> None:
    prepared = Branch(KEY).move(Ask.PREPARE, BranchState.PREPARED, at_ms=1, digest=b"one")
    assert prepared.is_bound_to_another(b"two")
    assert not prepared.is_bound_to_another(b"one")
    committed = prepared.move(Ask.COMMIT, BranchState.COMMITTED, at_ms=2)
    assert committed.is_bound_to_another(b"two")
    tombstone = Branch(KEY).move(Ask.ABORT, BranchState.ABORTED, at_ms=1)
    assert not tombstone.is_bound_to_another(b"two"), "whatever comes late is refused, not called a conflict"


def test_the_answer_gives_the_branch_s_own_reason_first_and_bounds_it() -> None:
    aborted = Branch(KEY).move(Ask.PREPARE, BranchState.ABORTED, at_ms=1, reason="r" * 10_000)
    assert aborted.answer("too late").reason == "r" * REASON_CHARS_MAX
    assert Branch(KEY, BranchState.COMMITTED).answer("too late").reason == "too late"
