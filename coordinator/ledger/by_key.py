"""Which transactions have which business key: an index of the table, made of its records and of nothing else.

A key is the application's own name for what it does, such as an order's number. Several transactions may have it, as
when an order is tried again; each key has a sorted list of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from coordinator.ledger.records import TransactionRecord

__all__ = ["ByKey"]


class ByKey:
    """The (begun_at_ms, gid) of the records that have a key."""

    def __init__(self, records: Iterable[TransactionRecord] = ()) -> None:
        self._begins: dict[str, list[tuple[int, str]]] = {}
        for record in records:
            self.add(record)

    def add(self, record: TransactionRecord) -> None:
        """The table holds it now, and did not before."""
        if record.key:
            insort(self._begins.setdefault(record.key, []), (record.begun_at_ms, record.gid))

    def remove(self, record: TransactionRecord) -> None:
        """The table holds it no more."""
        if not record.key:
            return
        begins = self._begins[record.key]
        del begins[bisect_left(begins, (record.begun_at_ms, record.gid))]
        if not begins:
            del self._begins[record.key]

    def newest_first(
        self, key: str, lowest: tuple[int, str] | None, highest: tuple[int, str] | None
    ) -> Iterator[tuple[int, str]]:
        """Those of `key` from `lowest` on, and before `highest`."""
        begins = self._begins.get(key, [])
        first = 0 if lowest is None else bisect_left(begins, lowest)
        end = len(begins) if highest is None else bisect_left(begins, highest)
        return (begins[position] for position in range(end - 1, first - 1, -1))
