"""Throw-away database servers for tests: from installed packages, on a free loopback port, in a temporary folder.

async with Postgres.running() as server:
    ... server.dsn ...
    await server.kill()  # SIGKILL
    await server.start()  # again, on the same port and data
"""

from __future__ import annotations

from participant.testing.servers.mariadb import MariaDB
from participant.testing.servers.postgres import Postgres
from participant.testing.servers.server import Server, ServerFailed, ServerMissing

__all__ = ["MariaDB", "Postgres", "Server", "ServerFailed", "ServerMissing"]
