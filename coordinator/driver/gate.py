"""The way to one participant: how many calls are under way to it, and which have to wait.

A call waits while too many are under way, or while the participant is taken for dead (`driver.breaker`). It costs
nothing then: no timer, no attempt. So a participant that is slow or gone takes nothing from the others, however
much is owed to it; and new transactions that name it are refused early, before anything is begun. Calls that end a
branch line up apart from those that take on work: these may be waiting at the participant for the rows that those free.

Owns: the window, the line, the breaker, and the count of what is owed. Must never do: give up a call. Only whoever
asked for it does, by asking something else about the same branch.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.driver.breaker import Breaker
from coordinator.effects import CallEnded
from coordinator.errors import RETRY_AFTER_S, Overloaded, Unreachable
from participant.ids import BranchKey
from participant.wire import Operation, Verb

__all__ = ["Gate", "GateLimits", "Send"]

Ended: TypeAlias = Callable[[CallEnded], None]
Send: TypeAlias = Callable[[Operation, Ended], None]
"""Make one call; exactly one CallEnded follows."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Of one participant. `calls_max`: calls under way, of each of the two kinds. `waiting_max`: calls that wait; with
    more, no new transaction is taken on. `owed_max`: branches that have been told the decision and have not confirmed
    it; with more, none is.
    """

    calls_max: int = 1_024
    waiting_max: int = 4_096
    owed_max: int = 131_072


class _Line:
    """Calls of one kind: how many are under way, and which wait, in the order of arrival."""

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: OrderedDict[BranchKey, tuple[Operation, Ended]] = OrderedDict()


class Gate:
    """The gate to the participant `name`; `send` makes a call."""

    def __init__(self, name: str, send: Send, limits: GateLimits) -> None:
        self._name = name
        self._send = send
        self._limits = limits
        self._breaker = Breaker()
        self._ending, self._working = _Line(), _Line()
        self._owed: set[BranchKey] = set()
        self._timer: asyncio.TimerHandle | None = None

    def admit(self) -> None:
        """Let a new transaction begin that names this participant. Raises: Overloaded, Unreachable."""
        waiting = len(self._ending.waiting) + len(self._working.waiting)
        if self._breaker.is_open:
            now = asyncio.get_running_loop().time()
            if waiting or not self._breaker.may_pass(now):
                raise Unreachable(f"{self._name} does not answer; come again", retry_after_s=RETRY_AFTER_S)
            self._breaker.admitted(now)
        for count, limit, what in (
            (waiting, self._limits.waiting_max, "calls wait for it (waiting_per_participant_max)"),
            (len(self._owed), self._limits.owed_max, "branches have not confirmed (owed_per_participant_max)"),
        ):
            if count >= limit:
                raise Overloaded(f"{self._name}: {count} {what}; come again", retry_after_s=RETRY_AFTER_S)

    def call(self, operation: Operation, ended: Ended) -> None:
        """Make the call, now or later. One that waits for the same branch is not made any more."""
        if _ends_by_decision(operation):
            self._owed.add(operation.key)
        line = self._working if operation.may_wait else self._ending
        for other in (self._ending, self._working):
            if other.waiting and (former := other.waiting.pop(operation.key, None)) is not None:
                former[1](CallEnded(operation.key.branch, former[0].verb, None, "another call took its place"))
        if not line.waiting and line.under_way < self._limits.calls_max and not self._breaker.is_open:
            self._go(line, operation, ended)
            return
        line.waiting[operation.key] = (operation, ended)
        self._pass()

    def close(self) -> None:
        """Whoever asked has gone: what waits is not made, and what is under way ends unheard."""
        self._ending.waiting.clear()
        self._working.waiting.clear()
        self._stop_timer()

    def _pass(self) -> None:
        """Let through what may pass now, what ends a branch first."""
        now = asyncio.get_running_loop().time()
        for line in (self._ending, self._working):
            while line.waiting and line.under_way < self._limits.calls_max and self._breaker.may_pass(now):
                _, (operation, ended) = line.waiting.popitem(last=False)
                self._go(line, operation, ended)
        self._arm()

    def _go(self, line: _Line, operation: Operation, ended: Ended) -> None:
        probe = self._breaker.passing()

        def heard(event: CallEnded) -> None:
            line.under_way -= 1
            if event.answer is None and not event.heard:
                self._breaker.failed(asyncio.get_running_loop().time(), probe=probe)
            else:
                self._breaker.answered()
            if event.answer is not None and not event.answer.retry and _ends_by_decision(operation):
                self._owed.discard(operation.key)
            ended(event)
            if self._ending.waiting or self._working.waiting:
                self._pass()

        line.under_way += 1
        self._send(operation, heard)

    def _arm(self) -> None:
        """Ring when the next probe may leave, if anything waits."""
        at = self._breaker.probe_at
        if at is None or not (self._ending.waiting or self._working.waiting):
            self._stop_timer()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._pass()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _ends_by_decision(operation: Operation) -> bool:
    """Whether the branch is told what was decided, so that it owes a confirmation."""
    return operation.verb in (Verb.COMMIT, Verb.ABORT) and not operation.one_phase
