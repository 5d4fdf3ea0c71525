"""A cluster whose participants take steps, and a client of it; tests that need others make their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coordinator.client import Client
from tests.support.cluster import Cluster, cluster


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True) as made:
        for clerk in made.clerks.values():
            clerk.one_phase = True
        yield made


@pytest.fixture
async def client(made: Cluster) -> AsyncIterator[Client]:
    async with Client([made.urls["n2"], made.urls["n1"]], timeout_s=5.0) as client:
        yield client
