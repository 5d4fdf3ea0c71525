"""Business keys, from the caller to the list: every kind of transaction takes one, and every shard is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coordinator.client import Branch, Client, Committed
from coordinator.errors import GidReused, Invalid
from tests.support.cluster import Cluster, cluster
from tests.support.shards import sharded

BRANCHES = [Branch("bank-a", "debit", {"n": 1}), Branch("bank-b", "credit", {"n": 1})]


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True) as running:
        for clerk in running.clerks.values():
            clerk.one_phase = True
        yield running


async def test_every_kind_of_transaction_is_found_by_its_key(made: Cluster) -> None:
    async with Client([made.urls["n2"]]) as client:
        await client.commit(BRANCHES, gid="plain", key="order 4711")
        made.now_ms += 1
        saga = client.saga(key="order 4711")
        saga.step("bank-a", "debit", undo="credit")
        await saga.run(gid="saga")
        made.now_ms += 1
        message = client.message(key="order 4711")
        message.source("bank-a")
        await message.prepare(gid="message")
        assert await client.commit(BRANCHES, gid="another", key="order 4712") == Committed("another")
        views = await client.by_key("order 4711")
        assert [(view.gid, view.key) for view in views] == [(gid, "order 4711") for gid in ("message", "saga", "plain")]
        assert await client.by_key("order") == []


async def test_a_key_is_part_of_what_was_asked_for(made: Cluster) -> None:
    """Goal: whoever repeats a request under another key is told, because it would not be found by that one."""
    async with Client([made.urls["n1"]]) as client:
        await client.commit(BRANCHES, gid="g", key="one")
        assert await client.commit(BRANCHES, gid="g", key="one") == Committed("g")
        for other in ("two", None):
            with pytest.raises(GidReused, match="another key"):
                await client.commit(BRANCHES, gid="g", key=other)


async def test_a_key_that_is_none_is_refused_with_its_field(made: Cluster) -> None:
    async with Client([made.urls["n1"]]) as client:
        with pytest.raises(Invalid, match=r"key: .*one line"):
            await client.commit(BRANCHES, key="two\nlines")


async def test_every_shard_is_asked() -> None:
    """Goal: transactions of one key are spread over the shards by their gids, and found as one list."""
    async with sharded() as made, Client([made.urls[1]["n3"]]) as client:
        gids = [f"g{number}" for number in range(6)]
        assert {made.owner(gid) for gid in gids} == {0, 1}
        for gid in gids:
            await client.commit(BRANCHES, gid=gid, key="order-7")
            for shard in made.shards:
                shard.now_ms += 1
        assert [view.gid for view in await client.by_key("order-7")] == gids[::-1]
