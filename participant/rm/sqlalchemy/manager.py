"""A resource manager whose actions receive an `AsyncSession` in the place of `tx`; the one below does all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from participant.errors import ConfigError
from participant.ids import BranchKey
from participant.resource import Call, ResourceStatus
from participant.rm.sqlalchemy.sessions import Sessions
from participant.rm.sweep import Foreign
from participant.wire import Answer

if TYPE_CHECKING:
    import asyncio

    from participant.rm.mariadb import MariaDB
    from participant.rm.postgres import PostgreSQL

__all__ = ["SQLAlchemy"]


class SQLAlchemy:
    """`bank = Participant("bank", SQLAlchemy(PostgreSQL(dsn)))`, or MariaDB: actions and views are written as
    `async def action(session: AsyncSession, body)`.

    What the session was given is flushed after the action, before the vote. Nothing here opens a connection, prepares
    or commits: a session runs its statements in the transaction of its branch, by the rules of `tx`.
    """

    def __init__(self, resource: PostgreSQL | MariaDB) -> None:
        self._resource = resource
        self._sessions = Sessions(_driver_of(resource))
        self.is_in_order = resource.is_in_order

    async def open(self) -> None:
        await self._resource.open()
        try:
            await self._resource.look(Call.of("sqlalchemy", self._sessions.look, None))
        except BaseException:
            await self._resource.close()
            raise

    async def close(self) -> None:
        await self._resource.close()

    def work(self, key: BranchKey, call: Call, seq: int) -> asyncio.Future[Answer]:
        return self._resource.work(key, self._bound(call), seq)

    def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._resource.prepare(key, call and self._bound(call), works)

    def commit_one_phase(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._resource.commit_one_phase(key, call and self._bound(call), works)

    async def commit(self, key: BranchKey) -> Answer:
        return await self._resource.commit(key)

    async def abort(self, key: BranchKey) -> Answer:
        return await self._resource.abort(key)

    async def prevent(self, key: BranchKey, reason: str) -> Answer:
        return await self._resource.prevent(key, reason)

    async def outcome(self, key: BranchKey) -> Answer:
        return await self._resource.outcome(key)

    async def note(self, key: BranchKey) -> bytes | None:
        return await self._resource.note(key)

    async def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, is_finished: bool = False
    ) -> bool:
        return await self._resource.swap_note(key, expected, note, is_finished=is_finished)

    async def in_doubt(self) -> list[BranchKey]:
        return await self._resource.in_doubt()

    async def status(self) -> ResourceStatus:
        return await self._resource.status()

    async def read(self, call: Call) -> Any:
        return await self._resource.read(self._bound(call))

    async def failed(self) -> BaseException:
        return await self._resource.failed()

    async def foreign(self) -> list[Foreign]:
        return await self._resource.foreign()

    def _bound(self, call: Call) -> Call:
        return call._replace(function=self._sessions.bound(call.function))


def _driver_of(resource: Any) -> Any:
    """The driver is imported with the resource manager that uses it, and only then."""
    match getattr(resource, "dialect", None):
        case "postgresql":
            from participant.rm.sqlalchemy.postgres import PostgresDriver

            return PostgresDriver()
        case "mysql":
            from participant.rm.sqlalchemy.mariadb import MariaDriver

            return MariaDriver(resource)
    raise ConfigError(f"SQLAlchemy: takes a PostgreSQL or a MariaDB, not {resource!r}")
