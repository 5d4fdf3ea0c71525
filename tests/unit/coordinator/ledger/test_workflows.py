"""The record of a workflow: it grows by one step after the other, and says of each what its code was told."""

from __future__ import annotations

from typing import Any

from coordinator.ledger.commands import (
    BY_VOTES,
    BY_WORKFLOW,
    Begin,
    Decide,
    Diverge,
    End,
    Extend,
    Heard,
    Progress,
    Return,
)
from coordinator.ledger.records import (
    Asked,
    BranchRecord,
    Decision,
    Mode,
    Path,
    Phase,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
)
from coordinator.ledger.table import Accepted, Ledger, Rejected
from coordinator.ledger.transitions import Why

BEGIN = Begin("t", b"d", Path.STEPS, (), 1_000, 1, workflow=WorkflowRecord("book", b"input"))


def step(number: int, mode: Mode = Mode.SAGA) -> BranchRecord:
    record = StepRecord(mode, (), None, "undo", (), Retry(2, 1, 1))
    return BranchRecord(f"s{number}", "desk", "do", b"body", step=record)


def extend(number: int, digest: bytes = b"1", mode: Mode = Mode.SAGA) -> Extend:
    return Extend("t", number, digest, step(number, mode), at_ms=number * 10)


def done(number: int, result: bytes = b"\x07") -> Progress:
    return Progress("t", f"s{number}", 1, Heard.DONE, result)


class Book(Ledger):
    """With a workflow, and what has come after its beginning."""

    def __init__(self, *commands: Any) -> None:
        super().__init__()
        for command in (BEGIN, *commands):
            assert isinstance(self.execute(command), Accepted), command

    @property
    def record(self) -> TransactionRecord:
        record = self.get("t")
        assert record is not None
        return record

    @property
    def workflow(self) -> WorkflowRecord:
        workflow = self.record.workflow
        assert workflow is not None
        return workflow

    def rejects(self, command: Any, why: Why) -> bool:
        """Whether it is rejected for that, and changes nothing."""
        before = b"".join(self.snapshot())
        result = self.execute(command)
        assert b"".join(self.snapshot()) == before
        return isinstance(result, Rejected) and result.reason is why


def test_a_workflow_begins_without_steps_and_is_no_tombstone() -> None:
    """Seen red with a tombstone that is any record without branches."""
    book = Book()
    assert not book.record.tombstone
    assert book.workflow == WorkflowRecord("book", b"input")
    assert book.rejects(BEGIN._replace(digest=b"other"), Why.OTHER_REQUEST)
    assert Ledger().execute(BEGIN._replace(branches=(step(1),))) == Rejected(Why.MALFORMED, None)


def test_a_step_is_the_next_one_or_the_same_as_before() -> None:
    """Fencing by number: of two runs, each step is recorded once. Seen red with an Extend that takes any number."""
    book = Book(extend(1), extend(2))
    revision = book.revision
    assert isinstance(book.execute(extend(1)), Accepted)
    assert isinstance(book.execute(extend(2)._replace(at_ms=99)), Accepted)
    assert book.revision == revision
    for command in (extend(4), extend(0), extend(2, b"other")):
        assert book.rejects(command, Why.OTHER_STEP)
    assert [branch.branch for branch in book.record.branches] == ["s1", "s2"]
    assert book.workflow.asked == (Asked(b"1", 10), Asked(b"1", 20))


def test_what_is_declared_does_not_grow() -> None:
    ledger = Ledger()
    ledger.execute(Begin("t", b"d", Path.STEPS, (step(1),), 1_000, 1))
    for command in (extend(2), Return("t", 1, b"", 5), Diverge("t", "why")):
        assert isinstance(ledger.execute(command), Rejected)
    assert ledger.execute(Progress("t", "s1", 1, Heard.GIVEN_UP, b"no")) == Rejected(Why.NO_STEP, ledger.get("t"))


def test_a_step_that_is_given_up_is_not_done_and_owes_nothing() -> None:
    """Its reason stays; what is heard of it later changes nothing."""
    book = Book(extend(1), extend(2), done(2), Progress("t", "s1", 1, Heard.GIVEN_UP, "no \u2026".encode()))
    assert [branch.ended for branch in book.record.branches] == [True, False]
    assert [asked.refused for asked in book.workflow.asked] == ["no \u2026", None]
    assert book.rejects(done(1), Why.NO_STEP)
    book.execute(Progress("t", "s2", 1, Heard.GIVEN_UP, b"too late"))
    assert [branch.ended for branch in book.record.branches] == [True, False]
    book.execute(Decide("t", Decision.ABORT, BY_WORKFLOW, 7))
    assert [branch.ended for branch in book.record.branches] == [True, False]
    book.execute(End("t", ("s2",)))
    assert book.record.phase is Phase.ABORTED
    assert [asked.refused for asked in book.workflow.asked] == ["no \u2026", None]


def test_an_attempt_that_is_over_is_not_given_up() -> None:
    book = Book(extend(1), Progress("t", "s1", 1, Heard.REFUSED))
    book.execute(Progress("t", "s1", 1, Heard.GIVEN_UP, b"an old one"))
    assert not book.record.branches[0].ended
    assert book.workflow.asked[0].refused is None


def test_the_return_decides_once_every_step_is_answered() -> None:
    """Seen red with a return that looks at nothing: what has not been done would be committed."""
    book = Book(extend(1), extend(2, mode=Mode.FORWARD))
    back = Return("t", 2, b"\x2a", at_ms=70, done=("s1",))
    assert book.rejects(back, Why.OTHER_STEP)
    book.execute(done(1))
    for steps in (1, 3):
        assert book.rejects(back._replace(steps=steps), Why.OTHER_STEP)
    assert isinstance(book.execute(back), Accepted)
    record = book.record
    assert (record.phase, record.decided_by, record.decided_at_ms) == (Phase.COMMITTING, BY_WORKFLOW, 70)
    assert [branch.ended for branch in record.branches] == [True, False]
    revision = book.revision
    assert isinstance(book.execute(back._replace(result=b"other")), Accepted)
    assert book.revision == revision
    book.execute(End("t", ("s2",)))
    assert (book.record.phase, book.workflow.result, book.workflow.input) == (Phase.COMMITTED, b"\x2a", b"")
    assert isinstance(book.execute(back), Accepted)
    assert book.rejects(extend(3), Why.CONTRARY_DECISION)


def test_a_workflow_without_steps_ends_with_its_return() -> None:
    book = Book(Return("t", 0, b"", 5))
    assert book.record.phase is Phase.COMMITTED


def test_what_is_aborted_neither_returns_nor_grows() -> None:
    book = Book(extend(1), done(1), Decide("t", Decision.ABORT, BY_WORKFLOW, 7, "no"))
    assert book.rejects(Return("t", 1, b"", 9), Why.CONTRARY_DECISION)
    assert book.rejects(extend(2), Why.CONTRARY_DECISION)
    assert book.rejects(extend(1), Why.CONTRARY_DECISION)
    assert book.rejects(Diverge("t", "why"), Why.NO_STEP)


def test_a_divergence_is_kept_until_a_run_goes_on() -> None:
    book = Book(extend(1), Diverge("t", "step 1 is another one"))
    assert book.workflow.diverged == "step 1 is another one"
    revision = book.revision
    assert isinstance(book.execute(Diverge("t", "step 1 is another one")), Accepted)
    assert isinstance(book.execute(extend(1)), Accepted)
    assert (book.revision, book.workflow.diverged) == (revision, "step 1 is another one")
    book.execute(extend(2))
    assert book.workflow.diverged == ""
    for command in (Diverge("t", "again"), done(1), done(2), Return("t", 2, b"", 9)):
        book.execute(command)
    assert book.workflow.diverged == ""


def test_a_snapshot_brings_all_of_it_back() -> None:
    book = Book(extend(1), extend(2), done(1), Progress("t", "s2", 1, Heard.GIVEN_UP, b"no"), Diverge("t", "why"))
    other = Ledger()
    other.restore(book.snapshot())
    assert other.get("t") == book.record
    assert b"".join(other.snapshot()) == b"".join(book.snapshot())


def test_the_votes_may_still_decide_when_the_code_is_late() -> None:
    """Behind a pivot that has succeeded, the driver commits without a return."""
    book = Book(extend(1, mode=Mode.PIVOT), done(1), Decide("t", Decision.COMMIT, BY_VOTES, 9, done=("s1",)))
    assert (book.record.phase, book.workflow.result) == (Phase.COMMITTED, b"")
