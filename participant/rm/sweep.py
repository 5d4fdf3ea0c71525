"""The port of a database that is looked at from outside of its participant, which may be dead: what is prepared in it.

Whoever sweeps makes no table and forgets no branch: the database is the participant's. Implementations:
`rm.postgres.sweep`, `rm.mariadb.sweep`, `rm.sqlite.sweep`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from participant.ids import BranchKey
from participant.wire import Answer

__all__ = ["Database", "Ender", "Foreign", "ForeignLister", "InDoubt", "Look"]


class InDoubt(NamedTuple):
    """A prepared branch of ours, and for how long it has been prepared."""

    key: BranchKey
    age_s: float


class Foreign(NamedTuple):
    """A prepared transaction of somebody else, by the name that it has there. `age_s`: None if nobody keeps it."""

    name: str
    age_s: float | None


class Look(NamedTuple):
    """What is prepared in a database, ours oldest first."""

    ours: tuple[InDoubt, ...]
    foreign: tuple[Foreign, ...] = ()


class Ender(Protocol):
    """What ends prepared branches. Both may raise ResourceError: the branch stays, or that is not known."""

    def commit(self, key: BranchKey) -> Awaitable[Answer]:
        """Make its changes true. Anything but COMMITTED contradicts the coordinator."""

    def abort(self, key: BranchKey) -> Awaitable[Answer]:
        """Undo it. ABORTED, unless it is COMMITTED."""


class Database(Protocol):
    """Between `open` and `close`, which may be called again."""

    async def open(self) -> None:
        """Reach it. Raises ConfigError if no participant has used it, or it cannot be used; ResourceError."""

    async def close(self) -> None:
        """Leave it."""

    async def look(self) -> Look:
        """What is prepared. Raises ResourceError."""

    def ending(self) -> AbstractAsyncContextManager[Ender]:
        """What ends branches, for as long as the block runs. Raises AlreadyOwned if only the participant may."""


@runtime_checkable
class ForeignLister(Protocol):
    """What a resource manager can do beside its port, if its database has transactions of others."""

    async def foreign(self) -> list[Foreign]:
        """What others have prepared in this database. Raises ResourceError."""
