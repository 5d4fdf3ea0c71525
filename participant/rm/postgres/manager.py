"""PostgreSQL as a resource manager: its backend below a `ServerManager`."""

from __future__ import annotations

from typing import Literal

from participant.errors import ConfigError
from participant.resource import ResourceLimits
from participant.rm.postgres.backend import PostgresBackend
from participant.rm.server.notes import NotingManager
from participant.rm.sweep import Foreign

__all__ = ["PostgreSQL"]


class PostgreSQL(NotingManager):
    """One database of a PostgreSQL server, 15 or newer. Several processes may serve it at once.

    `dsn` is `postgresql://user:password@host:port/database`. `schema` is SQL that runs at each opening, so it must be
    harmless when repeated; leave it out if migrations make your tables. `connections_max`: how many branches may be
    at work at once; half as many connections more end them. Serializable transactions see no write skew, and run again
    more often.
    """

    dialect = "postgresql"  # as SQLAlchemy calls it

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "",
        limits: ResourceLimits | None = None,
        isolation: Literal["repeatable read", "serializable"] = "repeatable read",
        connections_max: int = 16,
    ) -> None:
        if isolation not in ("repeatable read", "serializable"):
            raise ConfigError(f"isolation: must be 'repeatable read' or 'serializable', not {isolation!r}")
        if connections_max < 1:
            raise ConfigError(f"connections_max: must be at least 1, not {connections_max!r}")
        limits = limits or ResourceLimits()
        backend = PostgresBackend(
            dsn, schema=schema, isolation=isolation, connections_max=connections_max, limits=limits
        )
        super().__init__(backend, limits)

    async def foreign(self) -> list[Foreign]:
        """See `participant.rm.sweep.ForeignLister`."""
        self._check_open()
        return await self._backend.foreign()
