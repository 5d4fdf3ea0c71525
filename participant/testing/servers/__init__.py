"""Throw-away servers of databases and brokers for tests.

From installed packages, on a free loopback port, in a temporary folder:

async with Postgres.running() as server:
    ... server.dsn ...
    await server.kill()  # SIGKILL
    await server.start()  # again, on the same port and data
"""

from __future__ import annotations

from participant.testing.servers.mariadb import MariaDB
from participant.testing.servers.nats import Nats
from participant.testing.servers.postgres import Postgres
from participant.testing.servers.redis import Redis
from participant.testing.servers.server import Server, ServerFailed, ServerMissing

__all__ = ["MariaDB", "Nats", "Postgres", "Redis", "Server", "ServerFailed", "ServerMissing"]
