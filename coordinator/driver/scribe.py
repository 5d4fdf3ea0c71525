"""Writing into the log for a request, and reading behind it: what came of that, as a request hears it.

Owns: how long a request waits for the log. Must never do: take silence for a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from coordinator.driver.supervisor import Supervisor
from coordinator.errors import RETRY_AFTER_S, NoLeader, NotLeader, Overloaded, Undetermined
from coordinator.ledger.commands import Command, encode
from coordinator.ledger.table import Result
from raftlog.port import Applied, Outcome, Refusal, Refused, ReplicatedLog, Unknown

__all__ = ["Scribe"]


class Scribe:
    """`wall_ms` gives wall-clock milliseconds."""

    def __init__(
        self, log: ReplicatedLog, supervisor: Supervisor, *, wall_ms: Callable[[], int], propose_timeout_s: float
    ) -> None:
        self._replicated = log
        self._supervisor = supervisor
        self._wall_ms = wall_ms
        self._propose_timeout_s = propose_timeout_s

    async def barrier(self) -> None:
        """What is read from here on reflects every answer that was given before. Raises: NoLeader, Undetermined."""
        match await self._in_time(self._replicated.barrier()):
            case Applied():
                return
            case Refused(reason=reason):
                raise NoLeader(f"the log cannot be read now ({reason.value})", retry_after_s=RETRY_AFTER_S)
            case Unknown(reason=why):
                raise Undetermined(f"the log cannot be read now ({why})", retry_after_s=RETRY_AFTER_S)

    async def propose(self, command: Command) -> Result:
        """What the ledger says to it. Raises: NotLeader, Overloaded, Undetermined."""
        self._supervisor.require_leading()
        match await self._in_time(self._replicated.propose(encode(command, self._wall_ms()))):
            case Applied(result=result):
                return cast("Result", result)
            case Refused(reason=Refusal.OVERLOADED):
                raise Overloaded("the log has too much to do", retry_after_s=RETRY_AFTER_S)
            case Refused(leader=leader):
                raise NotLeader(leader)
            case Unknown(reason=why):
                raise Undetermined(f"it may have been recorded, or not ({why})", retry_after_s=RETRY_AFTER_S)

    async def _in_time(self, asked: Awaitable[Outcome]) -> Outcome:
        try:
            async with asyncio.timeout(self._propose_timeout_s):
                return await asked
        except TimeoutError:
            return Unknown(f"no answer within {self._propose_timeout_s} s")
