"""A MariaDB database, swept."""

from __future__ import annotations

from participant.resource import ResourceLimits
from participant.rm.mariadb.backend import MariaBackend
from participant.rm.server.sweep import ServerSweep

__all__ = ["MariaSweep"]

CONNECTIONS_MAX = 4  # those that end branches


class MariaSweep(ServerSweep):
    """`dsn` as for `participant.rm.mariadb.MariaDB`."""

    def __init__(self, dsn: str) -> None:
        super().__init__(
            MariaBackend(
                dsn,
                schema=(),
                isolation="repeatable read",
                connections_max=2 * CONNECTIONS_MAX,
                limits=ResourceLimits(),
                is_guest=True,
            )
        )
