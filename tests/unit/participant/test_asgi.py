"""What a server says by ASGI becomes a request, or nothing; what is too large, breaks off or is no request, too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from participant import Participant
from participant.asgi import LINGER_BYTES_MAX
from participant.errors import ConfigError
from participant.rm.memory import Memory, Transaction

TOO_LARGE = 9 << 20
PIECE = 1 << 20


class Server:
    """Stands for a server. `pieces` are those of the body, an exception is that whoever asked has gone."""

    def __init__(self, shop: Participant) -> None:
        self._application = shop.asgi()
        self.taken = 0

    async def ask(
        self,
        path: str,
        *pieces: bytes | None,
        method: str = "POST",
        headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
        **scope: Any,
    ) -> tuple[int, dict[bytes, bytes], Any] | None:
        """The response, if there is one."""
        listed = list(pieces) or [b""]
        sent: list[Any] = []
        self.taken = 0

        async def receive() -> dict[str, Any]:
            piece = listed[self.taken]
            self.taken += 1
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": self.taken < len(listed)}

        async def send(message: Any) -> None:
            sent.append(message)

        base = {"type": "http", "method": method, "path": path, "headers": list(headers), "query_string": b""}
        await self._application(base | scope, receive, send)
        if not sent:
            return None
        start, body = sent
        found = dict(start["headers"])
        assert int(found[b"content-length"]) == len(body["body"])
        text = body["body"]
        return start["status"], found, json.loads(text) if b"json" in found[b"content-type"] else text


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    shop = Participant("shop", Memory(SimDisk()))

    @shop.view("/v1/echo/")
    async def echo(tx: Transaction, query: Any) -> Any:
        return query

    async with shop.running():
        yield Server(shop)


async def status_of(asked: Any) -> int:
    said = await asked
    assert said is not None
    status: int = said[0]
    return status


async def test_a_path_is_what_stands_below_the_mount(server: Server) -> None:
    """Goal: as ASGI has it, where a framework leaves the whole path, and where it leaves the rest only."""
    for path, root in (("/v1/status", ""), ("/a/v1/status", "/a"), ("/v1/status/", "/a"), ("/a/v1/status", "/a/")):
        assert await status_of(server.ask(path, method="GET", root_path=root)) == 200
    assert await status_of(server.ask("/av1/status", method="GET", root_path="/a")) == 404
    assert await status_of(server.ask("/a", method="GET", root_path="/a")) == 404


async def test_a_head_is_answered_as_a_get(server: Server) -> None:
    assert await status_of(server.ask("/livez", method="HEAD")) == 200


async def test_a_query_is_decoded_and_of_two_values_the_first_counts(server: Server) -> None:
    said = await server.ask("/v1/echo", method="GET", query_string=b"a=1%202&b=&a=3")
    assert said is not None
    assert said[2] == {"a": "1 2", "b": ""}


async def test_a_body_may_come_in_pieces(server: Server) -> None:
    said = await server.ask("/v1/branches", b'{"operat', b"", b'ions": []}')
    assert said is not None
    assert said[2] == {"answers": []}


async def test_what_is_too_large_is_read_to_its_end_but_not_kept(server: Server) -> None:
    """Goal: whoever sends it hears why. Seen red with an answer right after the limit."""
    pieces = [b" " * PIECE] * (TOO_LARGE // PIECE)
    for length in (b"%d" % TOO_LARGE, b"9" * 30):
        headers = ((b"content-type", b"application/json"), (b"Content-Length", length))
        for more in ((), headers):
            said = await server.ask("/v1/branches", *pieces, headers=more)
            assert said is not None
            assert (said[0], said[2]["detail"]) == (413, "the request has more than 8,388,608 bytes")
            assert server.taken == len(pieces)


async def test_what_is_far_too_large_is_cut_off(server: Server) -> None:
    pieces = [b" " * PIECE] * 100
    assert await status_of(server.ask("/v1/branches", *pieces)) == 413
    assert server.taken == TOO_LARGE // PIECE + LINGER_BYTES_MAX // PIECE


async def test_a_body_that_does_not_come_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red without the limit: it hung."""
    monkeypatch.setattr("participant.asgi.BODY_TIMEOUT_S", 0.01)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/branches", "headers": [], "query_string": b""}
    async with asyncio.timeout(10):
        await server._application(scope, receive, send)
    assert sent[0]["status"] == 408


async def test_who_hangs_up_is_not_answered(server: Server) -> None:
    assert await server.ask("/v1/branches", b"{", None) is None
    assert await server.ask("/v1/branches", b" " * TOO_LARGE, b" ", None) is None


async def test_what_is_compressed_is_refused(server: Server) -> None:
    headers = [(b"Content-Type", b"application/json"), (b"Content-Encoding", b"GZIP")]
    assert await status_of(server.ask("/v1/branches", b"\x1f\x8b", headers=headers)) == 415


async def test_a_websocket_is_refused_before_it_is_accepted(server: Server) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await server._application({"type": "websocket", "path": "/v1/branches/stream", "headers": []}, receive, send)
    assert sent == ["websocket.close"]


async def test_a_lifespan_of_its_own_it_has_not(server: Server) -> None:
    """Goal: a server that is given the participant alone goes on without one, and every answer says what is missing."""
    with pytest.raises(ConfigError, match="whose lifespan enters running"):
        await server._application({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
