"""The servers that any test may ask for; each starts when the first test does. And logs that end with their test."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from participant.testing.servers import MariaDB, Nats, Postgres, Redis
from tests.support.databases import for_the_run, mariadb_database, packaged_postgres, postgres_database

# No test talks to anybody whom the authorities of this machine vouch for, and every process of Python that can speak
# HTTP reads all of their certificates before it does anything.
os.environ["SSL_CERT_FILE"] = os.devnull


@pytest.fixture(autouse=True)
def _logs_end_with_their_test() -> Iterator[None]:
    """A command that a test has run in this process has set logging up, for a stream that is closed by now."""
    yield
    root = logging.getLogger()
    for handler in tuple(root.handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream.closed:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with for_the_run(Postgres) as server:
        yield server


@pytest.fixture
async def postgres_dsn(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres_database(postgres) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def postgres_16() -> Iterator[Postgres]:
    with packaged_postgres("16") as programs, for_the_run(Postgres, programs=programs) as server:
        yield server


@pytest.fixture
async def postgres_16_dsn(postgres_16: Postgres) -> AsyncIterator[str]:
    async with postgres_database(postgres_16) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def postgres_18() -> Iterator[Postgres]:
    with packaged_postgres("18") as programs, for_the_run(Postgres, programs=programs) as server:
        yield server


@pytest.fixture
async def postgres_18_dsn(postgres_18: Postgres) -> AsyncIterator[str]:
    async with postgres_database(postgres_18) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    with for_the_run(MariaDB) as server:
        yield server


@pytest.fixture
async def mariadb_dsn(mariadb: MariaDB) -> AsyncIterator[str]:
    async with mariadb_database(mariadb) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    with for_the_run(Redis) as server:
        yield server


@pytest.fixture(scope="session")
def nats() -> Iterator[Nats]:
    with for_the_run(Nats) as server:
        yield server
