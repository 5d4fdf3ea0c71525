"""Business keys in the ledger: kept through every change, found newest first, gone with their transactions."""

from __future__ import annotations

from coordinator.ledger.commands import BY_VOTES, Begin, Decide, End, Forget
from coordinator.ledger.records import BranchRecord, Decision, Path
from coordinator.ledger.table import Ledger, PageQuery


def begin(gid: str, key: str, at_ms: int = 1) -> Begin:
    return Begin(gid, b"d", Path.CLASSIC, (BranchRecord("a", "bank-a", "debit", b""),), 1_000, at_ms, key=key)


def filled() -> Ledger:
    ledger = Ledger()
    for gid, key, at_ms in (("b", "order", 2), ("a", "order", 2), ("c", "order", 1), ("d", "other", 3), ("e", "", 4)):
        ledger.execute(begin(gid, key, at_ms))
    return ledger


def found(ledger: Ledger, key: str = "order", **query: object) -> list[str]:
    return [record.gid for record in ledger.page(PageQuery(limit=9, key=key, **query)).records]  # type: ignore[arg-type]


def test_what_has_a_key_is_found_newest_first() -> None:
    ledger = filled()
    assert found(ledger) == ["b", "a", "c"]
    assert found(ledger, "other") == ["d"]
    assert found(ledger, "nobody's") == []


def test_other_filters_and_pages_hold_for_a_key_too() -> None:
    """Red when the bounds are not those of all records."""
    ledger = filled()
    assert found(ledger, begun_from_ms=2) == ["b", "a"]
    assert found(ledger, begun_before_ms=2) == ["c"]
    page = ledger.page(PageQuery(limit=2, key="order"))
    assert ([record.gid for record in page.records], page.cursor) == (["b", "a"], (2, "a"))
    assert found(ledger, after=page.cursor) == ["c"]
    assert found(ledger, also=lambda record: record.gid != "a") == ["b", "c"]


def test_a_key_stays_through_every_change_and_goes_with_its_transaction() -> None:
    ledger = filled()
    ledger.execute(Decide("a", Decision.COMMIT, BY_VOTES, 5))
    ledger.execute(End("a", ("a",)))
    record = ledger.get("a")
    assert record is not None
    assert (record.finished, record.key) == (True, "order")
    ledger.execute(Forget(("a", "b")))  # b is unfinished, and stays
    assert found(ledger) == ["b", "c"]


def test_a_repeat_under_another_key_changes_nothing() -> None:
    ledger = filled()
    ledger.execute(begin("a", "other", 9))
    assert (found(ledger), found(ledger, "other")) == (["b", "a", "c"], ["d"])


def test_the_index_comes_back_with_the_snapshot() -> None:
    ledger, other = filled(), Ledger()
    other.execute(begin("z", "order"))
    other.restore(ledger.snapshot())
    assert found(other) == found(ledger)
