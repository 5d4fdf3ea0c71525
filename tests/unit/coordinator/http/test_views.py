"""What is known becomes what callers see, and nothing else is said."""

from __future__ import annotations

from coordinator.driver.waiters import Known
from coordinator.http.views import outcome_view, page_query_of, page_view, transaction_view
from coordinator.ledger.commands import BY_DEADLINE, BY_INQUIRY, BY_VOTES, Begin, Decide, Heard, Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Phase, Retry, StepRecord, TransactionRecord
from coordinator.ledger.table import Ledger, PageQuery
from coordinator.wire import Outcome, parse
from coordinator.wire_queries import ListQuery


def record(*decisions: Decide, gid: str = "g") -> TransactionRecord:
    ledger = Ledger()
    branches = (BranchRecord("b1", "bank-a", "do", b"\x01"), BranchRecord("b2", "bank-b", None, b""))
    ledger.execute(Begin(gid, b"d", Path.CLASSIC, branches, 1_000, 5))
    for decision in decisions:
        ledger.execute(decision)
    found = ledger.get(gid)
    assert found is not None
    return found


def test_without_a_decision_the_answer_is_deciding_with_a_handle() -> None:
    for known in (Known("g"), Known.of(record())):
        view = outcome_view(known)
        assert (view.outcome, view.handle, view.reason) == (Outcome.DECIDING, "/v1/transactions/g", None)


def test_an_abort_says_why_and_which_branch() -> None:
    decide = Decide("g", Decision.ABORT, BY_VOTES, 7, reason="no money", culprit="b2")
    view = outcome_view(Known.of(record(decide)))
    assert (view.outcome, view.reason, view.branch, view.handle) == (Outcome.ABORTED, "no money", "b2", None)


def test_an_abort_without_words_says_who_decided() -> None:
    assert outcome_view(Known.of(record(Decide("g", Decision.ABORT, BY_DEADLINE, 7)))).reason == "deadline"


def test_a_commit_gives_no_reasons() -> None:
    view = outcome_view(Known.of(record(Decide("g", Decision.COMMIT, BY_VOTES, 7))))
    assert (view.outcome, view.reason, view.branch, view.handle) == (Outcome.COMMITTED, None, None, None)


def test_the_whole_record_is_shown_without_its_bodies() -> None:
    view = transaction_view(record())
    assert (view.decided_at_ms, view.decided_by, view.reason) == (None, None, None)
    assert [(b.branch, b.participant, b.action, b.ended) for b in view.branches] == [
        ("b1", "bank-a", "do", False),
        ("b2", "bank-b", None, False),
    ]
    assert "body" not in view.model_dump_json()


def test_steps_are_shown_with_how_far_they_have_come_and_without_their_results() -> None:
    ledger = Ledger()
    saga = StepRecord(Mode.SAGA, (), None, "undo", (("seat", "s1"),), Retry(3, 100, 100))
    tcc = StepRecord(Mode.TCC, ("s1",), "confirm", "cancel", (), Retry(1, 100, 100))
    branches = (
        BranchRecord("s1", "airline", "book", b"", step=saga),
        BranchRecord("s2", "hotel", "reserve", b"", step=tcc),
    )
    ledger.execute(Begin("g", b"d", Path.STEPS, branches, 1_000, 5))
    ledger.execute(Progress("g", "s1", 1, Heard.REFUSED))
    ledger.execute(Progress("g", "s1", 2, Heard.DONE, b"\xa21A"))
    ledger.execute(Decide("g", Decision.COMMIT, BY_VOTES, 7, done=("s1",)))
    ledger.execute(Progress("g", "s2", 1, Heard.UNSETTLED))
    known = ledger.get("g")
    assert known is not None
    view = transaction_view(known)
    first, second = (branch.step for branch in view.branches)
    assert first is not None
    assert second is not None
    assert (first.mode, first.after, first.confirm, first.undo) == (Mode.SAGA, [], None, "undo")
    assert (first.done, first.attempt, first.settling) == (True, 2, 1)
    assert (second.mode, second.after, second.confirm, second.undo) == (Mode.TCC, ["s1"], "confirm", "cancel")
    assert (second.done, second.attempt, second.settling) == (False, 1, 2)
    assert "1A" not in view.model_dump_json()


def test_a_branch_of_two_phase_commit_shows_no_step() -> None:
    assert [branch.step for branch in transaction_view(record()).branches] == [None, None]


def test_a_tombstone_is_an_abort_without_branches() -> None:
    ledger = Ledger()
    ledger.execute(Decide("g", Decision.ABORT, BY_INQUIRY, 7, reason="never begun"))
    known = ledger.get("g")
    assert known is not None
    view = transaction_view(known)
    assert (view.outcome, view.branches, view.reason) == (Outcome.ABORTED, [], "never begun")


def test_the_cursor_of_a_page_is_read_back_as_it_was() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger.execute(Begin(f"g.{number}-x", b"d", Path.CLASSIC, record().branches, 1_000, 5 + number))
    page = ledger.page(PageQuery(limit=2))
    view = page_view(page)
    assert page_query_of(parse(ListQuery, {"cursor": view.cursor})).after == page.cursor
    assert page_view(ledger.page(PageQuery(limit=2, after=page.cursor))).cursor is None


def test_what_a_caller_asks_for_is_what_the_ledger_is_asked() -> None:
    """Each parameter in its own place; what is not given selects nothing away."""
    assert page_query_of(parse(ListQuery, {"limit": "7"})) == PageQuery(limit=7)
    asked = {"limit": "7", "cursor": "5.g", "phase": ["preparing"], "participant": "bank-a"}
    query = parse(ListQuery, asked | {"begun_after_ms": "1", "begun_before_ms": "2"})
    assert page_query_of(query) == PageQuery(7, (5, "g"), frozenset({Phase.PREPARING}), "bank-a", 1, 2)
