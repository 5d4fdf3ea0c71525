"""The table of steps that commit by themselves: complete, and each promise read off it by enumeration."""

from __future__ import annotations

import itertools
import re

import pytest

from participant.barrier import (
    FINAL,
    RESULT_BYTES_MAX,
    RULES,
    Contradiction,
    Done,
    Refused,
    Row,
    State,
    Step,
    StepKind,
    Verdict,
)
from participant.barriers.lua import script
from participant.branch import REASON_CHARS_MAX
from participant.errors import BranchConflict, InvariantError, Reject, StepError, WireError

EVERY = list(itertools.product(State, StepKind))
UNDO = {StepKind.TRY: StepKind.CANCEL, StepKind.ACTION: StepKind.COMPENSATE}
PROTOCOLS = [
    {StepKind.TRY, StepKind.CONFIRM, StepKind.CANCEL},
    {StepKind.ACTION, StepKind.COMPENSATE},
    {StepKind.MESSAGE},
]


def step(kind: StepKind, body: object = None) -> Step:
    return Step.of("g", "b", kind, body)


def row(state: State) -> Row:
    return Row(step(StepKind.TRY).key, state)


def test_every_state_has_a_rule_for_every_step() -> None:
    """Red when a row is taken out of the table."""
    assert set(RULES) == set(EVERY)


@pytest.mark.parametrize(("state", "kind"), EVERY)
def test_a_rule_says_what_its_verdict_needs(state: State, kind: StepKind) -> None:
    """Only RUN and EMPTY change anything, and a refusal has a reason for people."""
    rule = RULES[state, kind]
    if rule.verdict not in (Verdict.RUN, Verdict.EMPTY):
        assert rule.next == (state,)
    assert State.RUNNING not in rule.next or state is State.RUNNING
    assert bool(rule.why) == (rule.verdict in (Verdict.REFUSE, Verdict.CONTRADICTION))


@pytest.mark.parametrize(("state", "kind"), EVERY)
def test_a_row_changes_only_as_the_table_says(state: State, kind: StepKind) -> None:
    """Seen red with the invariant taken out."""
    verdict = RULES[state, kind].verdict
    if verdict is Verdict.RUN:
        assert row(state).done(step(kind), None, 7).state is RULES[state, kind].next[0]
    else:
        with pytest.raises(InvariantError):
            row(state).done(step(kind), None, 7)
    if verdict is Verdict.EMPTY:
        assert row(state).emptied(step(kind), 7).changed_at_ms == 7
    else:
        with pytest.raises(InvariantError):
            row(state).emptied(step(kind), 7)


def test_nothing_runs_twice() -> None:
    """From no state that a step has led to does the same step run again, whatever comes in between."""
    for kind in StepKind:
        seen, todo = set[State](), [to for (_, each), rule in RULES.items() if each is kind for to in _run(rule)]
        while todo:
            state = todo.pop()
            if state in seen:
                continue
            seen.add(state)
            assert RULES[state, kind].verdict is not Verdict.RUN, (kind, state)
            todo.extend(to for each in StepKind for to in RULES[state, each].next)


def _run(rule: object) -> tuple[State, ...]:
    return rule.next if rule.verdict is Verdict.RUN else ()  # type: ignore[attr-defined]


def test_what_ends_a_branch_ends_it_for_good() -> None:
    """After its cancel or compensation no step changes anything; after a confirm neither."""
    for state in (State.CONFIRMED, State.CANCELLED, State.COMPENSATED, State.RECEIVED, State.RUNNING):
        assert all(RULES[state, kind].next == (state,) for kind in StepKind)


def test_only_what_has_others_to_tell_may_refuse() -> None:
    """Red when a confirm may."""
    refusing = {kind for (_, kind), rule in RULES.items() if State.REFUSED in rule.next and rule.verdict is Verdict.RUN}
    assert refusing == set(UNDO)


def test_a_step_of_one_protocol_contradicts_a_branch_of_another() -> None:
    for (state, kind), rule in RULES.items():
        own = next(protocol for protocol in PROTOCOLS if kind in protocol)
        others = [RULES[state, each].verdict for protocol in PROTOCOLS if protocol is not own for each in protocol]
        if state not in (State.NEW, State.REFUSED) and rule.verdict is not Verdict.CONTRADICTION:
            assert set(others) == {Verdict.CONTRADICTION}


def test_a_row_that_is_half_done_is_never_touched() -> None:
    """It says where to look."""
    for kind in StepKind:
        outcome = row(State.RUNNING).outcome(step(kind), row(State.RUNNING).judge(step(kind)))
        assert isinstance(outcome, Contradiction)
        assert "half done" in outcome.why


def test_what_is_tried_is_never_forgotten() -> None:
    """Its cancel would find nothing to undo, and what it holds would be held for ever."""
    assert State.TRIED not in FINAL
    assert State.RUNNING not in FINAL


def test_a_repeat_is_bound_to_its_body_and_to_its_step() -> None:
    """Seen red with the comparison taken out."""
    tried = row(State.NEW).done(step(StepKind.TRY, 1), "first", 0)
    assert tried.judge(step(StepKind.TRY, 1)).verdict is Verdict.REPEAT
    with pytest.raises(BranchConflict, match="try of g/b came before"):
        tried.judge(step(StepKind.TRY, 2))
    confirmed = tried.done(step(StepKind.CONFIRM, 3), "second", 0)
    with pytest.raises(BranchConflict):
        confirmed.judge(step(StepKind.CONFIRM, 1))
    refused = row(State.NEW).refused(step(StepKind.TRY, 1), Reject("no"), 0)
    with pytest.raises(BranchConflict):
        refused.judge(step(StepKind.ACTION, 1))


def test_each_step_of_a_branch_has_an_answer_of_its_own() -> None:
    tried = row(State.NEW).done(step(StepKind.TRY), (1, 2), 0)
    confirmed = tried.done(step(StepKind.CONFIRM), {"a": None}, 0)
    for kind, result in ((StepKind.TRY, [1, 2]), (StepKind.CONFIRM, {"a": None})):
        outcome = confirmed.outcome(step(kind), confirmed.judge(step(kind)))
        assert outcome == Done(result)


def test_a_reason_is_kept_as_a_database_can_keep_it() -> None:
    """No zero byte, no lone surrogate, not without end."""
    refused = row(State.NEW).refused(step(StepKind.TRY), Reject("a\0b\ud800" + "x" * REASON_CHARS_MAX), 0)
    assert refused.reason.startswith("a?b?x")
    assert len(refused.reason) == REASON_CHARS_MAX
    assert refused.outcome(step(StepKind.TRY), refused.judge(step(StepKind.TRY))) == Refused(refused.reason)


@pytest.mark.parametrize("result", [object(), float("nan"), "x" * RESULT_BYTES_MAX, {1: 2}, "\ud800"])
def test_a_result_that_cannot_be_repeated_is_an_error_of_the_function(result: object) -> None:
    with pytest.raises(StepError, match="was undone"):
        row(State.NEW).done(step(StepKind.TRY), result, 0)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("gid", ("", "b", "try")),
        ("gid", ("g/1", "b", "try")),
        ("gid", (None, "b", "try")),
        ("branch", ("g", "b" * 65, "try")),
        ("kind", ("g", "b", "prepare")),
        ("kind", ("g", "b", 1)),
        ("body", ("g", "b", "try", object())),
    ],
)
def test_a_request_that_names_no_step_is_refused_with_its_field(field: str, arguments: tuple[str, ...]) -> None:
    with pytest.raises(WireError) as refused:
        Step.of(*arguments)
    assert refused.value.field == field


def test_the_script_has_the_table_and_no_placeholder() -> None:
    """What changes a row stands in it, and what does not is left to Python."""
    text = script("return 1")
    assert not re.search(r"@\w+@", text)
    for (state, kind), rule in RULES.items():
        assert (f"['{state} {kind}']" in text) == (rule.verdict in (Verdict.RUN, Verdict.EMPTY))
