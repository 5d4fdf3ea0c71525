"""The lane to one participant: operations that are ready at the same time travel in one request.

Owns: what waits, what is under way, and when the next request leaves. Must never do: retry (the protocol decides what
comes next), or speak HTTP (`http.py` does).

When. At most one request is *silent*: it has left, and its answer has not begun. While there is none, what waits
leaves at once; otherwise it is collected until the answer begins, or ends, or PATIENCE_S have passed. So the size
of a request adapts to the load by itself, and no timer delays anybody who is alone. A request stays open behind
that for its stragglers, operations that wait for a row at the participant; others overtake it in requests of their own.

Which. Operations that end a branch wait for nobody at the participant, and those that take on work may wait for exactly
these. So they line up apart, take turns in every request, and have a share of the requests to themselves: without
that share, prepares that wait for rows could occupy every request, and keep out the commits that free the rows.

Fair. Within a line the order is that of arrival. A transaction asks one thing at a time of each of its branches, of
which there are at most 64, and whatever it asks next lines up at the end. So no transaction can keep another one
from its turn, nor fill a request by itself at a participant that takes OPERATIONS_PER_REQUEST_MAX.

A repeat may travel beside what it repeats, or overtake it: answers go by index, and every operation may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import msgpack
import structlog

from coordinator.ports import CallFailed
from participant.errors import WireError
from participant.wire import Answer, Capabilities, Operation

__all__ = [
    "OPERATIONS_PER_REQUEST_MAX",
    "OPERATIONS_QUEUED_MAX",
    "PATIENCE_S",
    "REQUEST_BYTES_MAX",
    "Lane",
    "Request",
]

OPERATIONS_PER_REQUEST_MAX = 128
OPERATIONS_QUEUED_MAX = 8_192  # in each of the two lines
REQUEST_BYTES_MAX = 1 << 20
PATIENCE_S = 0.02  # then an unanswered request holds nobody back: what is in it may be waiting for what is not
KEPT_SHARE = 4  # one request in so many is kept for operations that end a branch

_log = structlog.get_logger(__name__)

_HEAD_BYTES_MAX = 32  # what stands around the operations


@dataclass(slots=True, eq=False)
class _Ask:
    """One operation, its wire form as an element of an array, and who waits for its answer."""

    operation: Operation
    packed: bytes
    future: asyncio.Future[Answer]


class Request:
    """What one request carries, and who waits for its answers. `is_array`: whether it goes to the path of arrays,
    which an operation does not when that may be unknown to the participant, or when it fits no array."""

    __slots__ = ("_begun", "_count", "_participant", "_unanswered", "is_array")

    def __init__(self, participant: str, asks: list[_Ask], is_array: bool, begun: Callable[[Request], None]) -> None:
        self.is_array = is_array
        self._participant = participant
        self._count = len(asks)
        self._unanswered = dict(enumerate(asks))
        self._begun = begun

    @property
    def operations(self) -> list[Operation]:
        """What is asked and not answered yet."""
        return [ask.operation for ask in self._unanswered.values()]

    @property
    def array(self) -> bytes:
        """The msgpack of an array of all operations; to be read before the first answer."""
        asks = [ask.packed for ask in self._unanswered.values()]
        return b"".join((msgpack.Packer().pack_array_header(len(asks)), *asks))

    @property
    def is_answered(self) -> bool:
        """Whether nothing is missing."""
        return not self._unanswered

    @property
    def is_awaited(self) -> bool:
        """Whether somebody still waits for something that is missing."""
        return any(not ask.future.done() for ask in self._unanswered.values())

    def begin(self) -> None:
        """The participant has begun to answer."""
        self._begun(self)

    def answer_all(self, forms: object) -> None:
        """Take every answer, in the order of the operations. Raises CallFailed if they are not as many."""
        if not isinstance(forms, list) or len(forms) != self._count:
            raise CallFailed(f"{self._participant} did not answer with a list of {self._count} answers")
        for index, form in enumerate(forms):
            self.answer(index, form)

    def answer(self, index: object, form: object) -> None:
        """Take the answer to one operation; one that cannot be read is unknown, and nobody else's concern.

        Raises CallFailed if there is no such operation, or if it was answered before.
        """
        if type(index) is not int or (ask := self._unanswered.pop(index, None)) is None:
            raise CallFailed(f"{self._participant} answered an operation that was not asked, or twice")
        if ask.future.done():  # cancelled: nobody waits any more
            return
        try:
            ask.future.set_result(Answer.from_map(form, self._participant))
        except WireError as error:
            ask.future.set_exception(CallFailed(str(error), heard=True))

    def fail(self, error: CallFailed) -> None:
        """What is not answered is unknown."""
        for ask in self._unanswered.values():
            if not ask.future.done():
                ask.future.set_exception(CallFailed(str(error), heard=error.heard))


Send: TypeAlias = Callable[[Request], Coroutine[Any, Any, None]]
"""Carries one request: tells it when the answer begins, gives it every answer, and returns when there are no more.
May raise CallFailed."""


class Lane:
    """The operations of one participant. `capabilities` gives its document, None if it is not known; without it, or
    when it says so, each operation travels alone. `requests_max`: how many requests may be open at once."""

    def __init__(
        self, participant: str, send: Send, capabilities: Callable[[], Capabilities | None], requests_max: int
    ) -> None:
        self._participant = participant
        self._send = send
        self._capabilities = capabilities
        self._requests_max = requests_max
        self._loop = asyncio.get_running_loop()
        self._pack = msgpack.Packer().pack
        self._ending: deque[_Ask] = deque()
        self._working: deque[_Ask] = deque()
        self._open: dict[Request, asyncio.Task[None]] = {}
        self._silent: Request | None = None
        self._silent_until = 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._departure: asyncio.Handle | None = None

    def put(self, operation: Operation) -> asyncio.Future[Answer]:
        """Ask it. What is put in one turn of the event loop leaves together."""
        future = self._loop.create_future()
        line = self._working if operation.may_wait else self._ending
        if len(line) >= OPERATIONS_QUEUED_MAX:
            _drop_given_up(line)
        if len(line) >= OPERATIONS_QUEUED_MAX:
            why = f"{self._participant} is behind: {OPERATIONS_QUEUED_MAX:,} operations wait for it already"
            future.set_exception(CallFailed(why, heard=True))
            return future
        try:
            line.append(_Ask(operation, self._pack(self._form_of(operation)), future))
        except (ValueError, TypeError, OverflowError) as error:  # in its body: no value of the contract
            future.set_exception(CallFailed(f"it cannot be sent: {error}", heard=True))
            return future
        if self._departure is None:
            self._departure = self._loop.call_soon(self._advance)
        return future

    async def stop(self) -> None:
        """Everything that waits or is under way ends as CallFailed."""
        for ask in (*self._ending, *self._working):
            if not ask.future.done():
                ask.future.set_exception(CallFailed(f"{self._participant} was not asked: we are closing"))
        self._ending.clear()
        self._working.clear()
        self._break_silence()
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _advance(self) -> None:
        """Let requests leave, while something waits and may."""
        self._departure = None
        while (self._ending or self._working) and len(self._open) < self._requests_max:
            if self._silent is not None:
                if self._patience is None:
                    self._patience = self._loop.call_at(self._silent_until, self._lose_patience)
                return
            request = self._collect()
            if request is None:
                return
            if request.is_array:
                self._silent, self._silent_until = request, self._loop.time() + PATIENCE_S
            task = self._loop.create_task(self._send(request))
            self._open[request] = task
            task.add_done_callback(partial(self._over, request))

    def _form_of(self, operation: Operation) -> dict[str, Any]:
        """Its form in an array; one that does not know a field refuses the operation."""
        if operation.trace:
            document = self._capabilities()
            if document is None or not document.trace:
                operation = operation._replace(trace="")
        return operation.to_map()

    def _collect(self) -> Request | None:
        """The next request, of everything that waits and fits; None if nothing may leave."""
        document = self._capabilities()
        operations_max, bytes_left = 1, 0
        if document is not None and document.arrays:
            operations_max = min(OPERATIONS_PER_REQUEST_MAX, document.operations_max)
            bytes_left = min(REQUEST_BYTES_MAX, document.array_bytes_max) - _HEAD_BYTES_MAX
        kept = self._requests_max // KEPT_SHARE
        lines = deque((self._ending, self._working) if len(self._open) + kept < self._requests_max else (self._ending,))
        asks: list[_Ask] = []
        is_array = False
        while lines and (not asks or (is_array and len(asks) < operations_max)):
            line = lines.popleft()
            _drop_given_up(line)
            if not line:
                continue
            fits = len(line[0].packed) <= bytes_left
            if asks and not fits:
                break
            is_array = fits  # what fits no array travels alone, however large it is
            asks.append(line.popleft())
            bytes_left -= len(asks[-1].packed)
            lines.append(line)
        return Request(self._participant, asks, is_array, self._begun) if asks else None

    def _begun(self, request: Request) -> None:
        if request is self._silent:
            self._break_silence()
            self._advance()

    def _lose_patience(self) -> None:
        self._break_silence()
        self._advance()

    def _break_silence(self) -> None:
        self._silent = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _over(self, request: Request, task: asyncio.Task[None]) -> None:
        del self._open[request]
        if task.cancelled():
            request.fail(CallFailed(f"{self._participant} did not answer before we closed"))
        elif (error := task.exception()) is None:
            request.fail(CallFailed(f"{self._participant} left an operation unanswered"))
        elif isinstance(error, CallFailed):
            request.fail(error)
        else:  # a mistake of our own: loud, and unknown like any other
            _log.error("request.failed", participant=self._participant, exc_info=error)
            request.fail(CallFailed(repr(error), heard=True))
        if request is self._silent:
            self._break_silence()
        self._advance()


def _drop_given_up(line: deque[_Ask]) -> None:
    """Forget the oldest ones that nobody waits for; as all wait equally long, these are the first to be given up."""
    while line and line[0].future.done():
        line.popleft()
