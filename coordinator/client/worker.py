"""A worker: it runs the code of workflows, in the application's own process. Any number of them, in any processes.

    async with Client(REPLICAS) as client, Worker(client, [trip, refund]):
        ...

It tells the leader of each shard what it runs, again and again, and is told what else there is to run. One that says
nothing any more is taken for dead, and what it was running is run by another, from the beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from random import Random, SystemRandom
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self, TypeVar

import structlog

from coordinator.client.asking import Asking
from coordinator.client.outcomes import Branch
from coordinator.client.shards import Shard
from coordinator.client.workflow import Tx, Workflow
from coordinator.errors import (
    Contradiction,
    NotClaimed,
    NotDeterministic,
    NotFound,
    RequestError,
    StepRefused,
    Unavailable,
)
from coordinator.ledger.workflows import StepState
from coordinator.wire import Outcome, OutcomeView, handle_of
from coordinator.wire_workflows import FAILURE_CHARS_MAX, OFFERS_MAX, ClaimAnswer, OfferView, StepAnswer
from participant.ending import ended

__all__ = ["AT_ONCE_MAX", "POLL_MS", "Worker"]

AT_ONCE_MAX = 64  # workflows of one shard, unless the worker is told otherwise
POLL_MS = 1_000  # how long a leader may wait for something to run; at most CLAIM_WAIT_MAX_MS
LETTING_GO_S = 1.0
NAME_BITS = 64

_GONE = NotClaimed | NotFound | NotDeterministic | Contradiction
_M = TypeVar("_M", StepAnswer, OutcomeView)
_log = structlog.get_logger(__name__)


class Cluster(Protocol):
    """What a worker needs of the client."""

    @property
    def wait_ms(self) -> int:
        """How long a replica may keep one attempt waiting."""

    def about(self, gid: str, timeout_s: float | None = None) -> Asking:
        """A question about `gid`."""

    def asking_at(self, shard: Shard) -> Asking:
        """A question to the leader of a shard."""

    async def shards(self) -> Iterable[Shard]:
        """All of them. Raises: Unavailable."""


class Worker:
    """Runs these workflows, at most `at_once_max` of each shard at once: in `run`, until that is cancelled, or from
    entering `async with` until it is left. What it is running then is left to other workers. `chance` is for its
    name."""

    def __init__(
        self,
        client: Cluster,
        workflows: Iterable[Workflow],
        *,
        at_once_max: int = AT_ONCE_MAX,
        chance: Random | None = None,
    ) -> None:
        self._client = client
        self._workflows: Mapping[str, Workflow] = MappingProxyType({each.name: each for each in workflows})
        self._at_once_max = at_once_max
        self.name = f"w-{(chance or SystemRandom()).getrandbits(NAME_BITS):016x}"
        self._task: asyncio.Task[None] | None = None
        if not self._workflows or at_once_max < 1:
            raise ValueError("a worker needs a workflow, and room for one at least")

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await ended((self._task,))
            if not self._task.cancelled():
                self._task.result()

    async def run(self) -> None:
        """Run what there is to run, until cancelled."""
        shards = await self._shards()
        async with asyncio.TaskGroup() as group:
            for shard in shards:
                group.create_task(self._serve(shard))

    async def _shards(self) -> Iterable[Shard]:
        while True:
            try:
                return await self._client.shards()
            except Unavailable as error:  # it has waited long before it said so
                _log.warning("worker.unavailable", worker=self.name, error=str(error))

    async def _serve(self, shard: Shard) -> None:
        """Ask one shard for work, and do it."""
        running: dict[str, asyncio.Task[None]] = {}
        lost: list[asyncio.Task[None]] = []  # what others run now, as long as it goes on here
        try:
            while True:
                running = {gid: task for gid, task in running.items() if not task.done()}
                lost = [task for task in lost if not task.done()]
                room = self._at_once_max - len(running)
                answer = await self._claim(shard, running, room)
                for gid in answer.lost:
                    if gid in running:
                        lost.append(running.pop(gid))
                        lost[-1].cancel()
                for offer in answer.offers:
                    if offer.gid not in running:
                        running[offer.gid] = asyncio.get_running_loop().create_task(self._run(offer))
                if room == 0 and running:
                    await asyncio.wait(running.values(), timeout=POLL_MS / 1_000, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended((*running.values(), *lost))
            await self._let_go(shard)

    async def _claim(self, shard: Shard, running: Iterable[str], room: int) -> ClaimAnswer:
        body = {
            "worker": self.name,
            "workflows": list(self._workflows),
            "running": list(running),
            "room": min(room, OFFERS_MAX),
        }
        query = {"wait_ms": min(POLL_MS, self._client.wait_ms)}
        while True:
            try:
                asking = self._client.asking_at(shard)
                return await asking.ask("POST", "/v1/workers", ClaimAnswer, query=query, body=body)
            except Unavailable as error:
                _log.warning("worker.unavailable", worker=self.name, error=str(error))

    async def _let_go(self, shard: Shard) -> None:
        """So that others need not wait until we are taken for dead."""
        with suppress(TimeoutError, RequestError):
            async with asyncio.timeout(LETTING_GO_S):
                await self._claim(shard, (), 0)

    async def _run(self, offer: OfferView) -> None:
        """Run the code of one workflow, and say how it ended."""
        gid = offer.gid
        tx = Tx(gid, offer.begun_at_ms, offer.steps, partial(self._ask, gid))
        how: dict[str, Any]
        try:
            how = {"result": await self._workflows[offer.workflow].code(tx, offer.input)}
        except asyncio.CancelledError:
            if not tx.over:
                raise
            return
        except Exception as error:
            if _is_cancelled():
                raise asyncio.CancelledError from error
            _log.info("workflow.failed", gid=gid, workflow=offer.workflow, exc_info=error)
            how = {"failure": _failure(error)}
        if isinstance(tx.failure, _GONE):
            _log.warning("workflow.left", gid=gid, workflow=offer.workflow, error=str(tx.failure))
        elif not tx.over:
            await self._end(gid, tx, {"failure": _failure(tx.failure)} if tx.failure is not None else how)

    async def _ask(self, gid: str, number: int, call: Branch) -> StepAnswer:
        body = {"worker": self.name, "number": number, "call": call.to_map()}
        while True:
            answer = await self._insist(gid, "steps", StepAnswer, body)
            if answer.state is not StepState.PENDING:
                return answer

    async def _end(self, gid: str, tx: Tx, how: dict[str, Any]) -> None:
        """Say it until it is decided; a result that cannot be sent or recorded is a failure, too."""
        try:
            while not await self._is_decided(gid, tx, how):
                pass
        except Exception as error:  # noqa: BLE001 (nobody else would tell the coordinators)
            if isinstance(error, _GONE) or "failure" in how:
                _log.warning("workflow.left", gid=gid, error=str(error))
                return
            await self._end(gid, tx, {"failure": _failure(error)})

    async def _is_decided(self, gid: str, tx: Tx, how: dict[str, Any]) -> bool:
        body = {"worker": self.name, "steps": tx.asked, **how}
        view = await self._insist(gid, "end", OutcomeView, body)
        return view.outcome is not Outcome.DECIDING

    async def _insist(self, gid: str, what: str, answer: type[_M], body: dict[str, Any]) -> _M:
        """Ask until somebody answers: the code waits, and nobody else knows better. Raises: RequestError."""
        path = f"{handle_of(gid).replace('transactions', 'workflows')}/{what}"
        while True:
            try:
                asking = self._client.about(gid)
                return await asking.ask("POST", path, answer, query={"wait_ms": self._client.wait_ms}, body=body)
            except Unavailable as error:
                _log.warning("worker.unavailable", worker=self.name, gid=gid, error=str(error))


def _is_cancelled() -> bool:
    """Whether somebody wants this task to end, though its code has raised something else."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure(error: BaseException) -> str:
    """Why it has failed, for the record."""
    text = str(error) if isinstance(error, StepRefused | RequestError) else f"{type(error).__name__}: {error}"
    return text[:FAILURE_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
