"""The client's stream of events: one story, over takeovers and broken connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import pytest
from aiohttp import web

from coordinator.client import Branch, Client
from coordinator.client.policy import Pauses
from coordinator.errors import Invalid, NotFound, Unavailable
from coordinator.http.views import transaction_view
from coordinator.ledger.records import Path, Phase, TransactionRecord
from participant.wire import Verb
from tests.support.cluster import Cluster, cluster, recorded
from tests.support.impostor import Impostor, impostor

BRANCHES = [Branch("bank-a", "debit", {"n": 1}), Branch("bank-b", "credit", {"n": 1})]
RECORD = TransactionRecord("g", b"d", Path.CLASSIC, Phase.PREPARING, (), 1_000, 1, revision=5)


def quick(*urls: str) -> Client:
    return Client(urls, timeout_s=5.0, attempt_timeout_s=1.0, pauses=Pauses(0.001, 0.01), chance=Random(1))


@pytest.fixture
async def server() -> AsyncIterator[Impostor]:
    async with impostor() as running:
        yield running


@pytest.mark.parametrize("prevent", [True, False], ids=["staged", "classic"])
async def test_a_stream_goes_on_over_a_takeover(prevent: bool) -> None:
    """Goal: the listener sees every phase once, in order, though the leader that it listened to has died."""
    async with cluster(serve=True, prevent=prevent) as made, quick(*made.urls.values()) as client:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        committing = asyncio.ensure_future(client.commit(BRANCHES, gid="g"))
        await recorded(made.replicas["n1"], "g", lambda record: record.phase is Phase.PREPARING)
        views = client.events("g")
        seen = [(await anext(views)).phase]
        await made.crash("n1")
        await made.lead("n2")
        made.clerks["bank-b"].release(Verb.PREPARE)
        seen += [view.phase async for view in views]
        assert (await committing).gid == "g"
    assert seen[0] is Phase.PREPARING
    assert seen[-1] is Phase.COMMITTED
    assert seen == sorted(set(seen), key=[Phase.PREPARING, Phase.COMMITTING, Phase.COMMITTED].index)


async def test_what_has_ended_is_one_event() -> None:
    async with cluster(serve=True) as made, quick(made.urls["n2"]) as client:
        await client.commit(BRANCHES, gid="g")
        await client.settled("g")
        assert [view.phase async for view in client.events("g")] == [Phase.COMMITTED]


async def test_what_nobody_recorded_is_not_found_and_no_gid_becomes_a_path() -> None:
    async with cluster(serve=True) as made, quick(made.urls["n2"]) as client:
        with pytest.raises(NotFound):
            await anext(client.events("unheard-of"))
        with pytest.raises(Invalid):
            client.events("../x")


def streamed(*lines: str, breaks: bool = False) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """A stream of these lines, which ends, or breaks off."""

    async def script(asked: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(asked)
        for line in lines:
            await response.write(line.encode())
        if breaks:
            assert asked.transport is not None
            asked.transport.abort()
        return response

    return script


def event(record: TransactionRecord) -> str:
    view = transaction_view(record).model_dump(mode="json") | {"of a later version": 1}
    return f"id: {record.revision}\ndata: {json.dumps(view)}\n\n"


@pytest.mark.parametrize("breaks", [True, False])
async def test_a_stream_that_ends_early_is_taken_up_behind_the_last_event(server: Impostor, breaks: bool) -> None:
    whole = event(RECORD)
    asked: list[str | None] = []

    def noting(script: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        async def noted(request: web.BaseRequest) -> web.StreamResponse:
            asked.append(request.headers.get("Last-Event-ID"))
            return await script(request)

        server.then(noted)

    ended = RECORD._replace(phase=Phase.COMMITTED, revision=9)
    noting(streamed(": a comment\n\n", whole[:20], whole[20:], event(ended)[:30], breaks=breaks))
    noting(streamed(breaks=breaks))
    noting(streamed(event(ended)))
    async with quick(server.url) as client:
        views = [view async for view in client.events("g")]
    assert [(view.phase, view.revision) for view in views] == [(Phase.PREPARING, 5), (Phase.COMMITTED, 9)]
    assert asked == [None, "5", "5"]


async def test_a_listener_whom_nobody_has_more_to_tell_ends(server: Impostor) -> None:
    async def nothing(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=204)

    server.then(nothing)
    async with quick(server.url) as client:
        assert [view async for view in client.events("g")] == []


async def test_an_event_that_cannot_be_read_is_an_error_and_not_asked_for_for_ever(server: Impostor) -> None:
    server.then(streamed('id: 5\ndata: {"gid": 1}\n\n'))
    async with quick(server.url) as client:
        with pytest.raises(Unavailable, match="cannot be read"):
            await anext(client.events("g"))


async def test_a_listener_may_leave(made_and_left: Cluster) -> None:
    """Goal: whoever stops listening keeps no place at the replica."""
    made = made_and_left
    async with quick(made.urls["n1"]) as client:
        views = client.events("g")
        await anext(views)
        assert made.replicas["n1"].waiters.listening == 1
        await views.aclose()
    made.clerks["bank-b"].release(Verb.PREPARE)
    await recorded(made.replicas["n1"], "g", lambda record: record.finished)
    async with asyncio.timeout(5.0):
        while made.replicas["n1"].waiters.listening:  # noqa: ASYNC110 (the server notices with its next word)
            await asyncio.sleep(0.001)


@pytest.fixture
async def made_and_left() -> AsyncIterator[Cluster]:
    """A cluster with an undecided transaction."""
    async with cluster(serve=True, prevent=False) as made, quick(made.urls["n1"]) as client:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        await client.begin(BRANCHES, gid="g", deadline_ms=10_000)
        yield made
