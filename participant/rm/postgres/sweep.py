"""A PostgreSQL database, swept."""

from __future__ import annotations

from participant.resource import ResourceLimits
from participant.rm.postgres.backend import PostgresBackend
from participant.rm.server.sweep import ServerSweep

__all__ = ["PostgresSweep"]

CONNECTIONS_MAX = 4  # those that end branches


class PostgresSweep(ServerSweep):
    """`dsn` as for `participant.rm.postgres.PostgreSQL`, with the participant's role or a superuser's."""

    def __init__(self, dsn: str) -> None:
        super().__init__(
            PostgresBackend(
                dsn,
                schema="",
                isolation="repeatable read",
                connections_max=2 * CONNECTIONS_MAX,
                limits=ResourceLimits(),
                is_guest=True,
            )
        )
