"""Peers over HTTP: what is asked arrives, and only an answer is one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from participant.ids import BranchKey
from participant.peers import ANSWER_BYTES_MAX, HttpPeers
from participant.termination import Ballot, Peer, Register
from participant.wire import Answer, BranchState, Operation, Verb
from participant.wire_three_phase import Terms

ASK = Operation(Verb.CANVASS, BranchKey("t", "b"), three_phase=Terms(ballot=Ballot(1, 2)))
GOOD = Answer(BranchState.PREPARED, three_phase=Terms(register=Register()))


@pytest.fixture
async def peers() -> AsyncIterator[HttpPeers]:
    made = HttpPeers()
    await made.start()
    yield made
    await made.stop()


async def answered(peers: HttpPeers, response: web.Response) -> tuple[Answer | None, str, Any]:
    """What came back, and what had arrived."""
    seen: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        seen.extend((request.path, msgpack.unpackb(await request.read())))
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    async with TestServer(app) as server:
        answer = await peers.ask(Peer("b", "bank-b", str(server.make_url("/sub/"))), ASK)
    return answer, *seen


async def test_what_is_asked_arrives_and_the_answer_comes_back(peers: HttpPeers) -> None:
    answer, path, form = await answered(peers, web.Response(body=msgpack.packb(GOOD.to_map())))
    assert answer == GOOD
    assert path == "/sub/v1/branches/t/b/canvass"
    assert form == {"three_phase": {"ballot": [1, 2]}}


@pytest.mark.parametrize(
    "response",
    [
        web.Response(status=503, body=msgpack.packb(GOOD.to_map())),
        web.Response(status=307, headers={"Location": "/elsewhere"}),
        web.Response(body=b"\xc1"),
        web.Response(body=b""),
        web.Response(body=msgpack.packb({"state": "happy"})),
        web.Response(body=msgpack.packb({"state": "prepared", "three_phase": {"register": 1}})),
        web.Response(body=msgpack.packb({"state": "prepared", "reason": "x" * ANSWER_BYTES_MAX})),
    ],
    ids=["unavailable", "redirected", "not msgpack", "nothing", "no state", "no register", "too long"],
)
async def test_what_is_no_answer_is_none(peers: HttpPeers, response: web.Response) -> None:
    assert (await answered(peers, response))[0] is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "local://bank-b", "nonsense"])
async def test_a_peer_that_cannot_be_reached_is_silent(peers: HttpPeers, url: str) -> None:
    assert await peers.ask(Peer("b", "bank-b", url), ASK) is None


async def test_nobody_is_asked_before_the_start() -> None:
    assert await HttpPeers().ask(Peer("b", "bank-b", "http://127.0.0.1:1"), ASK) is None
