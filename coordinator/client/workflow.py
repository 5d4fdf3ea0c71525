"""Workflows: a transaction of steps that is written as code, an ordinary `async def`.

    @workflow
    async def trip(tx, wish):
        seat = await tx.step("airline", "book", {"passenger": wish["who"]}, undo="cancel", takes={"seat": OWN})
        try:
            await tx.step("hotel", "reserve", {"night": wish["night"]}, undo="release")
        except StepRefused:
            await tx.step("hostel", "reserve", {"night": wish["night"]}, undo="release")
        await tx.message("mail", "send", {"passenger": wish["who"], "seat": seat})
        return seat

    run = await client.start(trip, {"who": "alice", "night": "2027-05-01"})
    seat = await run.result()

Its steps are recorded, with their answers. A `Worker` runs the code; if it dies, another one runs it from the
beginning, and each step that is recorded is answered from the record. So the code must do the same again if it is told
the same: time, chance and what is read elsewhere come from `tx`, or from a step. The return commits, an exception
undoes all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol, TypeAlias, overload

from coordinator.client.asking import Asking
from coordinator.client.declaration import OWN, Retry
from coordinator.client.outcomes import Aborted, Branch, Ended
from coordinator.errors import StepRefused, TransactionAborted
from coordinator.ledger.records import Mode
from coordinator.ledger.workflows import StepState
from coordinator.wire import TransactionView, parse_name
from coordinator.wire_workflows import RunView, StepAnswer

__all__ = ["Ask", "Code", "Run", "Tx", "Workflow", "worker_of", "workflow"]

_NO_RESULTS: Mapping[str, str] = {}


class Tx:
    """What the code of a workflow is given: its transaction.

    Each step raises `StepRefused` if its participant refuses it for good: it is not done then, and the code may try
    something else. Steps that are to go on beside each other are awaited by `asyncio.gather`, each of them a single
    step. No step is left without being awaited, or given a time limit of its own.
    """

    def __init__(
        self,
        gid: str,
        begun_at_ms: int,
        recorded: int,
        ask: Ask,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.gid = gid
        self.asked = 0  # steps
        self.over = False  # nobody needs this run any more
        self.failure: Exception | None = None  # why a step could not be asked for: the run cannot go on
        self._at_ms = float(begun_at_ms)
        self._recorded = recorded
        self._ask = ask
        self._sleep = sleep
        self._random = Random(gid)  # noqa: S311 - it is to be the same in every run, and no secret

    async def step(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        undo: str,
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
    ) -> Any:
        """Let a participant do something at once, and name the action that takes it back. That gets the same body, with
        the step's own result as the field that `takes={"field": OWN}` names. Returns: the action's result."""
        return await self._call(Mode.SAGA, participant, action, body, takes=takes, retry=retry, undo=undo)

    async def reserve(
        self,
        participant: str,
        body: Any = None,
        *,
        attempt: str,
        confirm: str,
        cancel: str,
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
    ) -> Any:
        """Try by the action `attempt`. In the end it is confirmed, or cancelled; both get the same body, and the result
        as `takes` says. Returns: the result of the attempt."""
        return await self._call(
            Mode.TCC, participant, attempt, body, takes=takes, retry=retry, confirm=confirm, undo=cancel
        )

    async def prepare(self, participant: str, action: str, body: Any = None) -> None:
        """A branch of two-phase commit: prepared now, and locked until the code has returned."""
        await self._call(Mode.TWO_PHASE, participant, action, body)

    async def pivot(self, participant: str, action: str, body: Any = None, *, retry: Retry | None = None) -> Any:
        """The one step that cannot be undone. It is the last: once it has succeeded, the transaction commits, whatever
        the code does. Returns: the action's result."""
        return await self._call(Mode.PIVOT, participant, action, body, retry=retry)

    async def message(
        self, participant: str, action: str, body: Any = None, *, retry: Retry | None = None, not_before_ms: int = 0
    ) -> None:
        """Something that is done once the transaction has committed, and begun anew until it succeeds; `not_before_ms`
        later than that, at the earliest."""
        delay: dict[str, Any] = {"not_before_ms": not_before_ms} if not_before_ms else {}
        await self._call(Mode.FORWARD, participant, action, body, retry=retry, **delay)

    def now(self) -> datetime:
        """When the last step was recorded, or the workflow begun; later by what was slept since. In UTC, and the same
        in every run."""
        return datetime.fromtimestamp(self._at_ms / 1_000, UTC)

    def random(self) -> float:
        """A number, 0 <= number < 1; the same numbers in every run. They follow from the gid, and are no secret."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or longer: another worker that takes over in between begins to count anew."""
        if self.asked >= self._recorded:  # else it is over: a later step is recorded
            await self._sleep(seconds)
        self._at_ms += seconds * 1_000

    async def _call(
        self,
        mode: Mode,
        participant: str,
        action: str,
        body: Any,
        *,
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
        **rest: Any,
    ) -> Any:
        if self.failure is not None:
            raise self.failure
        self.asked += 1
        own = f"s{self.asked}"
        step: dict[str, Any] = {"mode": mode.value, **rest}
        if takes:
            step["takes"] = {field: own if source == OWN else source for field, source in takes.items()}
        if retry is not None:
            step["retry"] = retry.to_map()
        try:
            answer = await self._ask(self.asked, Branch(participant, action, body, step=step))
        except Exception as error:
            self.failure = error
            raise
        self._at_ms = max(self._at_ms, answer.at_ms)
        match answer.state:
            case StepState.DONE:
                return answer.result
            case StepState.REFUSED:
                raise StepRefused(participant, action, answer.reason)
        self.over = True
        raise asyncio.CancelledError(f"{self.gid} is decided")


Ask: TypeAlias = Callable[[int, Branch], Awaitable[StepAnswer]]
"""Has a step recorded and done: its number and what it is. No answer is *pending*; what it raises ends the run."""

Code: TypeAlias = Callable[[Tx, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Workflow:
    """Code that a worker can run, under its name in the record. Who changes the code while some of its transactions are
    open, gives it another name, and lets workers know both."""

    name: str
    code: Code

    def __post_init__(self) -> None:
        parse_name(self.name, "workflow")


@overload
def workflow(code: Code) -> Workflow: ...


@overload
def workflow(*, name: str) -> Callable[[Code], Workflow]: ...


def workflow(code: Code | None = None, *, name: str | None = None) -> Workflow | Callable[[Code], Workflow]:
    """Make a workflow of an `async def code(tx, input)`, called as the function is, or `name`. Raises: Invalid, if that
    cannot be a name."""

    def made(code: Code) -> Workflow:
        return Workflow(name or code.__name__, code)

    return made if code is None else made(code)


async def worker_of(client: Cluster, gid: str) -> str | None:
    """Which worker runs the workflow `gid`, if one does. Raises: NotFound, Contradiction, Unavailable."""
    path = f"/v1/workflows/{parse_name(gid, 'gid')}"
    return (await client.about(gid).ask("GET", path, RunView)).worker


class Cluster(Protocol):
    """What is needed of the client to ask about a workflow."""

    def about(self, gid: str, timeout_s: float | None = None) -> Asking:
        """A question about `gid`."""


class Asker(Protocol):
    """What a run needs of the client."""

    async def wait(self, gid: str, *, timeout_s: float | None = None) -> Ended:
        """Wait for the decision."""

    async def record(self, gid: str) -> TransactionView:
        """The record."""


@dataclass(frozen=True, slots=True)
class Run:
    """A workflow that was begun."""

    gid: str
    client: Asker

    async def result(self, *, timeout_s: float | None = None) -> Any:
        """Wait until it is decided. Returns: what its code has returned.

        Raises: TransactionAborted; OutcomeUnknown, if time is up; NotFound, once the record is forgotten.
        """
        ended = await self.client.wait(self.gid, timeout_s=timeout_s)
        if isinstance(ended, Aborted):
            raise TransactionAborted(ended.gid, ended.reason, ended.branch)
        view = await self.client.record(self.gid)
        return None if view.workflow is None else view.workflow.result
