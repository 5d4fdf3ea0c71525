"""Calls over a network that keeps no promise: lost, late, doubled, answered to nobody.

It stands for HTTP between coordinators, participants and clients: a request and an answer, each of which may be
lost or come late, and a request that may run twice (a client library or a proxy that repeats it). The caller
always faces `CallTimeout` as "unknown". Only a machine that has power and no listener answers `CallRefused`.

An answer is one message, or a sequence of pieces (`serve_pieces`, `pieces`): they reach the caller in order, and none
behind one that was lost, as on a connection that breaks.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from coordinator.simulation.links import Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.process import PROCESS, Process, State

__all__ = ["CallRefused", "CallTimeout", "Flaws", "Rpc"]

Tell = Callable[[bytes], None]
Handler = Callable[[str, bytes], Awaitable[bytes]]
PiecesHandler = Callable[[bytes, Tell], Awaitable[None]]
_Serve = Callable[["_Call"], Coroutine[Any, Any, None]]

_WORLD = contextvars.Context()


class CallTimeout(Exception):
    """No answer came in time: whether the call was carried out is unknown."""


class CallRefused(Exception):
    """Nobody listens there: the call was not carried out."""


@dataclass(frozen=True, slots=True)
class Flaws:
    """Probabilities for one message: lost, sent twice, or `late_mean_s` behind its time."""

    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    late_mean_s: float = 1.0


class Rpc:
    """All calls of one world. `flaws` may be changed at any time."""

    def __init__(self, loop: SimLoop, links: Links, flaws: Flaws | None = None) -> None:
        self.loop = loop
        self.links = links
        self.flaws = flaws or Flaws()
        self._rng = Random(f"{loop.seed}/rpc")
        self._handlers: dict[tuple[str, str], tuple[Process, _Serve]] = {}

    def serve(self, service: str, handler: Handler) -> None:
        """Answer calls to `service` on the calling process's machine until the process dies."""
        self._serve(service, lambda call: call.serve(handler))

    def serve_pieces(self, service: str, handler: PiecesHandler) -> None:
        """As `serve`; `handler(request, tell)` tells its answer piece by piece, and ends it by returning."""
        self._serve(service, lambda call: call.serve_pieces(handler))

    def _serve(self, service: str, serve: _Serve) -> None:
        process = PROCESS.get()
        if process is None:
            raise RuntimeError("only a simulated process can serve")
        key = (process.name, service)
        self._handlers[key] = (process, serve)
        process.when_dead(lambda: self._withdraw(key, process))

    async def call(self, target: str, service: str, request: bytes, timeout_s: float) -> bytes:
        """Call `service` on machine `target`. Raises CallTimeout, CallRefused."""
        answer = await self._ask(target, service, request).take(target, self.loop.time() + timeout_s)
        if answer is None:
            raise RuntimeError(f"{service} answered nothing")
        return answer

    async def pieces(self, target: str, service: str, request: bytes, timeout_s: float) -> AsyncGenerator[bytes]:
        """The answer piece by piece, all of it within `timeout_s`. Raises CallTimeout, CallRefused."""
        until = self.loop.time() + timeout_s
        inbox = self._ask(target, service, request)
        while (piece := await inbox.take(target, until)) is not None:
            yield piece

    def _ask(self, target: str, service: str, request: bytes) -> _Inbox:
        caller = PROCESS.get()
        source = caller.name if caller is not None else "world"
        inbox = _Inbox()
        self.send(source, target, _Call(self, caller, (source, target), service, request, inbox).arrive)
        return inbox

    def send(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        """One message. Whether the way is open counts when it arrives, and when it leaves."""
        if not self.links.open(source, target) or self._rng.random() < self.flaws.loss:
            return
        copies = 2 if self._rng.random() < self.flaws.duplicate else 1
        for _ in range(copies):
            delay = self.links.delay()
            if self._rng.random() < self.flaws.late:
                delay += self._rng.expovariate(1.0) * self.flaws.late_mean_s
            self.loop.call_later(delay, self._arrive, source, target, deliver, context=_WORLD.copy())

    def handler(self, target: str, service: str) -> tuple[Process, _Serve] | None:
        return self._handlers.get((target, service))

    def _arrive(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        if self.links.open(source, target):
            deliver()

    def _withdraw(self, key: tuple[str, str], process: Process) -> None:
        if self._handlers.get(key, (None,))[0] is process:
            del self._handlers[key]


class _Inbox:
    """What has come of one answer: pieces in their order, None at the end. A request that ran twice is answered twice;
    what is taken is the answer of which something came first."""

    def __init__(self) -> None:
        self._taken = 0
        self._come: dict[int, bytes | None] = {}
        self._of: object = None
        self._error: Exception | None = None
        self._woken = asyncio.Event()

    def put(self, answer: object, number: int, piece: bytes | None) -> None:
        if self._of in (None, answer) and self._error is None:
            self._of = answer
            self._come[number] = piece
            self._woken.set()

    def fail(self, error: Exception) -> None:
        if self._of is None:
            self._error = error
            self._woken.set()

    async def take(self, whose: str, until: float) -> bytes | None:
        """The next piece. Raises CallTimeout, CallRefused."""
        while self._taken not in self._come:
            if self._error is not None:
                raise self._error
            self._woken.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._woken.wait()
            except TimeoutError:
                raise CallTimeout(f"{whose} did not answer in time") from None
        piece = self._come.pop(self._taken)
        self._taken += 1
        return piece


class _Call:
    def __init__(
        self, rpc: Rpc, caller: Process | None, way: tuple[str, str], service: str, request: bytes, inbox: _Inbox
    ) -> None:
        self._rpc = rpc
        self._caller = caller
        self._source, self._target = way
        self._service = service
        self._request = request
        self._inbox = inbox

    def arrive(self) -> None:
        """The request reached the machine: run the handler in its process, once for each copy."""
        found = self._rpc.handler(self._target, self._service)
        if found is None:
            error = CallRefused(f"{self._target} does not serve {self._service}")
            self._rpc.send(self._target, self._source, lambda: self._in_caller(self._inbox.fail, error))
        else:
            process, serve = found
            process.spawn(serve(self))

    async def serve(self, handler: Handler) -> None:
        """Run the handler; its answer is one piece."""

        async def whole(request: bytes, tell: Tell) -> None:
            tell(await handler(self._source, request))

        await self._run(whole)

    async def serve_pieces(self, handler: PiecesHandler) -> None:
        """Run the handler, and send what it tells, and that it was all."""
        tell = await self._run(handler)
        tell(None)

    async def _run(self, handler: PiecesHandler) -> Callable[[bytes | None], None]:
        answer, count = object(), 0

        def tell(piece: bytes | None) -> None:
            nonlocal count
            number, count = count, count + 1
            self._rpc.send(self._target, self._source, lambda: self._in_caller(self._inbox.put, answer, number, piece))

        try:
            await handler(self._request, tell)
        except Exception as error:  # noqa: BLE001  # a handler answers or stays silent; raising is a defect
            context = {"message": f"the handler of {self._service} raised", "exception": error}
            self._rpc.loop.call_exception_handler(context)
            return lambda _piece: None
        return tell

    def _in_caller(self, callback: Callable[..., None], *values: object) -> None:
        if self._caller is None:
            callback(*values)
        elif self._caller.state is not State.DEAD:
            self._rpc.loop.call_soon(callback, *values, context=self._caller.context.copy())
