"""What a service is written with: a name, a resource manager, actions.

    bank = Participant("bank-a", SQLite("bank.db", schema=SCHEMA))

    @bank.action("debit")
    async def debit(tx, body): ...

    bank.run(port=8081, replicas=["http://127.0.0.1:8001"])

or, inside of a service that has a web framework already, `bank.asgi()`, `bank.aiohttp()` and `bank.endpoint()`.

Owns the composition of service, recovery and HTTP, and their start and end. Must never do: know anything of a
protocol.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from aiohttp import web
from yarl import URL

from participant import logs
from participant.asgi import Application, build_application
from participant.ending import ended
from participant.endpoints import Endpoints
from participant.errors import ConfigError, NotRunning, ParticipantError
from participant.http import build_app
from participant.ids import BranchKey, is_branch_id
from participant.messages import Broker, Subscription
from participant.messages.inbox import ATTEMPTS_MAX, Handler, Inbox
from participant.messages.relay import Relay
from participant.outcomes import HttpOutcomeSource
from participant.peers import HttpPeers
from participant.process import run
from participant.proof import Seal
from participant.recovery import Recovery, RecoverySettings
from participant.resource import Action, ResourceManager
from participant.service import ParticipantService, ServiceLimits
from participant.three_phase import ThreePhase
from participant.watch import Watch
from participant.wire import ACTION_CHARS_MAX, Answer, Operation, Verb

__all__ = ["Participant", "Serving"]

SHUTDOWN_TIMEOUT_S = 5.0  # for requests under way when the service ends
HEADER_BYTES_MAX = 16_384
KEEPALIVE_S = 75.0

_LOG = structlog.get_logger(__name__)
_Registered = TypeVar("_Registered", bound=Action)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Handler = TypeVar("_Handler", bound=Handler)


@dataclass(frozen=True, slots=True)
class Serving:
    """A running participant. `url` is what a coordinator's configuration names."""

    url: str
    port: int
    service: ParticipantService


class _Health:
    """Whether the resource manager has failed, for /livez."""

    def __init__(self, failed: asyncio.Task[BaseException]) -> None:
        self._failed = failed

    def failure(self) -> str | None:
        return str(self._failed.result()) if self._failed.done() else None


class Participant:
    """One service that takes part in transactions."""

    def __init__(
        self,
        name: str,
        resource: ResourceManager,
        *,
        limits: ServiceLimits | None = None,
        recovery: RecoverySettings | None = None,
        broker: Broker | None = None,
        proof_secret: bytes | None = None,
    ) -> None:
        """`name` is what coordinators call it in their configuration. `broker` gets what actions publish
        (`participant.messages.outbox`). `proof_secret` is the coordinators', of at least 16 bytes: with it, the service
        takes part in transactions in three phases (`participant.three_phase`). Raises ConfigError.
        """
        if not is_branch_id(name):
            raise ConfigError(f"name: must be 1 to 64 of A-Z a-z 0-9 _ . : -, not {name!r}")
        self.name = name
        self._resource = resource
        self._limits = limits
        self._recovery = recovery or RecoverySettings()
        self._broker = broker
        self._peers = HttpPeers()
        self._three_phase = None if proof_secret is None else self._in_three_phases(proof_secret)
        self._inboxes: list[Inbox] = []
        self._actions: dict[str, Action] = {}
        self._views: dict[str, Action] = {}
        self._endpoints: Endpoints | None = None

    def action(self, name: str) -> Callable[[_Registered], _Registered]:
        """Register `async def action(tx, body)` as what transactions may ask for.

        It runs inside the local transaction of its branch. It may await `tx` only; what it returns must be a
        JSON value; raising `Reject` votes no. It may run more than once for one branch, and only one run
        counts: it must have no effects but those on `tx`. Raises ConfigError.
        """
        if not 0 < len(name) <= ACTION_CHARS_MAX or name in self._actions:
            raise ConfigError(f"action {name!r}: must be new, and have 1 to {ACTION_CHARS_MAX} characters")
        return self._registering(self._actions, name)

    def view(self, path: str) -> Callable[[_Registered], _Registered]:
        """Register `async def view(tx, query)` for `GET path`: it reads committed rows and returns a JSON value.

        `query` is a dict of the URL's query. Raises ConfigError.
        """
        if not path.startswith("/") or path.startswith("/v1/branches") or path in self._views:
            raise ConfigError(f"view {path!r}: must be a new path that begins with /, and not with /v1/branches")
        return self._registering(self._views, path)

    def consumer(
        self, subscription: Subscription, *, attempts_max: int = ATTEMPTS_MAX
    ) -> Callable[[_Handler], _Handler]:
        """Register `async def handler(tx, message)` for the messages of a subscription.

        The rules of actions hold. Its effect on `tx` happens once for each message, however often that comes. What
        fails `attempts_max` times, or raises `Reject`, is kept in `message_dead`. Raises ConfigError.
        """

        def register(handler: _Handler) -> _Handler:
            chance = random.Random()  # noqa: S311 - jitter
            self._inboxes.append(Inbox(self._resource, subscription, handler, chance, attempts_max=attempts_max))
            return handler

        return register

    async def commit(self, gid: str, branch: str, action: str, body: Any = None) -> Answer:
        """Do an action in a local transaction of its own, as this branch of a transaction, from within the service.

        It is the source of a message (`coordinator.client.Message`): once it is committed, the message will be sent.
        The answer is durable, and the same call again gets it again. ABORTED: refused, or too late, because the
        coordinators have given the message up. With `retry`, nothing was done yet: come again.
        Raises: NotRunning, WireError, BranchConflict (nothing was done); ResourceError: it is unknown, ask again.
        """
        operation = Operation(Verb.COMMIT, BranchKey(gid, branch), action, body, one_phase=True)
        return await self._current().service.perform(operation)

    def run(self, *, host: str = "127.0.0.1", port: int = 0, replicas: Sequence[str] = ()) -> None:
        """Serve until SIGINT or SIGTERM. `replicas`: client URLs of the coordinators, asked for outcomes.

        Logs to standard error, unless the process has set up structlog already. Raises: SystemExit, with one line
        that says why, when it cannot start or the resource manager fails; whoever supervises the process may
        start it again.
        """
        if not structlog.is_configured():
            logs.setup(sys.stderr, node=self.name)
        try:
            failure = run(self._run(host, port, replicas))
        except (ParticipantError, OSError) as error:
            raise SystemExit(f"{self.name} cannot serve: {error}") from error
        if failure is not None:
            raise SystemExit(f"{self.name} has stopped: {failure}")

    @asynccontextmanager
    async def serving(
        self, *, host: str = "127.0.0.1", port: int = 0, replicas: Sequence[str] = ()
    ) -> AsyncIterator[Serving]:
        """Serve while the block runs. Raises: ParticipantError, OSError if it cannot start."""
        async with self.running(replicas=replicas), _listening(build_app(self._current), host, port) as bound:
            yield Serving(str(URL.build(scheme="http", host=host, port=bound)), bound, self._current().service)

    @asynccontextmanager
    async def running(self, *, replicas: Sequence[str] = ()) -> AsyncIterator[None]:
        """Own the database while the block runs, and ask `replicas` for the outcome of what is in doubt.

        For the lifespan of an application in which `asgi` is mounted. Raises: ParticipantError if it cannot start.
        """
        if self._endpoints is not None:
            raise ConfigError(f"{self.name} runs already")
        async with AsyncExitStack() as stack:
            await self._resource.open()
            stack.push_async_callback(self._resource.close)
            failed = await stack.enter_async_context(_background(self._resource.failed()))
            service = ParticipantService(self.name, self._resource, self._actions, self._limits, self._three_phase)
            await stack.enter_async_context(_background(Watch(self._resource).run()))
            if replicas:
                await stack.enter_async_context(self._recovering(replicas, service.trace_of))
            await self._start_messages(stack, service)
            self._endpoints = Endpoints(service, _Health(failed), self._resource, self._views)
            stack.callback(self._ended)
            yield

    def asgi(self) -> Application:
        """An ASGI application, to be mounted: `app.mount("/commitd", bank.asgi())`.

        What is mounted hears nothing of start and end, so the lifespan of the application enters `running`. Until it
        has, every request is answered 503.
        """
        return build_application(self._current)

    def aiohttp(self, *, replicas: Sequence[str] = ()) -> web.Application:
        """An aiohttp application, to be added to another one: `app.add_subapp("/commitd", bank.aiohttp())`.

        It runs from the start of that one to its end, as `running` would.
        """

        async def run_with(_: web.Application) -> AsyncIterator[None]:
            async with self.running(replicas=replicas):
                yield

        app = build_app(self._current)
        app.cleanup_ctx.append(run_with)
        return app

    def endpoint(self, action: str | None = None) -> Callable[[_Function], _Function]:
        """Let an endpoint of FastAPI work on the branch: `async def debit(tx, body: Debit)`.

        `tx` is given by us, all else by FastAPI. Asked as ever, it works in a local transaction, which is committed
        before the response leaves. Asked by an interactive transaction (`tx.request` of the client), its work joins the
        branch of that. What is said of actions holds here, too. Named, it is an action as well, and takes one body:
        a pydantic model, nothing else. Raises ConfigError.
        """
        from participant.fastapi import action_of, endpoint_of  # optional: a service may have another framework

        def register(function: _Function) -> _Function:
            if action is not None:
                self.action(action)(action_of(function))
            return endpoint_of(function, lambda: self._current().service)

        return register

    async def _start_messages(self, stack: AsyncExitStack, service: ParticipantService) -> None:
        workers: list[Relay | Inbox] = [*self._inboxes]
        if self._broker is not None:
            relay = Relay(self._resource, self._broker, random.Random())  # noqa: S311 - jitter, and a name
            service.measured["outbox"] = relay.status
            workers.append(relay)
        for worker in workers:
            stack.push_async_callback(worker.close)
            await worker.open()
            await stack.enter_async_context(_background(worker.run()))

    def _registering(self, registry: dict[str, Action], name: str) -> Callable[[_Registered], _Registered]:
        def register(function: _Registered) -> _Registered:
            if not inspect.iscoroutinefunction(function):
                raise ConfigError(f"{name!r}: must be an `async def` with the parameters tx and body")
            registry[name] = function
            return function

        return register

    def _current(self) -> Endpoints:
        """Raises NotRunning."""
        if self._endpoints is None:
            raise NotRunning(self.name)
        return self._endpoints

    def _ended(self) -> None:
        self._endpoints = None

    @asynccontextmanager
    async def _recovering(self, replicas: Sequence[str], trace_of: Callable[[BranchKey], str]) -> AsyncIterator[None]:
        source = HttpOutcomeSource(self.name, replicas, trace_of)
        await source.start()
        await self._peers.start()
        try:
            chance = random.Random()  # noqa: S311 - jitter
            three_phase = self._three_phase
            finisher = three_phase or self._resource
            recovery = Recovery(finisher, source, self._recovery, chance, trace_of, three_phase)
            async with _background(recovery.run()):
                yield
        finally:
            await self._peers.stop()
            await source.stop()

    def _in_three_phases(self, proof_secret: bytes) -> ThreePhase:
        """Raises ConfigError."""
        try:
            return ThreePhase(self.name, self._resource, Seal(proof_secret), self._peers, self._recovery.peers_after_s)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"proof_secret: {error}") from error

    async def _run(self, host: str, port: int, replicas: Sequence[str]) -> BaseException | None:
        """Until a signal (None), or the failure of the resource manager."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with self.serving(host=host, port=port, replicas=replicas) as serving:
            _LOG.info("participant.serving", name=self.name, url=serving.url, actions=sorted(self._actions))
            async with _background(stop.wait()) as stopped, _background(self._resource.failed()) as failed:
                await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
                return failed.result() if failed.done() else None


@asynccontextmanager
async def _background(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that lives as long as the block."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        await ended((task,))


@asynccontextmanager
async def _listening(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve HTTP; the port that was bound."""
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        max_field_size=HEADER_BYTES_MAX,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
