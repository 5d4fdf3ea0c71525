"""Transactions that are committed at the same time travel together, and none waits for another or fails with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgpack
import pytest
from aiohttp import web

from coordinator.client import Branch, Client, Committed
from coordinator.client.lane import SILENT_MAX
from coordinator.client.policy import Pauses
from coordinator.errors import GidReused, OutcomeUnknown, Unavailable
from coordinator.http.app import serving
from coordinator.wire import MSGPACK_SEQ, TRANSACTIONS_MAX
from participant.wire import Verb
from tests.support.cluster import cluster

ONE = [Branch("bank-a", "debit", {"n": 1})]
TWO = [*ONE, Branch("bank-b", "credit", {"n": 1})]


def patient(url: str, attempt_timeout_s: float = 5.0) -> Client:
    return Client(
        [url],
        timeout_s=5.0,
        attempt_timeout_s=attempt_timeout_s,
        pauses=Pauses(0.001, 0.01),
        chance=Random(1),
        routed=False,
    )


class Counter:
    """A server that commits everything, keeps how many transactions came in each request, and waits for `go`."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = asyncio.Event()
        self.arrived = asyncio.Condition()

    async def begin(self, request: web.Request) -> web.StreamResponse:
        value = msgpack.unpackb(await request.read())
        values = value if isinstance(value, list) else [value]
        async with self.arrived:
            self.sizes.append(len(values))
            self.arrived.notify_all()
        await self.go.wait()
        if not isinstance(value, list):
            return web.Response(body=msgpack.packb(committed(value["gid"])), content_type="application/msgpack")
        response = web.StreamResponse()
        response.content_type = MSGPACK_SEQ
        await response.prepare(request)
        for chunk in self.chunks(values):
            await response.write(chunk)
        return response

    def chunks(self, values: list[Any]) -> Iterator[bytes]:
        for position, value in enumerate(values):
            yield msgpack.packb((position, 200, committed(value["gid"])))

    async def requests(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.sizes) >= count)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/v1/transactions", self.begin)
        async with serving(app, "127.0.0.1", 0, shutdown_s=1.0) as port:
            yield f"http://127.0.0.1:{port}"


def committed(gid: str) -> dict[str, Any]:
    return {"gid": gid, "outcome": "committed", "reason": None, "branch": None, "handle": None}


async def test_what_waits_together_travels_together() -> None:
    """Broken on purpose by sending each at once: red."""
    server = Counter()
    async with server.serving() as url, patient(url) as client:
        commits = []
        for number in range(SILENT_MAX):
            commits.append(asyncio.ensure_future(client.commit(ONE, gid=f"first-{number}")))
            await server.requests(number + 1)
        count = TRANSACTIONS_MAX + 10
        commits += [asyncio.ensure_future(client.commit(ONE, gid=f"g{number}")) for number in range(count)]
        await asyncio.sleep(0.05)
        assert server.sizes == [1] * SILENT_MAX, "they collect while nobody has answered"
        server.go.set()
        ended = await asyncio.gather(*commits)
        assert {type(end) for end in ended} == {Committed}
        assert server.sizes == [*[1] * SILENT_MAX, TRANSACTIONS_MAX, 10]


async def test_none_waits_for_another() -> None:
    """Broken on purpose by setting the futures at the end of the stream: red (it waits for ever)."""
    async with cluster(serve=True) as made, patient(made.urls["n1"]) as client:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        slow = asyncio.ensure_future(client.commit(TWO, gid="slow"))
        quick = asyncio.ensure_future(client.commit(ONE, gid="quick"))
        async with asyncio.timeout(5):
            assert await quick == Committed("quick")
        assert not slow.done()
        made.clerks["bank-b"].release(Verb.PREPARE)
        assert await slow == Committed("slow")


async def test_none_fails_with_another() -> None:
    async with cluster(serve=True) as made, patient(made.urls["n1"]) as client:
        await client.commit(ONE, gid="taken")
        ends = await asyncio.gather(
            client.commit(TWO, gid="taken"), client.commit(TWO, gid="fine"), return_exceptions=True
        )
        assert isinstance(ends[0], GidReused)
        assert ends[1] == Committed("fine")


class Garbled(Counter):
    """Answers the first, then something that is no answer."""

    def __init__(self, garbage: bytes) -> None:
        super().__init__()
        self.garbage = garbage
        self.go.set()

    def chunks(self, values: list[Any]) -> Iterator[bytes]:
        yield msgpack.packb((0, 200, committed(values[0]["gid"])))
        yield self.garbage


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        msgpack.packb((0, 200, committed("again"))),
        msgpack.packb((99, 200, committed("nobody"))),
        msgpack.packb((-1, 200, committed("nobody"))),
        msgpack.packb("no answer"),
        msgpack.packb((1, "200", {})),
        msgpack.packb((1, 200, [])),
        msgpack.packb(({}, 200, {})),
    ],
)
async def test_what_a_broken_stream_does_not_answer_is_unknown(garbage: bytes) -> None:
    """Broken on purpose by taking the end of a stream for an abort: red."""
    server = Garbled(garbage)
    async with server.serving() as url, patient(url) as client:
        ends = await asyncio.gather(
            client.commit(ONE, gid="answered"),
            client.commit(ONE, gid="cut", timeout_s=0.01),
            return_exceptions=True,
        )
        assert ends[0] == Committed("answered")
        assert isinstance(ends[1], OutcomeUnknown)


async def test_a_caller_that_goes_away_takes_nobody_with_it() -> None:
    server = Counter()
    async with server.serving() as url, patient(url) as client:
        leaving = asyncio.ensure_future(client.commit(ONE, gid="leaving"))
        staying = asyncio.ensure_future(client.commit(ONE, gid="staying"))
        await server.requests(1)
        leaving.cancel()
        server.go.set()
        assert await staying == Committed("staying")


async def test_a_client_that_is_closed_leaves_no_caller_waiting() -> None:
    """Broken on purpose by ending only what is under way: red (what waits leaves as the client is closed)."""
    server = Counter()
    async with server.serving() as url:
        client = patient(url, attempt_timeout_s=60.0)
        commits = []
        for number in range(SILENT_MAX):
            commits.append(asyncio.ensure_future(client.commit(ONE, gid=f"sent-{number}", timeout_s=0.05)))
            await server.requests(number + 1)
        waiting = asyncio.ensure_future(client.commit(ONE, gid="waiting", timeout_s=0.05))
        await asyncio.sleep(0)
        await client.close()
        async with asyncio.timeout(5):
            *sent, never_sent = await asyncio.gather(*commits, waiting, return_exceptions=True)
        assert {type(end) for end in sent} == {OutcomeUnknown}
        assert isinstance(never_sent, Unavailable)
        server.go.set()
