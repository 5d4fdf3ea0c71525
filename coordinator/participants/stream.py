"""The connection to one participant that stays: arrays of a lane leave through it, and their answers come back
(WebSocket, RFC 6455; `participant/stream.py` is the other end).

Owns: the socket, and what is unanswered on it. Opened when it is first needed, and again after it was lost; what was
under way then is unknown. Must never do: retry.
"""

from __future__ import annotations

import asyncio
import os
import socket as tcp
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import msgpack

from coordinator.participants.lane import Request
from coordinator.ports import CallFailed

__all__ = ["GOODBYE_S", "Stream"]

GOODBYE_S = 1.0  # for the participant to read our goodbye, and to answer it


class _Array:
    """One whose answers are not all there; `ended` is done when they are, or with why they will not be."""

    __slots__ = ("ended", "heard_at", "request")

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.heard_at = loop.time()
        self.ended: asyncio.Future[None] = loop.create_future()

    def fail(self, error: CallFailed) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # whoever sends it may have gone


class Stream:
    """`connect` opens the WebSocket, and raises CallFailed. `silence_s`: an array of which nothing was heard for so
    long, and for which nobody waits any more, is given up. To be stopped."""

    def __init__(
        self, participant: str, connect: Callable[[], Awaitable[aiohttp.ClientWebSocketResponse]], silence_s: float
    ) -> None:
        self._participant = participant
        self._connect = connect
        self._silence_s = silence_s
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None

    async def send(self, request: Request) -> None:
        """Carry an array, and take its answers. Raises CallFailed; what was answered before counts."""
        connection = self._connection
        if connection is None or connection.is_lost:
            connection = await self._connected(request)
        await connection.send(request)

    async def stop(self) -> None:
        """Close the connection; what is under way ends as CallFailed."""
        if self._connection is not None:
            await self._connection.stop()

    async def _connected(self, request: Request) -> _Connection:
        """Raises CallFailed, also when nobody waits for the request any more."""
        async with self._connecting:
            if self._connection is None or self._connection.is_lost:
                if not request.is_awaited:
                    raise CallFailed(f"{self._participant} could not be connected in time")
                self._connection = _Connection(self._participant, await self._connect(), self._silence_s)
            return self._connection


class _Connection:
    """A WebSocket that is open, up to its end, and what is unanswered on it."""

    def __init__(self, participant: str, socket: aiohttp.ClientWebSocketResponse, silence_s: float) -> None:
        self._participant = participant
        self._socket = socket
        # A descriptor of our own: what uvloop gives for a socket cannot be shut down.
        self._tcp = tcp.socket(fileno=os.dup(socket.get_extra_info("socket").fileno()))
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._pack = msgpack.Packer().pack
        self._number = 0
        self._under_way: dict[int, _Array] = {}
        self._look: asyncio.TimerHandle | None = None
        self._reading = self._loop.create_task(self._read())

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._socket.closed

    async def send(self, request: Request) -> None:
        """See `Stream.send`."""
        self._number = number = self._number + 1
        self._under_way[number] = array = _Array(request, self._loop)
        if self._look is None:
            self._look = self._loop.call_later(self._silence_s, self._give_up)
        try:
            await self._socket.send_bytes(b"".join((b"\x92", self._pack(number), request.array)))
            await array.ended
        except OSError as error:  # a ConnectionError of the socket's
            raise CallFailed(f"{self._participant}: {error or type(error).__name__}") from error
        finally:
            del self._under_way[number]

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        """Take answers until the connection ends; then all that is not answered is unknown."""
        why = ""
        try:
            async for message in self._socket:
                self._take(message.type, message.data)
        except CallFailed as error:
            why = str(error)
        except (aiohttp.ClientError, OSError) as error:
            why = str(error) or type(error).__name__
        finally:
            why = why or f"the connection was lost (close code {self._socket.close_code})"
            for array in self._under_way.values():
                array.fail(CallFailed(f"{self._participant}: {why}"))
            if self._look is not None:
                self._look.cancel()
            await self._leave()

    async def _leave(self) -> None:
        """Say goodbye, and end the connection also when nobody reads: who waits for room to write waits on it."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._socket.close()
        finally:
            with suppress(OSError):  # it has ended
                self._tcp.shutdown(tcp.SHUT_RDWR)
            self._tcp.close()

    def _take(self, kind: aiohttp.WSMsgType, data: Any) -> None:
        """One message. Raises CallFailed if it is none of the contract."""
        if kind is aiohttp.WSMsgType.ERROR:
            raise CallFailed(f"{data or type(data).__name__}")
        if kind is not aiohttp.WSMsgType.BINARY:
            raise CallFailed("a message that is not binary")
        try:
            value = msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException) as error:
            raise CallFailed(f"a message that is not msgpack: {error or type(error).__name__}") from error
        if not isinstance(value, list) or len(value) != 2 or type(value[0]) is not int:
            raise CallFailed("a message that is no [number, answers]")
        array = self._under_way.get(value[0])
        if array is None:  # given up meanwhile
            return
        try:
            self._hear(array, value[1])
        except CallFailed as error:
            array.fail(error)

    def _hear(self, array: _Array, answers: object) -> None:
        """What was said of one array. Raises CallFailed if it is no answer to it."""
        request = array.request
        array.heard_at = self._loop.time()
        request.begin()
        if isinstance(answers, str):
            raise CallFailed(f"{self._participant} refused an array: {answers:.200}", heard=True)
        if not isinstance(answers, list):
            raise CallFailed(f"{self._participant} answered what is no list of [index, answer]")
        for pair in answers:
            if not isinstance(pair, list) or len(pair) != 2:
                raise CallFailed(f"{self._participant} answered what is no list of [index, answer]")
            request.answer(*pair)
        if request.is_answered and not array.ended.done():
            array.ended.set_result(None)

    def _give_up(self) -> None:
        """Every caller has a time limit of its own; what is left when all have gone holds a place in the lane."""
        self._look = None
        long_ago = self._loop.time() - self._silence_s
        for array in self._under_way.values():
            if array.heard_at <= long_ago and not array.request.is_awaited:
                array.fail(CallFailed(f"{self._participant} did not answer within {self._silence_s:g} s"))
        if self._under_way:
            self._look = self._loop.call_later(self._silence_s, self._give_up)
