"""A database on a server, swept: over the backend of the resource manager, without the manager.

The participant's processes may serve the database meanwhile, as they may beside each other: who comes second finds what
the first has done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from participant.branch import Ask, Verdict, judge
from participant.ids import BranchKey
from participant.rm.retention import wall_clock_ms
from participant.rm.server.backend import Backend
from participant.rm.server.saying import said
from participant.rm.sweep import Ender, InDoubt, Look
from participant.wire import Answer, BranchState

__all__ = ["ServerSweep"]

ABORT_ATTEMPTS = 3  # while another connection ends the branch, too
_REASON = "aborted by its coordinator, as a sweep was told"


class ServerSweep:
    """`participant.rm.sweep.Database` over a backend that is opened as a guest."""

    def __init__(self, backend: Backend, wall_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._backend = backend
        self._wall_ms = wall_ms
        self._is_open = False

    async def open(self) -> None:
        await self._backend.open()
        self._is_open = True

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._backend.close()

    async def look(self) -> Look:
        ours = tuple(InDoubt(each.key, max(0.0, each.age_s)) for each in await self._backend.prepared())
        return Look(ours, tuple(await self._backend.foreign()))

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[Ender]:
        yield self

    async def commit(self, key: BranchKey) -> Answer:
        branch = await self._backend.load(key)
        while (rule := judge(branch.state, Ask.COMMIT)).verdict is Verdict.RUN:
            if await self._backend.finish(branch, BranchState.COMMITTED):
                # Its row is as old as its vote: its participant could forget it before the coordinator has asked.
                await self._backend.touch(key, self._wall_ms())
                return Answer(BranchState.COMMITTED)
            branch = await self._backend.load(key)
        return said(branch, rule)

    async def abort(self, key: BranchKey) -> Answer:
        for _ in range(ABORT_ATTEMPTS):
            branch = await self._backend.load(key)
            rule = judge(branch.state, Ask.ABORT)
            if rule.verdict not in (Verdict.RUN, Verdict.EMPTY):
                return said(branch, rule)
            moved = branch.move(Ask.ABORT, BranchState.ABORTED, at_ms=self._wall_ms(), reason=_REASON)
            if branch.state is BranchState.PREPARED:
                await self._backend.doom(moved)
                if not await self._backend.finish(branch, BranchState.ABORTED):
                    continue  # somebody else was quicker
            if await self._backend.settle(moved, is_read_only=branch.state is BranchState.READ_ONLY):
                return moved.answer()
        return Answer(BranchState.UNKNOWN, "other connections work on the branch", retry=True)
