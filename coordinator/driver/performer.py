"""Doing what the protocol asks for: proposals through the log, calls to participants, notices to applications.

Owns: what is under way, for how long, and the proposals that wait to ride along. Must never do: decide anything. Each
effect ends as exactly one event, also when its outcome is unknown; only `cancel_all` ends effects without an event.

No effect has a task or a timer of its own: what it waits for is a future, and all of one kind share one timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import structlog

from coordinator.driver.gate import Gate, GateLimits
from coordinator.driver.notices import SILENT, Notices
from coordinator.driver.overdue import Overdue
from coordinator.driver.spans import traced_call
from coordinator.effects import CallEnded, Event, Haste, ProposalEnded, Propose
from coordinator.ledger.commands import Command, encode
from coordinator.ledger.records import Notice, TransactionRecord
from coordinator.ports import CallFailed, Notifier, Participants
from participant.traceparent import trace_fields
from participant.wire import Answer, Operation
from raftlog.port import Applied, Outcome, Refused, ReplicatedLog, Unknown

__all__ = ["SOON_S", "Performer"]

SOON_S = 0.003  # a few forced writes: under load the next transaction comes before, and takes the proposal along

Done: TypeAlias = Callable[[Event], None]

_log = structlog.get_logger(__name__)


class Performer:
    """Performs effects. `wall_ms` gives wall-clock milliseconds.

    A proposal that can wait is held back until one that cannot comes, so that they travel in one entry of the
    log: for `ride_along_s` at most, or SOON_S if it is to be there soon.
    """

    def __init__(
        self,
        log: ReplicatedLog,
        participants: Participants,
        *,
        wall_ms: Callable[[], int],
        call_timeout_s: float = 5.0,
        propose_timeout_s: float = 10.0,
        ride_along_s: float = 0.05,
        gates: GateLimits | None = None,
        notifier: Notifier = SILENT,
    ) -> None:
        self._replicated = log
        self._participants = participants
        self._wall_ms = wall_ms
        self._ride_along_s = ride_along_s
        self._proposals = Overdue(propose_timeout_s)
        self._calls = Overdue(call_timeout_s)
        self._notices = Notices(notifier, call_timeout_s)
        self._gate_limits = gates or GateLimits()
        self._gates: dict[str, Gate] = {}
        self._riders: list[tuple[Command, bytes, Done]] = []
        self._departure: asyncio.TimerHandle | None = None

    def propose(self, effect: Propose, done: Done) -> None:
        """Put the command into the log, now or with the next one that is due now; `done` hears of its end."""
        wait_s = _wait_s(effect.haste, self._ride_along_s)
        data = encode(effect.command, self._wall_ms())
        if wait_s <= 0:
            self._depart()  # first, as they came first: what has been done is noted before the decision
            self._propose(effect.command, data, done)
            return
        self._riders.append((effect.command, data, done))
        loop = asyncio.get_running_loop()
        departs_at = loop.time() + wait_s
        if self._departure is None or departs_at < self._departure.when():
            self._stop_timer()
            self._departure = loop.call_at(departs_at, self._depart)

    def admit(self, participants: Iterable[str]) -> None:
        """Let a new transaction begin at these participants. Raises: Overloaded, Unreachable."""
        for participant in participants:
            self._gate(participant).admit()

    def call(self, participant: str, operation: Operation, done: Done) -> None:
        """Ask a participant, as soon as its gate lets us; `done` hears its answer, or that there was none."""
        self._gate(participant).call(operation, done)

    def tell(self, record: TransactionRecord, notice: Notice, done: Done, is_wanted: Callable[[], bool]) -> None:
        """Tell the application of its transaction, if that is wanted when it can be sent; `done` hears whether it took
        the notice."""
        self._notices.tell(record, notice, done, is_wanted)

    def _gate(self, participant: str) -> Gate:
        gate = self._gates.get(participant)
        if gate is None:
            gate = self._gates[participant] = Gate(participant, partial(self._send, participant), self._gate_limits)
        return gate

    def _send(self, participant: str, operation: Operation, ended: Callable[[CallEnded], None]) -> None:
        if operation.trace:
            operation, ended = traced_call(participant, operation, ended)

        def done(future: asyncio.Future[Answer]) -> None:
            ended(_heard(participant, operation, future, self._calls.timeout_s))

        self._calls.watch(self._participants.call(participant, operation), done)

    def cancel_all(self) -> None:
        """Forget everything under way. The log and the participants may still act on it."""
        self._forget_all()

    async def stop(self) -> None:
        """Cancel everything, and wait until it has ended."""
        await asyncio.gather(*self._forget_all(), return_exceptions=True)

    def _forget_all(self) -> list[asyncio.Future[Any]]:
        self._riders.clear()
        self._stop_timer()
        for gate in self._gates.values():
            gate.close()
        self._gates.clear()
        return [*self._proposals.forget_all(), *self._calls.forget_all(), *self._notices.forget_all()]

    def _depart(self) -> None:
        self._stop_timer()
        riders, self._riders = self._riders, []
        for rider in riders:
            self._propose(*rider)

    def _stop_timer(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
            self._departure = None

    def _propose(self, command: Command, data: bytes, done: Done) -> None:
        """Whatever comes of it, the driver looks at the record: only that says what is true now."""

        def ended(future: asyncio.Future[Outcome]) -> None:
            match Unknown("no answer in time") if future.cancelled() else future.result():
                case Applied():
                    pass
                case Refused(reason=reason):
                    _log.info("proposal.refused", command=type(command).__name__, reason=reason.value)
                case Unknown(reason=why):
                    _log.info("proposal.unknown", command=type(command).__name__, reason=why)
            done(ProposalEnded(command))

        self._proposals.watch(self._replicated.propose(data), ended)


def _heard(participant: str, operation: Operation, future: asyncio.Future[Answer], timeout_s: float) -> CallEnded:
    key, verb = operation.key, operation.verb
    who = {"gid": key.gid, "branch": key.branch, "participant": participant, **trace_fields(operation.trace)}
    error = CallFailed(f"no answer within {timeout_s:g} s") if future.cancelled() else future.exception()
    if error is None:
        return CallEnded(key.branch, verb, future.result())
    if not isinstance(error, CallFailed):  # a mistake of our own: loud, and unknown like any other
        _log.error("call.failed", **who, exc_info=error)
        error = CallFailed(repr(error), heard=True)
    why = str(error)
    _log.info("call.unknown", **who, verb=verb.value, error=why)
    return CallEnded(key.branch, verb, None, why, error.heard)


def _wait_s(haste: Haste, ride_along_s: float) -> float:
    """How long a proposal may wait for another one."""
    match haste:
        case Haste.NOW:
            return 0.0
        case Haste.SOON:
            return min(SOON_S, ride_along_s)
        case Haste.LATER:
            return ride_along_s
