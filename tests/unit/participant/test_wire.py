"""The wire form of operations and answers: round trips, and clear errors for everything else."""

from __future__ import annotations

from typing import Any

import pytest

from participant.errors import WireError
from participant.ids import BranchKey
from participant.wire import WORKS_MAX, Answer, BranchState, Operation, Verb, Work

KEY = BranchKey("gid-1", "b1")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1"


@pytest.mark.parametrize(
    ("operation", "form"),
    [
        (Operation(Verb.ABORT, KEY), {"verb": "abort", "gid": "gid-1", "branch": "b1"}),
        (
            Operation(Verb.PREPARE, KEY, "debit", {"n": 1}),
            {"verb": "prepare", "gid": "gid-1", "branch": "b1", "action": "debit", "body": {"n": 1}},
        ),
        (
            Operation(Verb.COMMIT, KEY, "debit", None, one_phase=True),
            {"verb": "commit", "gid": "gid-1", "branch": "b1", "action": "debit", "body": None, "one_phase": True},
        ),
        (
            Operation(Verb.WORK, KEY, "debit", [1], seq=3),
            {"verb": "work", "gid": "gid-1", "branch": "b1", "action": "debit", "body": [1], "seq": 3},
        ),
        (
            Operation(Verb.PREPARE, KEY, works=3),
            {"verb": "prepare", "gid": "gid-1", "branch": "b1", "works": 3},
        ),
        (
            Operation(Verb.COMMIT, KEY, one_phase=True, works=1),
            {"verb": "commit", "gid": "gid-1", "branch": "b1", "one_phase": True, "works": 1},
        ),
        (
            Operation(Verb.COMMIT, KEY, trace=TRACE),
            {"verb": "commit", "gid": "gid-1", "branch": "b1", "trace": TRACE},
        ),
    ],
)
def test_an_operation_survives_the_wire(operation: Operation, form: dict[str, Any]) -> None:
    """The forms are golden: a participant of another release must understand them."""
    assert operation.to_map() == form
    assert Operation.from_map(form, "operation") == operation


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"verb": "preparre"}, "op.verb", "must be one of work, prepare"),
        ({"verb": ["prepare"]}, "op.verb", "must be one of"),
        ({"gid": ""}, "op.gid", "1 to 64"),
        ({"gid": "a/b"}, "op.gid", "1 to 64"),
        ({"branch": "b" * 65}, "op.branch", "1 to 64"),
        ({"branch": None}, "op.branch", "1 to 64"),
        ({"action": ""}, "op.action", "1 to 64 characters"),
        ({"action": 7}, "op.action", "must be text"),
        ({"action": None, "body": 1}, "op.body", "needs an action"),
        ({"verb": "work", "action": None, "body": None}, "op.action", "work needs an action"),
        ({"one_phase": True}, "op.one_phase", "only a commit"),
        ({"one_phase": 1}, "op.one_phase", "true or false"),
        ({"seq": -1}, "op.seq", "from 0"),
        ({"seq": True}, "op.seq", "integer"),
        ({"action": None, "body": None, "works": 0}, "op.works", "from 1 to 1,000,000"),
        ({"action": None, "body": None, "works": WORKS_MAX + 1}, "op.works", "from 1 to 1,000,000"),
        ({"action": None, "body": None, "works": True}, "op.works", "integer"),
        ({"works": 1}, "op.works", "without an action"),
        ({"verb": "commit", "action": None, "body": None, "works": 1}, "op.works", "only a vote"),
        ({"sequence": 1}, "op", "unknown field 'sequence'"),
    ],
)
def test_a_malformed_operation_is_refused_with_its_field(change: dict[str, Any], field: str, why: str) -> None:
    form = {"verb": "prepare", "gid": "g", "branch": "b", "action": "debit", "body": 1} | change
    with pytest.raises(WireError, match=why) as error:
        Operation.from_map(form, "op")
    assert error.value.field == field


@pytest.mark.parametrize("field", ["verb", "gid", "branch", "action", "one_phase", "seq", "works"])
def test_what_is_nested_without_end_is_malformed_too(field: str) -> None:
    """Seen red: writing the value into the message went deeper than Python goes, which was a 500."""
    bottomless: list[Any] = []
    for _ in range(5_000):
        bottomless = [bottomless]
    with pytest.raises(WireError):
        Operation.from_map({"verb": "prepare", "gid": "g", "branch": "b", field: bottomless}, "op")
    with pytest.raises(WireError, match="not an answer"):
        Answer.from_map({"state": bottomless}, "answer")


def test_what_is_no_map_is_no_operation() -> None:
    with pytest.raises(WireError, match="must be a map"):
        Operation.from_map(["prepare"], "op")


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (Answer(BranchState.PREPARED), {"state": "prepared"}),
        (Answer(BranchState.ABORTED, "no money"), {"state": "aborted", "reason": "no money"}),
        (Answer(BranchState.WORKING, result={"n": 0}), {"state": "working", "result": {"n": 0}}),
        (Answer(BranchState.UNKNOWN, "busy", retry=True), {"state": "unknown", "reason": "busy", "retry": True}),
    ],
)
def test_an_answer_survives_the_wire(answer: Answer, form: dict[str, Any]) -> None:
    assert answer.to_map() == form
    assert Answer.from_map(form | {"from_a_later_version": 1}, "answer") == answer


@pytest.mark.parametrize("form", [None, [], {}, {"state": 1}, {"state": "yes"}, {"state": "prepared", "retry": "no"}])
def test_what_is_not_well_formed_is_not_an_answer(form: object) -> None:
    with pytest.raises(WireError, match="not an answer"):
        Answer.from_map(form, "answer")


def test_the_header_of_a_work_says_which_and_whose() -> None:
    for seq in (0, WORKS_MAX):
        work = Work(KEY, seq)
        assert Work.of(str(work)) == work
    assert Work.of("gid-1 ; branch=b1 ; seq=7") == Work(KEY, 7)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("gid-1", "must be <gid>;branch=<branch>;seq=<number>"),
        ("gid-1;seq=0;branch=b1", "must be <gid>;branch=<branch>;seq=<number>"),
        ("gid-1;branch=b1;seq=0;more", "must be <gid>;branch=<branch>;seq=<number>"),
        ("gid 1;branch=b1;seq=0", "must be 1 to 64 of"),
        ("gid-1;branch=;seq=0", "must be 1 to 64 of"),
        ("gid-1;branch=b1;seq=", "must be an integer"),
        ("gid-1;branch=b1;seq=-1", "must be an integer"),
        (f"gid-1;branch=b1;seq={WORKS_MAX + 1}", "must be an integer"),
        ("gid-1;branch=b1;seq=" + "9" * 10_000, "must be an integer"),
    ],
)
def test_a_header_that_is_none_is_a_clear_error(header: str, why: str) -> None:
    with pytest.raises(WireError, match=why) as wrong:
        Work.of(header)
    assert wrong.value.field.startswith("Commitd-Work")
