"""Where a caller may name a trace, and that nothing it says of one is ever refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from coordinator.shards import MAP_PATH
from tests.support.cluster import Cluster, cluster
from tests.support.tracing import CALLER

OTHER = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def form(gid: str, **more: Any) -> dict[str, Any]:
    return {"gid": gid, "branches": [{"participant": "bank-a", "action": "do"}], **more}


def trace_of(made: Cluster, gid: str) -> str:
    record = made.replicas["n1"].ledger.get(gid)
    assert record is not None
    return record.trace


@pytest.mark.parametrize(
    ("headers", "field", "trace"),
    [
        ({"traceparent": CALLER}, {}, CALLER),
        ({"Traceparent": CALLER, "Tracestate": "a=1"}, {}, f"{CALLER} a=1"),
        ({}, {"trace": f"{CALLER} a=1"}, f"{CALLER} a=1"),
        ({"traceparent": OTHER}, {"trace": CALLER}, CALLER),
        ({"traceparent": CALLER}, {"trace": None}, CALLER),
        ({"traceparent": "00-nothing-like-it-01", "tracestate": "a=1"}, {}, ""),
        ({"traceparent": "x" * 4_000}, {}, ""),
        ({}, {"trace": "x" * 4_000}, ""),
        ({"tracestate": "a=1"}, {}, ""),
    ],
)
async def test_a_trace_is_named_by_the_headers_or_the_field_or_ignored(
    made: Cluster, session: aiohttp.ClientSession, headers: dict[str, str], field: dict[str, Any], trace: str
) -> None:
    """Red when a malformed one is refused: the specification says to go on without."""
    async with session.post(f"{made.urls['n1']}/v1/transactions", json=form("g", **field), headers=headers) as response:
        assert response.status == 200
    assert trace_of(made, "g") == trace


async def test_in_an_array_each_names_its_own_and_the_headers_mean_none_of_them(
    made: Cluster, session: aiohttp.ClientSession
) -> None:
    values = [form("a", trace=CALLER), form("b", trace=OTHER), form("c"), form("d", trace="malformed")]
    url = f"{made.urls['n1']}/v1/transactions"
    async with session.post(url, json=values, headers={"traceparent": CALLER}) as response:
        assert [answer["status"] for answer in await response.json()] == [200] * 4
    assert [trace_of(made, gid) for gid in "abcd"] == [CALLER, OTHER, "", ""]


async def test_the_map_says_that_a_transaction_may_name_its_trace(
    made: Cluster, session: aiohttp.ClientSession
) -> None:
    async with session.get(made.urls["n1"] + MAP_PATH) as response:
        assert (await response.json())["traces"] is True
