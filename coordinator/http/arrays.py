"""Many transactions in one request: each is begun, decided and answered for itself.

The answers leave in the order of the decisions if the caller reads a stream (`application/msgpack-seq`), so that none
waits for another; else in the order of the request, when all are there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from operator import itemgetter
from typing import Any

import msgpack
from aiohttp import web

from coordinator.driver.service import Begun
from coordinator.errors import (
    RETRY_AFTER_S,
    Invalid,
    NoLeader,
    NotLeader,
    OtherShard,
    Overloaded,
    RequestError,
    Undetermined,
)
from coordinator.http.context import CONTEXT, REQUEST_ID, REQUEST_ID_HEADER, Context
from coordinator.http.media import respond
from coordinator.http.shards import placed, wrong_shard
from coordinator.http.views import outcome_view, problem_of
from coordinator.wire import (
    MSGPACK_SEQ,
    TRANSACTIONS_MAX,
    BeginQuery,
    OutcomeView,
    Problem,
    TransactionAnswer,
    TransactionRequest,
    TransactionsAnswer,
    begin_wait_ms,
    parse,
)

__all__ = ["Answers", "begin_all", "begin_one", "packed_answer"]


async def begin_all(request: web.Request, query: BeginQuery, values: list[Any]) -> web.StreamResponse:
    """Begin all of `values`, and answer each. Raises, before anything was begun: Invalid, NotLeader."""
    if not 0 < len(values) <= TRANSACTIONS_MAX:
        raise Invalid.field("body", f"holds {len(values)} transactions; 1 to {TRANSACTIONS_MAX} go into one request")
    context = request.app[CONTEXT]
    context.replica.transactions.require_leading()
    answers = Answers(len(values), request.path, request[REQUEST_ID])
    try:
        wait_ms = 0
        for position, value in enumerate(values):
            wait_ms = max(wait_ms, await begin_one(context, query, position, value, answers))
        until = asyncio.get_running_loop().time() + wait_ms / 1_000
        if MSGPACK_SEQ in request.headers.get("Accept", ""):
            return await _stream(request, answers, until)
        while answers.missing:
            await answers.some(until)
        return respond(request, TransactionsAnswer(answers.in_order()))
    finally:
        answers.leave()


async def begin_one(context: Context, query: BeginQuery, position: int, value: Any, answers: Answers) -> int:
    """Begin one of them, or answer why not; how long to wait for it, in ms."""
    try:
        message = placed(context, parse(TransactionRequest, value))
        answers.expect(position, await context.replica.transactions.start(message))
    except NotLeader:
        error = NoLeader("leadership was lost meanwhile; come again", retry_after_s=RETRY_AFTER_S)
        answers.refuse(position, error)
    except OtherShard as error:
        answers.refuse(position, wrong_shard(context, error))
    except RequestError as error:
        answers.refuse(position, error)
    else:
        return begin_wait_ms(message, query)
    return 0


async def _stream(request: web.Request, answers: Answers, until: float) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = MSGPACK_SEQ
    response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
    with suppress(ConnectionError):  # whoever asked has gone; the transactions go on
        await response.prepare(request)
        while answers.missing:
            ready = await answers.some(until)
            await response.write(b"".join(packed_answer(*answer) for answer in ready))
        await response.write_eof()
    return response


def packed_answer(position: int, status: int, body: OutcomeView | Problem) -> bytes:
    """One value of the sequence."""
    packed: bytes = msgpack.packb((position, status, body.model_dump(mode="json")))
    return packed


class Answers:
    """The answers of one request, by position, as they come."""

    def __init__(self, count: int, path: str, request_id: str) -> None:
        self.missing = count
        self._path, self._request_id = path, request_id
        self._given: list[tuple[int, int, OutcomeView | Problem]] = []
        self._taken = 0
        self._waiting: dict[int, tuple[Begun, Any]] = {}
        self._woken = asyncio.Event()

    def expect(self, position: int, begun: Begun) -> None:
        """Answer when it is decided; at once if nobody more may wait. Raises: GidReused."""
        with suppress(Undetermined):  # it may be known in a moment
            if begun.known().decision is not None:
                self._tell(position, begun)
                return
        try:
            leave = begun.when_decided(lambda: self._decided(position))
        except Overloaded:  # it would say that nothing was begun
            self._tell(position, begun)
        else:
            self._waiting[position] = (begun, leave)

    def refuse(self, position: int, error: RequestError) -> None:
        """Answer that it was not begun."""
        self._give(position, error.status, problem_of(error, self._path, self._request_id))

    async def some(self, until: float) -> list[tuple[int, int, OutcomeView | Problem]]:
        """Wait for answers; those that came since the last call: (position, status, body). After `until`, the rest."""
        if self._taken == len(self._given):
            self._woken.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._woken.wait()
            except TimeoutError:
                for position in list(self._waiting):
                    self._decided(position)
        some = self._given[self._taken :]
        self._taken = len(self._given)
        self.missing -= len(some)
        return some

    def in_order(self) -> list[TransactionAnswer]:
        """All of them."""
        return [
            TransactionAnswer(status=status, body=body) for _, status, body in sorted(self._given, key=itemgetter(0))
        ]

    def leave(self) -> None:
        """Nobody reads the answers any more."""
        for _, leave in self._waiting.values():
            leave()

    def _decided(self, position: int) -> None:
        begun, leave = self._waiting.pop(position)
        leave()
        try:
            self._tell(position, begun)
        except RequestError as error:
            self.refuse(position, error)

    def _tell(self, position: int, begun: Begun) -> None:
        view = outcome_view(begun.known())
        self._give(position, 200 if view.handle is None else 202, view)

    def _give(self, position: int, status: int, body: OutcomeView | Problem) -> None:
        self._given.append((position, status, body))
        self._woken.set()
