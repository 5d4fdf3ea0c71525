"""The databases that any test may ask for; each starts when the first test does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from participant.testing.servers import Postgres
from tests.support.databases import for_the_run, postgres_database


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with for_the_run(Postgres) as server:
        yield server


@pytest.fixture
async def postgres_dsn(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres_database(postgres) as dsn:
        yield dsn
