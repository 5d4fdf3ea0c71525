"""Calls over a network that keeps no promise: lost, late, doubled, answered to nobody.

It stands for HTTP between coordinators, participants and clients: a request and an answer, each of which may be
lost or come late, and a request that may run twice (a client library or a proxy that repeats it). The caller
always faces `CallTimeout` as "unknown". Only a machine that has power and no listener answers `CallRefused`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.simulation.links import Links
from tests.simulation.loop import SimLoop
from tests.simulation.process import PROCESS, Process, State

__all__ = ["CallRefused", "CallTimeout", "Flaws", "Rpc"]

Handler = Callable[[str, bytes], Awaitable[bytes]]

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
        self._handlers: dict[tuple[str, str], tuple[Process, Handler]] = {}

    def serve(self, service: str, handler: Handler) -> None:
        """Answer calls to `service` on the calling process's machine until the process dies."""
        process = PROCESS.get()
        if process is None:
            raise RuntimeError("only a simulated process can serve")
        key = (process.name, service)
        self._handlers[key] = (process, handler)
        process.when_dead(lambda: self._withdraw(key, process))

    async def call(self, target: str, service: str, request: bytes, timeout_s: float) -> bytes:
        """Call `service` on machine `target`. Raises CallTimeout, CallRefused."""
        caller = PROCESS.get()
        source = caller.name if caller is not None else "world"
        answer: asyncio.Future[bytes] = self.loop.create_future()
        call = _Call(self, caller, (source, target), service, request, answer)
        self.send(source, target, call.arrive)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise CallTimeout(f"no answer from {target} within {timeout_s} s") from None

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

    def handler(self, target: str, service: str) -> tuple[Process, Handler] | None:
        return self._handlers.get((target, service))

    def _arrive(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        if self.links.open(source, target):
            deliver()

    def _withdraw(self, key: tuple[str, str], process: Process) -> None:
        if self._handlers.get(key, (None,))[0] is process:
            del self._handlers[key]


class _Call:
    def __init__(
        self,
        rpc: Rpc,
        caller: Process | None,
        way: tuple[str, str],
        service: str,
        request: bytes,
        answer: asyncio.Future[bytes],
    ) -> None:
        self._rpc = rpc
        self._caller = caller
        self._source, self._target = way
        self._service = service
        self._request = request
        self._answer = answer

    def arrive(self) -> None:
        """The request reached the machine: run the handler in its process, once for each copy."""
        found = self._rpc.handler(self._target, self._service)
        if found is None:
            error = CallRefused(f"{self._target} does not serve {self._service}")
            self._rpc.send(self._target, self._source, lambda: self._in_caller(self._fail, error))
        else:
            process, handler = found
            process.spawn(self._serve(handler))

    async def _serve(self, handler: Handler) -> None:
        try:
            result = await handler(self._source, self._request)
        except Exception as error:  # noqa: BLE001  # a handler answers or stays silent; raising is a defect
            context = {"message": f"the handler of {self._service} raised", "exception": error}
            self._rpc.loop.call_exception_handler(context)
            return
        self._rpc.send(self._target, self._source, lambda: self._in_caller(self._succeed, result))

    def _in_caller(self, callback: Callable[..., None], value: object) -> None:
        if self._caller is None:
            callback(value)
        elif self._caller.state is not State.DEAD:
            self._rpc.loop.call_soon(callback, value, context=self._caller.context.copy())

    def _succeed(self, result: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
