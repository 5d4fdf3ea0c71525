"""MariaDB as a resource manager: its backend below a `ServerManager`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from participant.errors import ConfigError
from participant.resource import ResourceLimits
from participant.rm.mariadb.backend import MariaBackend
from participant.rm.server.notes import NotingManager
from participant.rm.sweep import Foreign

__all__ = ["MariaDB"]


class MariaDB(NotingManager):
    """One database of a MariaDB server, 10.5 or newer, or MySQL 8. Several processes may serve it at once.

    `dsn` is `mariadb://user:password@host:port/database`. `schema` is statements that run at each opening, so they must
    be harmless when repeated; leave it out if migrations make your tables. `connections_max`: how many branches may be
    at work at once; half as many connections more end them. Serializable transactions see no write skew, and lock
    what they read; a server without `innodb_snapshot_isolation` (MySQL, and MariaDB before 10.6.18) has no other way to
    keep what an action has read from being changed before it writes, and uses them always.
    """

    dialect = "mysql"  # as SQLAlchemy calls it

    def __init__(
        self,
        dsn: str,
        *,
        schema: Sequence[str] = (),
        limits: ResourceLimits | None = None,
        isolation: Literal["repeatable read", "serializable"] = "repeatable read",
        connections_max: int = 16,
    ) -> None:
        if isolation not in ("repeatable read", "serializable"):
            raise ConfigError(f"isolation: must be 'repeatable read' or 'serializable', not {isolation!r}")
        if connections_max < 1:
            raise ConfigError(f"connections_max: must be at least 1, not {connections_max!r}")
        limits = limits or ResourceLimits()
        backend = MariaBackend(dsn, schema=schema, isolation=isolation, connections_max=connections_max, limits=limits)
        self.count_found_rows = backend.count_found_rows  # for SQLAlchemy
        super().__init__(backend, limits)

    async def foreign(self) -> list[Foreign]:
        """See `participant.rm.sweep.ForeignLister`."""
        self._check_open()
        return await self._backend.foreign()
