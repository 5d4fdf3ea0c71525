"""Doing what the protocol asks for: proposals through the log, calls through the participants port.

Owns: the tasks under way, and the proposals that wait to ride along. Must never do: decide anything. Each effect
ends as exactly one event, also when its outcome is unknown; only `cancel_all` ends effects without an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import structlog

from coordinator.effects import CallEnded, Event, ProposalEnded, Propose
from coordinator.ledger.commands import Command, encode, stamped
from coordinator.ports import CallFailed, Participants
from participant.wire import Operation
from raftlog.port import Applied, Refused, ReplicatedLog, Unknown

__all__ = ["Performer"]

Done: TypeAlias = Callable[[Event], None]

_log = structlog.get_logger(__name__)


class Performer:
    """Performs effects in tasks of its own. `wall_ms` gives wall-clock milliseconds.

    A proposal that nobody waits for is held back until the next urgent one, so that both travel in one entry of
    the log, or for `ride_along_s` at most.
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
    ) -> None:
        self._replicated = log
        self._participants = participants
        self._wall_ms = wall_ms
        self._call_timeout_s = call_timeout_s
        self._propose_timeout_s = propose_timeout_s
        self._ride_along_s = ride_along_s
        self._tasks: dict[asyncio.Task[None], None] = {}  # a set in the order of arrival
        self._riders: list[tuple[Command, Done]] = []
        self._departure: asyncio.TimerHandle | None = None

    def propose(self, effect: Propose, done: Done) -> None:
        """Put the command into the log, now or with the next urgent one; `done` hears of its end."""
        if effect.urgent or self._ride_along_s <= 0:
            self._spawn(self._propose(effect.command, done))
            self._depart()
            return
        self._riders.append((effect.command, done))
        if self._departure is None:
            loop = asyncio.get_running_loop()
            self._departure = loop.call_later(self._ride_along_s, self._depart)

    def call(self, participant: str, operation: Operation, done: Done) -> None:
        """Ask a participant; `done` hears its answer, or that there was none."""
        self._spawn(self._call(participant, operation, done))

    def cancel_all(self) -> None:
        """Forget everything under way. The log and the participants may still act on it."""
        self._riders.clear()
        self._stop_timer()
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Cancel everything, and wait until it has ended."""
        self.cancel_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _depart(self) -> None:
        self._stop_timer()
        riders, self._riders = self._riders, []
        for command, done in riders:
            self._spawn(self._propose(command, done))

    def _stop_timer(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
            self._departure = None

    async def _propose(self, command: Command, done: Done) -> None:
        """Whatever comes of it, the driver looks at the record: only that says what is true now."""
        try:
            async with asyncio.timeout(self._propose_timeout_s):
                outcome = await self._replicated.propose(encode(stamped(command, self._wall_ms())))
        except TimeoutError:
            outcome = Unknown(f"no answer within {self._propose_timeout_s} s")
        except Exception as error:  # noqa: BLE001 (a mistake of our own: loud, and unknown like any other)
            _log.exception("proposal.failed", command=type(command).__name__)
            outcome = Unknown(repr(error))
        match outcome:
            case Applied():
                pass
            case Refused(reason=reason):
                _log.info("proposal.refused", command=type(command).__name__, reason=reason.value)
            case Unknown(reason=why):
                _log.info("proposal.unknown", command=type(command).__name__, reason=why)
        done(ProposalEnded(command))

    async def _call(self, participant: str, operation: Operation, done: Done) -> None:
        key, verb = operation.key, operation.verb
        try:
            async with asyncio.timeout(self._call_timeout_s):
                answer = await self._participants.call(participant, operation)
        except TimeoutError:
            event = CallEnded(key.branch, verb, None, f"no answer within {self._call_timeout_s} s")
        except CallFailed as error:
            event = CallEnded(key.branch, verb, None, str(error))
        except Exception as error:  # noqa: BLE001 (a mistake of our own: loud, and unknown like any other)
            _log.exception("call.failed", gid=key.gid, branch=key.branch, participant=participant)
            event = CallEnded(key.branch, verb, None, repr(error))
        else:
            event = CallEnded(key.branch, verb, answer)
        if event.error:
            _log.info(
                "call.unknown",
                gid=key.gid,
                branch=key.branch,
                participant=participant,
                verb=verb.value,
                error=event.error,
            )
        done(event)
