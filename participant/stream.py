"""Operations and answers over one connection that stays (WebSocket, RFC 6455): none pays for a request of its own.

Messages are binary msgpack. The caller sends `[number, [operation, …]]`, an array with a number of its choice; each is
answered by any number of `[number, [[index, answer], …]]`, where every index comes once. The first may be empty: all of
the array has been tried, and all of it waits. `[number, reason]` refuses an array of which nothing was done.

Owns: what is under way for one connection. When it ends, nobody hears the answers any more: who waited for a row is not
voted down for that, and the next coordinator's repeat waits as long as any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgpack
from aiohttp import WSCloseCode, WSMsgType, web
from structlog import get_logger

from participant.endpoints import Endpoints
from participant.errors import ParticipantError, WireError
from participant.service import ParticipantService
from participant.wire import STREAM_PROTOCOL, Operation

__all__ = ["ARRAYS_OPEN_MAX", "Streams"]

ARRAYS_OPEN_MAX = 256  # of one connection; one more is refused
HEARTBEAT_S = (
    10.0  # a coordinator that has said nothing for so long is asked whether it is there, and then has half of it
)

_LOG = get_logger(__name__)
_CLOSE_TIMEOUT_S = 1.0  # for the other side to say goodbye


class Streams:
    """The connections of one participant. `current` gives its endpoints while it runs, or raises NotRunning."""

    def __init__(self, current: Callable[[], Endpoints]) -> None:
        self._current = current
        self._sockets: dict[web.WebSocketResponse, web.Request] = {}

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One connection, up to its end. Raises web.HTTPBadRequest if it is no WebSocket of this contract.

        Browsers ask nobody before they open a WebSocket to another origin, as they do before a POST of ours, but they
        always name theirs (RFC 6455, section 10.2); a coordinator does not. Raises web.HTTPForbidden for them.
        Raises NotRunning.
        """
        endpoints = self._current()
        if "Origin" in request.headers:
            raise web.HTTPForbidden(text="a stream is for coordinators, not for pages in a browser")
        socket = web.WebSocketResponse(
            protocols=(STREAM_PROTOCOL,),
            max_msg_size=endpoints.size_max,
            compress=False,
            timeout=_CLOSE_TIMEOUT_S,
            heartbeat=HEARTBEAT_S,
        )
        if socket.can_prepare(request).protocol != STREAM_PROTOCOL:
            raise web.HTTPBadRequest(text=f"a stream is a WebSocket with the subprotocol {STREAM_PROTOCOL}")
        await socket.prepare(request)
        self._sockets[socket] = request
        arrays: set[asyncio.Task[None]] = set()
        try:
            await self._read(socket, endpoints.service, arrays)
        finally:
            del self._sockets[socket]
            for array in arrays:
                array.cancel()
            await asyncio.gather(*arrays, return_exceptions=True)
        return socket

    async def close(self) -> None:
        """Close them all; what is not answered is unknown to who asked."""
        await asyncio.gather(*(_close(*each) for each in tuple(self._sockets.items())))

    async def _read(
        self, socket: web.WebSocketResponse, service: ParticipantService, arrays: set[asyncio.Task[None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        async for message in socket:
            try:
                number, listed = _array(message.type, message.data)
            except WireError as error:
                await socket.close(code=WSCloseCode.INVALID_TEXT, message=str(error).encode()[:123])
                return
            if len(arrays) >= ARRAYS_OPEN_MAX and _may_wait(service, listed):
                await _say(socket, number, f"{ARRAYS_OPEN_MAX} arrays are open already")
                continue
            array = loop.create_task(_answer(socket, service, number, listed))
            arrays.add(array)
            array.add_done_callback(arrays.discard)


def _may_wait(service: ParticipantService, listed: list[Any]) -> bool:
    """Whether all of an array may wait; what does not may free the rows that those before it wait for."""
    try:
        operations = service.read_array(listed)
    except WireError:
        return True
    return all(isinstance(each, Operation) and each.may_wait for each in operations)


async def _answer(socket: web.WebSocketResponse, service: ParticipantService, number: int, listed: list[Any]) -> None:
    """Each answer as soon as it is true: one that waits for a row delays nobody."""
    try:
        operations = service.read_array(listed)
        async with aclosing(service.perform_all(operations)) as lists:
            async for answered in lists:
                await _say(socket, number, [(index, answer.to_map()) for index, answer in answered])
    except ParticipantError as error:
        await _say(socket, number, str(error))
    except Exception:  # noqa: BLE001 - the border: a defect must not look like an answer
        _LOG.exception("stream.failed", operations=len(listed))
        await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=b"a defect of this participant; see its log")


async def _say(socket: web.WebSocketResponse, number: int, what: object) -> None:
    """One message, if anybody still listens."""
    try:
        await socket.send_bytes(msgpack.packb((number, what)))
    except ConnectionError:  # whoever asked has gone, and will ask again
        _LOG.info("stream.unheard", number=number)


async def _close(socket: web.WebSocketResponse, request: web.Request) -> None:
    """Say goodbye; who does not read it holds nobody up."""
    try:
        async with asyncio.timeout(2 * _CLOSE_TIMEOUT_S):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the participant stops")
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()


def _array(kind: WSMsgType, data: Any) -> tuple[int, list[Any]]:
    """Raises WireError."""
    if kind is not WSMsgType.BINARY:
        raise WireError("message", "must be binary")
    try:
        value = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("message", f"is not msgpack: {error or type(error).__name__}") from None
    match value:
        case [int(number), list(listed)] if not isinstance(number, bool):
            return number, listed
    raise WireError("message", "must be [number, operations]")
