"""The client finds the shard of each gid by itself, and asks all of them where it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from typing import Any

import msgpack
import pytest
from aiohttp import web

from coordinator.client import Aborted, Branch, Client, Committed
from coordinator.client.lane import Lane
from coordinator.client.listing import merged
from coordinator.client.policy import Pauses
from coordinator.client.replicas import Replicas, Reply
from coordinator.client.session import Session
from coordinator.client.shards import Shards
from coordinator.errors import Invalid, NotFound, OutcomeUnknown, Unavailable
from coordinator.ledger.records import Decision, Path, Phase
from coordinator.shards import MAP_PATH, ClusterMap, map_of
from coordinator.wire import Outcome, TransactionView
from participant.wire import BranchState, Verb
from tests.support.cluster import recorded
from tests.support.shards import Sharded, sharded

BRANCHES = [Branch("bank-a", "debit", {"n": 1}), Branch("bank-b", "credit", {"n": 1})]


def quick(*urls: str, timeout_s: float = 5.0, attempt_timeout_s: float = 1.0) -> Client:
    return Client(
        urls, timeout_s=timeout_s, attempt_timeout_s=attempt_timeout_s, pauses=Pauses(0.001, 0.01), chance=Random(1)
    )


@asynccontextmanager
async def cartographer(tell: Callable[[], Any]) -> AsyncIterator[str]:
    """A server that knows nothing but what it tells for a map; if that is None, it never answers."""

    async def map_(_: web.Request) -> web.StreamResponse:
        if (said := tell()) is None:
            await asyncio.Event().wait()
        return web.json_response(said)

    app = web.Application()
    app.router.add_get(MAP_PATH, map_)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def made() -> AsyncIterator[Sharded]:
    async with sharded() as running:
        yield running


async def test_transactions_go_to_their_shards_from_one_url_of_any(made: Sharded) -> None:
    """Goal: gids that the client makes spread over the shards, and each is recorded where it belongs."""
    async with quick(made.urls[1]["n3"]) as client:
        ended = await asyncio.gather(*(client.commit(BRANCHES) for _ in range(40)))
        assert all(isinstance(each, Committed) for each in ended)
        for each in ended:
            assert made.holders(each.gid) == [made.owner(each.gid)]
            assert await client.outcome(each.gid) == each
            assert (await client.record(each.gid)).gid == each.gid
    counts = [len(shard.replicas["n1"].ledger) for shard in made.shards]
    assert min(counts) >= 10


async def test_the_map_is_asked_for_once(made: Sharded) -> None:
    """Goal: many transactions at the start wait for one map, and later ones for none."""
    asked = 0

    def tell() -> Any:
        nonlocal asked
        asked += 1
        return map_of("test", made.urls).model_dump()

    async with cartographer(tell) as url, quick(url) as client:
        await asyncio.gather(*(client.commit(BRANCHES) for _ in range(20)))
        await client.commit(BRANCHES)
    assert asked == 1


async def test_what_is_waited_for_and_resolved_is_found_too(made: Sharded) -> None:
    for clerk in made.clerks.values():
        clerk.prevent = False  # on the classic path an operator may abort
    made.clerks["bank-b"].hold(Verb.PREPARE)
    async with quick(made.urls[0]["n2"], attempt_timeout_s=0.2) as client:
        for gid in (next(iter(made.gids(shard))) for shard in (0, 1)):
            committing = asyncio.ensure_future(client.commit(BRANCHES, gid=gid))
            await made.clerks["bank-b"].arrived(Verb.PREPARE)
            leader = made.shards[made.owner(gid)].replicas["n1"]
            await recorded(leader, gid, lambda record: record.phase is Phase.PREPARING)
            held = (await client.examine(gid)).branches
            assert [each.state for each in held] == [BranchState.PREPARED, BranchState.UNKNOWN]
            view = await client.resolve(gid, Decision.ABORT, operator="ada", reason="stuck")
            assert view.decided_by == "operator ada"
            assert await client.wait(gid) == await committing == Aborted(gid, "stuck", None)
            with pytest.raises(NotFound):
                await client.outcome(f"{gid}-unheard-of")
    made.clerks["bank-b"].release(Verb.PREPARE)


async def test_the_shards_are_listed_as_one_newest_first(made: Sharded) -> None:
    """Goal: order, pages and filters are those of a single shard."""
    gids = [f"g{number}" for number in range(12)]
    assert {made.owner(gid) for gid in gids} == {0, 1}
    async with quick(made.urls[0]["n1"]) as client:
        for number, gid in enumerate(gids):
            await client.commit(BRANCHES[: 1 + number % 2], gid=gid)
            for shard in made.shards:
                shard.now_ms += 1
        newest_first = gids[::-1]
        for page_size in (None, 1, 5):
            assert [view.gid async for view in client.transactions(page_size=page_size)] == newest_first
        assert [view.gid async for view in client.transactions(participant="bank-b")] == newest_first[::2]
        before = made.shards[0].now_ms - 10
        assert [view.gid async for view in client.transactions(begun_before_ms=before)] == newest_first[10:]
        assert [view.gid async for view in client.transactions(phases=[Phase.PREPARING])] == []
        async for view in client.transactions():
            assert view.gid == gids[-1]
            break


async def test_a_list_over_shards_that_are_down_ends_as_unavailable() -> None:
    """Goal: what is said is the trouble that there is. Red (RuntimeError) when the first shard that is given up ends
    the list while the other is still being asked.
    """
    async with sharded(3) as made, quick(made.urls[0]["n1"], timeout_s=0.3) as client:
        for shard in made.shards[1:]:
            for name in tuple(shard.replicas):
                await shard.crash(name)
        with pytest.raises(Unavailable):
            _ = [view async for view in client.transactions()]


async def test_a_list_that_is_refused_by_every_shard_ends_as_the_refusal(made: Sharded) -> None:
    """Goal: as of a single shard. Red (RuntimeError) when the first refusal ends it under way."""
    async with quick(made.urls[0]["n1"]) as client:
        with pytest.raises(Invalid):
            _ = [view async for view in client.transactions(page_size=10**7)]


async def test_a_list_fails_when_none_of_its_parts_is_under_way_any_more() -> None:
    """Red (RuntimeError instead of Unavailable) when the first failure does not wait for the others."""

    async def late() -> AsyncGenerator[TransactionView]:
        await asyncio.sleep(0.01)
        yield view("late", 1)

    async def failing() -> AsyncGenerator[TransactionView]:
        raise Unavailable("no replica")
        yield view("never", 1)

    with pytest.raises(Unavailable, match="no replica"):
        _ = [each async for each in merged([late(), failing()])]


async def test_a_client_that_is_not_routed_sees_one_shard(made: Sharded) -> None:
    theirs = next(iter(made.gids(1)))
    async with quick(made.urls[0]["n1"]) as client:
        await client.commit(BRANCHES, gid=theirs)
    async with Client([made.urls[0]["n1"]], routed=False) as client:
        assert [view.gid async for view in client.transactions()] == []
        assert await client.outcome(theirs) == Committed(theirs)  # for it is pointed there
        assert (await client.cluster()).shard == 0


async def test_a_client_that_is_not_routed_stays_at_its_shard_wherever_it_was_pointed(made: Sharded) -> None:
    """Goal: a pointer to another shard, whose replica there points on to its leader, changes no belief about our own.
    Red when that leader is taken for ours.
    """
    await made.shards[1].lead("n2")
    theirs = next(iter(made.gids(1)))
    async with Client([made.urls[0]["n1"]], routed=False) as client:
        assert await client.commit(BRANCHES, gid=theirs) == Committed(theirs)
        assert (await client.cluster()).shard == 0
        assert [view.gid async for view in client.transactions()] == []


async def test_one_dead_shard_does_not_stop_the_others(made: Sharded) -> None:
    ours, theirs = (next(iter(made.gids(shard))) for shard in (0, 1))
    for name in tuple(made.shards[1].replicas):
        await made.shards[1].crash(name)
    async with quick(made.urls[0]["n1"], made.urls[1]["n1"]) as client:
        assert await client.commit(BRANCHES, gid=ours) == Committed(ours)
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await client.commit(BRANCHES, gid=theirs, timeout_s=0.3)
        assert len((await client.cluster_map()).shards) == 2


async def test_a_map_that_leads_astray_is_replaced(made: Sharded) -> None:
    """Goal: replicas whose addresses were exchanged are found again, and from then on at once. Red when the client
    keeps its map.
    """
    maps: list[ClusterMap] = [map_of("test", made.urls), map_of("test", made.urls[::-1])]

    def tell() -> Any:
        return maps.pop().model_dump()

    async with cartographer(tell) as url, quick(url) as client:
        gids = list(islice(made.gids(1), 20))
        ended = await asyncio.gather(*(client.commit(BRANCHES, gid=gid) for gid in gids[:8]))
        ended += [await client.commit(BRANCHES, gid=gid) for gid in gids[8:]]
        assert ended == [Committed(gid) for gid in gids]
    assert maps == []


async def test_a_map_that_leads_to_nobody_is_replaced(made: Sharded) -> None:
    """Goal: a shard whose replicas have all moved is found again. Red when only a pointer makes a map old."""
    moved = [made.urls[0], {name: f"http://127.0.0.1:{port}" for port, name in enumerate(made.urls[1], 1)}]
    maps: list[ClusterMap] = [map_of("test", made.urls), map_of("test", moved)]

    def tell() -> Any:
        return maps.pop().model_dump()

    async with cartographer(tell) as url, quick(url) as client:
        for gid in islice(made.gids(1), 3):
            assert await client.commit(BRANCHES, gid=gid) == Committed(gid)
    assert maps == []


async def test_while_no_newer_map_is_to_be_had_the_old_one_is_used() -> None:
    """Goal: one dead shard does not slow the others: one call waits a little, the rest not at all. Red when each
    waits for the map, when its loss is an error, and without the pause.
    """
    asked = 0

    def tell() -> Any:
        nonlocal asked
        asked += 1
        return map_of("test", [{"n1": url}, {"n1": "http://127.0.0.1:1"}]).model_dump() if asked == 1 else None

    session = Session()
    async with cartographer(tell) as url:
        shards = Shards([url], session, lambda replicas: Lane(replicas, {}, 1.0), routed=True)
        known = await shards.all(1.0)
        for _ in range(5):
            known[1].replicas.turn_away("http://127.0.0.1:1")
            async with asyncio.timeout(0.5):
                assert await asyncio.gather(*(shards.all(1.0) for _ in range(20))) == [known] * 20
        assert asked == 2
        await shards.close()
        await session.close()


async def test_each_way_of_being_pointed_elsewhere_makes_the_client_ask_for_the_map_anew(made: Sharded) -> None:
    """Goal: one transaction is redirected, one of several is refused; a client that hears either has an old map.

    Red when either is not noticed.
    """
    packed = [msgpack.packb({"gid": gid, "branches": [BRANCHES[0].to_map()]}) for gid in islice(made.gids(1), 2)]
    replies: list[Reply] = []
    for some, statuses in ((packed[:1], [200]), (packed, [421, 421])):
        misled = asyncio.Event()
        session = Session()
        replicas = Replicas([made.urls[0]["n1"]], session, misled.set)
        await replicas.attempt_all(some, lambda _, reply: replies.append(reply), query={}, timeout_s=5.0)
        assert misled.is_set()
        assert replicas.target == made.urls[0]["n1"]
        assert [reply.status for reply in replies] == statuses
        replies.clear()
        await session.close()


@pytest.mark.parametrize("said", [{}, {"cluster": "test", "version": "", "shards": []}, None])
async def test_without_a_map_nothing_was_begun(said: Any) -> None:
    """Goal: a map that is none, or does not come, leaves no outcome unknown. Red when its loss counts as an attempt."""
    async with cartographer(lambda: said) as url, quick(url, timeout_s=0.3, attempt_timeout_s=0.1) as client:
        with pytest.raises(Unavailable):
            await client.commit(BRANCHES)


def view(gid: str, begun_at_ms: int) -> TransactionView:
    return TransactionView(
        gid=gid,
        outcome=Outcome.COMMITTED,
        phase=Phase.COMMITTED,
        path=Path.CLASSIC,
        branches=[],
        deadline_ms=1,
        begun_at_ms=begun_at_ms,
        decided_at_ms=None,
        decided_by=None,
        reason=None,
        branch=None,
        revision=1,
    )


async def listed(*views: TransactionView) -> AsyncGenerator[TransactionView]:
    for each in views:
        yield each


async def test_lists_are_merged_by_begin_and_then_by_gid() -> None:
    one = listed(view("b", 5), view("a", 5), view("z", 1))
    other = listed(view("aa", 5), view("y", 2))
    assert [each.gid async for each in merged([one, other, listed()])] == ["b", "aa", "a", "y", "z"]
