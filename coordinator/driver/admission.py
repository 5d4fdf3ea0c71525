"""How much one leader takes on. Past a limit it refuses early, by name, before anything was begun.

Transactions taken over from another leader are never refused: they count, and new ones wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import RETRY_AFTER_S, Overloaded

__all__ = ["Admission"]


@dataclass(frozen=True, slots=True)
class Admission:
    """`in_flight_max`: undecided transactions. `open_max`: unfinished ones, decided or not; they pile up while a
    participant is away. `records_max`: all that the ledger holds, finished ones within their retention included.
    `waiters_max`: requests that wait for an outcome. `listeners_max`: requests that listen to a transaction.
    `untold_max`: ended transactions whose applications have not taken the notice, all together; `untold_per_host_max`:
    those of one host in their URLs."""

    in_flight_max: int = 4_096
    open_max: int = 131_072
    records_max: int = 1_000_000
    waiters_max: int = 16_384
    listeners_max: int = 4_096
    untold_max: int = 16_384
    untold_per_host_max: int = 4_096

    def admit(self, *, in_flight: int, open_: int, records: int) -> None:
        """Let one more transaction begin. Raises Overloaded."""
        _refuse_past(in_flight, self.in_flight_max, "undecided transactions (in_flight_max)")
        _refuse_past(open_, self.open_max, "unfinished transactions (open_max)")
        _refuse_past(records, self.records_max, "transactions in the ledger (records_max; see retention_s)")

    def admit_notice(self, *, untold: int, at_host: int) -> None:
        """Let one more transaction begin of which an application wants to be told. Raises Overloaded."""
        _refuse_past(untold, self.untold_max, "transactions of which applications have not been told (untold_max)")
        what = "transactions of which this application has not been told (untold_per_host_max)"
        _refuse_past(at_host, self.untold_per_host_max, what)

    def admit_waiter(self, waiting: int) -> None:
        """Let one more request wait. Raises Overloaded."""
        _refuse_past(waiting, self.waiters_max, "requests waiting for an outcome (waiters_max)")

    def admit_listener(self, listening: int) -> None:
        """Let one more request hear the events of a transaction. Raises Overloaded."""
        _refuse_past(listening, self.listeners_max, "requests listening to transactions (listeners_max)")


def _refuse_past(count: int, limit: int, what: str) -> None:
    if count >= limit:
        raise Overloaded(f"there are {count} {what}; come again", retry_after_s=RETRY_AFTER_S)
