"""New transactions of one client on their way to the cluster: what waits at the same time travels in one request.

A request leaves at once while few are silent, that is, have not begun to be answered. While more are, new transactions
collect, and the next request takes them all, in the order of their arrival; so the size of requests follows the load by
itself. None waits for another: the answers come back one by one, as they are decided.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgpack

from coordinator.client.replicas import Replicas, Reply
from coordinator.client.session import Lost, NotReached
from coordinator.errors import TooLarge
from coordinator.wire import REQUEST_BYTES_MAX, TRANSACTIONS_MAX

__all__ = ["OPEN_MAX", "SILENT_MAX", "Lane"]

SILENT_MAX = 4  # requests that nobody has begun to answer
OPEN_MAX = 64  # requests of which some transaction is not answered yet
_ARRAY_BYTES = 8  # the header of an array, and to spare


class Lane:
    """Sends transactions through `replicas`. `timeout_s`: for one request. To be closed."""

    def __init__(self, replicas: Replicas, query: Mapping[str, Any], timeout_s: float) -> None:
        self._replicas = replicas
        self._query = query
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[bytes, asyncio.Future[Reply]]] = deque()
        self._requests: dict[asyncio.Task[None], None] = {}  # a set in the order of departure
        self._silent = 0
        self._due = False

    def send(self, transaction: Mapping[str, Any]) -> asyncio.Future[Reply]:
        """One attempt. Ends as NotReached or Lost if no replica answers. Raises TooLarge."""
        packed = msgpack.packb(transaction)
        if len(packed) > REQUEST_BYTES_MAX - _ARRAY_BYTES:
            raise TooLarge(f"the transaction is {len(packed)} bytes; at most {REQUEST_BYTES_MAX} are taken")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((packed, future))
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._depart)
        return future

    async def close(self) -> None:
        """End what waits and what is under way."""
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(NotReached("the client was closed"))
                future.exception()  # its caller may have gone
        self._waiting.clear()
        requests = list(self._requests)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    def _depart(self) -> None:
        self._due = False
        while self._waiting and self._silent < SILENT_MAX and len(self._requests) < OPEN_MAX:
            if batch := self._take():
                self._silent += 1
                request = asyncio.get_running_loop().create_task(self._request(batch))
                self._requests[request] = None
                request.add_done_callback(self._returned)

    def _returned(self, request: asyncio.Task[None]) -> None:
        del self._requests[request]
        self._depart()

    def _take(self) -> list[tuple[bytes, asyncio.Future[Reply]]]:
        batch: list[tuple[bytes, asyncio.Future[Reply]]] = []
        room_bytes = REQUEST_BYTES_MAX - _ARRAY_BYTES
        while self._waiting and len(batch) < TRANSACTIONS_MAX:
            packed, future = self._waiting[0]
            room_bytes -= len(packed)
            if room_bytes < 0:
                break
            self._waiting.popleft()
            if not future.done():  # else its caller has gone
                batch.append((packed, future))
        return batch

    async def _request(self, batch: list[tuple[bytes, asyncio.Future[Reply]]]) -> None:
        error: Exception | None = None
        silent = True

        def answered(position: int, reply: Reply) -> None:
            nonlocal silent
            if silent:
                silent = False
                self._silent -= 1
                self._depart()
            future = batch[position][1]
            if not future.done():
                future.set_result(reply)

        try:
            await self._replicas.attempt_all(
                [packed for packed, _ in batch], answered, query=self._query, timeout_s=self._timeout_s
            )
        except (NotReached, Lost) as failure:
            error = failure
        finally:
            if silent:
                self._silent -= 1
            for _, future in batch:
                if not future.done():
                    future.set_exception(error or Lost("the request ended without an answer"))
                    future.exception()  # its caller may have gone
