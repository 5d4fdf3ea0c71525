"""One request that runs an action in a server's transaction: its patience, and its end by others.

Waiting. The server queues who wants a row; here is only decided for how long. What waits is looked at from outside:
after `deadlock_wait_s` for the first time, and it ends with a no when it waits for a branch with a smaller key for
longer than that (wait-die, see `participant.rm.engine`), or for anything longer than `lock_wait_s`. An action that is
slow for other reasons ends at `unprepared_limit_s`: it keeps rows from others, too.

A vote for nobody is none: when all who asked have gone, the end of a wait is no vote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from participant.ending import CANCEL_AGAIN_S
from participant.errors import Reject, ResourceError
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.actions import checked, no_of
from participant.rm.requests import BranchRequest
from participant.rm.server.backend import Backend, Blocked, Conflict, Stale, Unit
from participant.wire import Answer

__all__ = ["Run"]


class Run:
    """A request under way, with those who wait for its answer.

    `held_since(key)` says since when a branch of this process is prepared, in the time of the event loop.
    """

    task: asyncio.Task[Answer]

    def __init__(
        self,
        request: BranchRequest,
        backend: Backend,
        limits: ResourceLimits,
        held_since: Callable[[BranchKey], float | None],
    ) -> None:
        self.request = request
        self.waiters = 0
        self.unit: Unit | None = None
        self._backend = backend
        self._limits = limits
        self._held_since = held_since
        self._since = asyncio.get_running_loop().time()
        self._end: Exception | None = None

    def join(self) -> asyncio.Future[Answer]:
        """Its answer, for one more who waits for it; that this one goes away does not end it."""
        answer = asyncio.shield(self.task)
        self.waiters += 1
        answer.add_done_callback(self._left)
        return answer

    def _left(self, _: asyncio.Future[Answer]) -> None:
        self.waiters -= 1

    def interrupt(self, end: Exception) -> None:
        """Let `end` be raised instead of a vote, unless the vote is under way already."""
        if self._end is None:
            self._end = end
            self._stop()

    def _stop(self) -> None:
        """Cancel an action, see `act`, until it has heard: see `participant.ending`."""
        if self.unit is not None:
            self.task.cancel()
            asyncio.get_running_loop().call_later(CANCEL_AGAIN_S, self._stop)

    def check(self) -> None:
        """Raise what `interrupt` was given."""
        if self._end is not None:
            raise self._end

    def check_patience(self, why: str) -> None:
        """Raise Conflict if it is too late to run again."""
        self.check()
        if asyncio.get_running_loop().time() >= self._since + self._limits.lock_wait_s:
            raise Conflict(why)

    async def act(self, unit: Unit, call: Call) -> Any:
        """Run an action; its result. Raises Reject, Stale, ResourceError and what `interrupt` was given."""
        self.check()
        self.unit = unit
        loop = asyncio.get_running_loop()
        began = loop.time()
        first_look = min(began + self._limits.deadlock_wait_s, self._since + self._limits.lock_wait_s)
        watching: list[asyncio.Task[None]] = []
        timer = loop.call_at(first_look, lambda: watching.append(loop.create_task(self._watch(unit, began))))
        try:
            return await _result_of(unit, call)
        except asyncio.CancelledError:
            if self.task.cancelling() and self._end is None:
                raise
            raise Reject(f"action {call.name!r} failed: it raised CancelledError") from None
        finally:
            self.unit = None
            timer.cancel()
            for watch in watching:
                watch.cancel()
            while self._end is not None and self.task.cancelling():
                self.task.uncancel()
            self.check()  # however it has ended: there must be no vote

    async def _watch(self, unit: Unit, began: float) -> None:
        """Look at an action that has not ended, until it has, and put an end to it when its time is over."""
        loop = asyncio.get_running_loop()
        while True:
            blocked = None
            with suppress(ResourceError):  # not seen this time
                blocked = await self._backend.blocked_by(unit)
            now = loop.time()
            look_at = now + self._limits.deadlock_wait_s
            if blocked is not None:
                until = self._until(blocked, began)
                if now >= until:
                    waited = f"{blocked.row} stayed locked by {blocked.holder_text} for {now - self._since:.2g} s"
                    self.interrupt(Conflict(waited))
                look_at = min(look_at, until)
            elif now >= self._since + self._limits.unprepared_limit_s:
                self.interrupt(Reject(f"its action took longer than {self._limits.unprepared_limit_s:g} s"))
            if self._end is not None:
                return
            await asyncio.sleep(look_at - now)

    def _until(self, blocked: Blocked, began: float) -> float:
        """Until when this waits for that row. Never for a branch of the same transaction, which waits for this one."""
        until = self._since + self._limits.lock_wait_s
        holder, key = blocked.holder, self.request.key
        if holder is None:
            return until
        if holder.gid == key.gid:
            self.interrupt(
                Reject(
                    f"{blocked.row} is changed by branch {holder.branch} of the same transaction; make them one branch"
                )
            )
        if holder < key:
            until = min(until, max(began, self._held_since(holder) or began) + self._limits.deadlock_wait_s)
        return until


async def _result_of(unit: Unit, call: Call) -> Any:
    try:
        return checked(await unit.run(call))
    except (Reject, Stale, ResourceError):
        raise
    except Exception as error:
        raise no_of(call, error) from error
