"""What SQLAlchemy takes for a driver's connection: the transaction of one branch, for one run of its action."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

__all__ = ["Driver", "Line", "Savepoint", "Transaction"]


class Savepoint(Protocol):
    """A part of a transaction that can be undone alone."""

    async def begin(self) -> None: ...
    async def undo(self) -> None: ...
    async def keep(self) -> None: ...


class Transaction(Protocol):
    """The `tx` that an action would receive without us."""

    def savepoint(self) -> Savepoint: ...


class Line:
    """Passes statements on to `tx`, which checks each, and ends with the action.

    Owns what SQLAlchemy has done with the transaction as a whole. Must never do: end it.
    """

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._savepoints: dict[str, Savepoint] = {}
        self._under_way = 0
        self._is_over = False
        self.is_undone = False

    @property
    def is_busy(self) -> bool:
        """Whether a statement is under way."""
        return self._under_way > 0

    def undo(self) -> None:
        """SQLAlchemy takes it for rolled back: a flush has failed, or the session was closed. So there is no yes."""
        if not self._is_over:
            self.is_undone = True

    def end(self) -> None:
        """The action is over; what SQLAlchemy does from here on is to tidy up."""
        self._is_over = True

    async def begin_savepoint(self, name: str) -> None:
        savepoint = self._savepoints[name] = self._tx.savepoint()
        await savepoint.begin()

    async def undo_savepoint(self, name: str) -> None:
        if not self._is_over:
            await self._savepoints.pop(name).undo()

    async def keep_savepoint(self, name: str) -> None:
        await self._savepoints.pop(name).keep()

    @contextmanager
    def statement(self) -> Iterator[None]:
        """While the block runs, one is under way."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1


class Driver(Protocol):
    """What differs between the drivers."""

    dialect: str
    """As in the URL of an engine."""

    def line(self, tx: Any) -> Line:
        """For one run of an action."""

    def cause(self, error: DBAPIError) -> Exception:
        """What the driver has raised; Stale if its like is gone when the action runs again."""

    def said(self, error: DBAPIError) -> str:
        """What the server says of it, without the values of whole rows."""
