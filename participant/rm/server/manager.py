"""The resource-manager port over a server that prepares transactions itself (`rm.server.backend`).

Owns the order of things: judge by the table, run, vote, and only then answer; and the end of a branch, one at a time.
Must never do: decide by memory what only the server knows. What a process remembers of a branch saves a question where
the server would contradict it anyway: a branch is run as if nothing were known of it, and whoever finds its row taken
asks what is true. So several processes may serve one database; only interactive work must come to the same one.

A lost connection leaves a vote unknown. It is not tried again here: the next request for the branch asks the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from structlog import get_logger

from participant.branch import Ask, Branch, Verdict, judge
from participant.ending import ended
from participant.errors import (
    ActionError,
    BranchConflict,
    InvariantError,
    ParticipantError,
    Reject,
    ResourceClosed,
    ResourceError,
)
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits, ResourceStatus
from participant.rm.measures import Measures
from participant.rm.refusal import refused
from participant.rm.requests import BranchRequest
from participant.rm.retention import wall_clock_ms
from participant.rm.server.backend import Backend, Conflict, Stale
from participant.rm.server.forgetting import forget
from participant.rm.server.known import Held, Known, Opened
from participant.rm.server.lanes import Lanes
from participant.rm.server.run import Run
from participant.rm.server.saying import ELSEWHERE, FULL, said
from participant.rm.server.schema import Schema
from participant.wire import Answer, BranchState

__all__ = ["ServerManager"]

_LOG = get_logger(__name__)

_VOTING = frozenset((Ask.PREPARE, Ask.COMMIT_ONE_PHASE))
_CHANGED = "what it has read was changed by others meanwhile, again and again"


class ServerManager:
    """`participant.resource.ResourceManager`, see there, over a `Backend`."""

    is_in_order = False  # the server does many things at once

    def __init__(self, backend: Backend, limits: ResourceLimits, wall_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._backend = backend
        self._limits = limits
        self._wall_ms = wall_ms
        self._measures = Measures()
        self._lanes = Lanes()
        self._runs: dict[BranchKey, Run] = {}
        self._known = Known(backend)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._backend.open()
        self._is_open = True
        self._schema = Schema(self._backend, self._known)
        try:
            await self._known.listed()
            self._spawn(self._schema.run())
            await self._schema.tried()
        except BaseException:
            await self.close()
            raise
        self._spawn(forget(self._backend, self._limits.retention_s, self._wall_ms))

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for run in self._runs.values():
            run.interrupt(ResourceClosed("the resource manager was closed"))
        await ended(self._tasks)
        if self._runs:
            await asyncio.wait({run.task for run in self._runs.values()})
        for key in tuple(self._known.open):
            await self._known.drop(key)
        await self._backend.close()

    async def failed(self) -> BaseException:
        """For the schema only: what else is wrong with a server may pass, and a restart would change nothing."""
        return await self._schema.failed()

    # What may run an action, and wait for rows.

    def work(self, key: BranchKey, call: Call, seq: int) -> asyncio.Future[Answer]:
        return self._run(BranchRequest(Ask.WORK, key, call, seq))

    def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._run(BranchRequest(Ask.PREPARE, key, call, works=works))

    def commit_one_phase(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._run(BranchRequest(Ask.COMMIT_ONE_PHASE, key, call, works=works))

    def _run(self, request: BranchRequest) -> asyncio.Future[Answer]:
        """Let it run, whoever of those who ask for it goes; a repeat joins."""
        run = self._runs.get(request.key)
        if not self._is_open:
            return refused(ResourceClosed("the resource manager is not open"))
        if run is None:
            run = Run(request, self._backend, self._limits, self._known.held_since)
            self._runs[request.key] = run
            run.task = self._loop.create_task(self._serve(run))
            run.task.add_done_callback(partial(self._ran, request.key))
        elif not request.is_repeat_of(run.request):
            return refused(BranchConflict(f"another request for branch {request.key} is under way"))
        return run.join()

    def _ran(self, key: BranchKey, task: asyncio.Task[Answer]) -> None:
        del self._runs[key]
        if not task.cancelled():
            task.exception()  # whoever waits has it

    async def _serve(self, run: Run) -> Answer:
        request = run.request
        branch = Branch(request.key)
        if request.ask is Ask.WORK or not self._schema.is_made or self._known.is_anything(request.key):
            branch = await self._known.truth(request.key)
        answer = self._judged(branch, request) or await self._attempt(run, branch)
        if answer is None:  # somebody else's row, or transaction; perhaps that of an end of ours
            async with self._lanes.of(request.key):
                branch = await self._known.truth(request.key)
            answer = self._judged(branch, request) or ELSEWHERE
        return answer

    def _judged(self, branch: Branch, request: BranchRequest) -> Answer | None:
        """What the table says without running anything; None to run. Raises BranchConflict."""
        rule = judge(branch.state, request.ask)
        if request.ask in _VOTING and branch.is_bound_to_another(request.binding):
            raise BranchConflict(f"branch {branch.key} is bound to another action or body (a gid used twice?)")
        if rule.verdict is not Verdict.RUN:
            return said(branch, rule)
        self._schema.check()
        branches_max = min(self._limits.branches_max, self._backend.branches_max)
        return FULL if branch.state is BranchState.UNKNOWN and len(self._known) >= branches_max else None

    async def _attempt(self, run: Run, branch: Branch) -> Answer | None:
        """Run and vote. None: the branch's row is taken."""
        request = run.request
        try:
            if request.ask is Ask.WORK:
                return await self._work(run)
            voted = await self._vote(run, branch)
        except Reject as no:
            return await self._vote_no(run, branch, no)
        except BranchConflict:
            raise
        except Exception:
            self._known.suspect(request.key)  # what became of the vote is not known
            await self._known.drop(request.key)  # and half of a work must not be voted on
            raise
        if voted is None:
            return None
        if voted.state is BranchState.PREPARED:
            self._known.held[voted.key] = Held(voted.digest, self._loop.time())
        return voted.answer()

    async def _vote_no(self, run: Run, branch: Branch, no: Reject) -> Answer | None:
        await self._known.drop(branch.key)
        if isinstance(no, Conflict):
            if not run.waiters:
                return Answer(BranchState.UNKNOWN, no.reason, retry=True)
            self._measures.conflict()
        async with self._lanes.of(branch.key):
            return await self._settle(branch, run.request.ask, no.reason, run.request.binding)

    async def _vote(self, run: Run, branch: Branch) -> Branch | None:
        """The branch as it is after its vote. Raises Reject for a no."""
        request = run.request
        state = BranchState.PREPARED if request.ask is Ask.PREPARE else BranchState.COMMITTED
        moved = branch.move(request.ask, state, at_ms=self._wall_ms(), digest=request.binding)
        opened = self._known.open.get(request.key)
        if request.call is not None:
            if opened is not None:
                raise BranchConflict(f"branch {request.key} has open work, which is prepared without an action")
            return await self._vote_on(run, request.call, moved)
        if opened is None:
            raise Reject("no work is open: it never came, ran out of time, or was lost in a restart")
        if request.works is not None and opened.works != request.works:
            what = "lost" if opened.works < request.works else "unknown"
            raise Reject(f"{what} work: {opened.works} of {request.works}")
        run.check()
        self._known.open.pop(request.key)
        opened.timer.cancel()
        try:
            return await opened.unit.vote(moved)
        except Stale:
            raise Conflict(_CHANGED) from None
        finally:
            await opened.unit.rollback()

    async def _vote_on(self, run: Run, call: Call, moved: Branch) -> Branch | None:
        """Run an action, again as long as others change what it reads, and vote."""
        while True:
            unit = await self._backend.begin(moved.key)
            if unit is None:
                return None
            try:
                result = await run.act(unit, call)
                return await unit.vote(moved.giving(result))
            except Stale:
                run.check_patience(_CHANGED)
            finally:
                await unit.rollback()

    async def _work(self, run: Run) -> Answer | None:
        request, call = run.request, run.request.call
        if call is None:
            raise InvariantError("work comes with a call")
        opened = self._known.open.get(request.key)
        done = 0 if opened is None else opened.works
        if opened is not None and request.seq < done:
            if request.seq != done - 1 or request.digest != opened.last_digest:
                raise BranchConflict(f"work {request.seq} of branch {request.key} was another action or body before")
            return Answer(BranchState.WORKING, result=opened.last_result)
        if request.seq > done:
            raise Reject(f"{request.seq - done} earlier work request(s) of this branch were lost")
        if opened is None:
            return await self._first_work(run, call)
        try:
            opened.last_result = await run.act(opened.unit, call)
        except Stale:
            raise Conflict("what its earlier work has read was changed by others meanwhile") from None
        opened.works, opened.last_digest = done + 1, call.digest
        return Answer(BranchState.WORKING, result=opened.last_result)

    async def _first_work(self, run: Run, call: Call) -> Answer | None:
        key = run.request.key
        deadline = self._loop.time() + self._limits.unprepared_limit_s
        while True:
            unit = await self._backend.begin(key)
            if unit is None:
                return None
            try:
                result = await run.act(unit, call)
                break
            except Stale:
                await unit.rollback()
                run.check_patience(_CHANGED)
            except BaseException:
                await unit.rollback()
                raise
        timer = self._loop.call_at(deadline, lambda: self._spawn(self._expire(key)))
        self._known.open[key] = Opened(unit, timer, 1, call.digest, result)
        return Answer(BranchState.WORKING, result=result)

    async def _expire(self, key: BranchKey) -> None:
        reason = f"not prepared within {self._limits.unprepared_limit_s:g} s of its first work"
        with suppress(ResourceError):  # the work is undone in any case, and cannot be prepared any more
            await self._end(key, Ask.EXPIRE, reason)

    # What ends a branch, and never waits for rows.

    async def commit(self, key: BranchKey) -> Answer:
        self._check_open()
        async with self._lanes.of(key):
            held = self._known.held.get(key)
            branch = Branch(key, BranchState.PREPARED, held.digest) if held else await self._known.truth(key)
            while (rule := judge(branch.state, Ask.COMMIT)).verdict is Verdict.RUN:
                if await self._backend.finish(branch, BranchState.COMMITTED):
                    voted_at_ms = self._count_decided(key)
                    branch = Branch(key, BranchState.COMMITTED, changed_at_ms=voted_at_ms)
                else:  # another process was quicker
                    branch = await self._known.truth(key)
            self._known.held.pop(key, None)
            await self._keep(branch)
            return said(branch, rule)

    def _count_decided(self, key: BranchKey) -> int:
        """Since when, by the clock on the wall, a branch was prepared that has ended now; 0 if it is not known here."""
        held = self._known.held.pop(key, None)
        if held is None:
            return 0
        prepared_s = self._loop.time() - held.since
        self._measures.decided(prepared_s)
        return self._wall_ms() - int((held.age_s + prepared_s) * 1_000)

    async def _keep(self, branch: Branch) -> None:
        """The row of a commit is as old as its vote, and would be forgotten too soon if that took long."""
        is_old = self._wall_ms() - branch.changed_at_ms > self._limits.retention_s * 500
        if branch.state is BranchState.COMMITTED and is_old:
            await self._backend.touch(branch.key, self._wall_ms())

    async def abort(self, key: BranchKey) -> Answer:
        self._check_open()
        return await self._end(key, Ask.ABORT, "")

    async def prevent(self, key: BranchKey, reason: str) -> Answer:
        self._check_open()
        return await self._end(key, Ask.PREVENT, reason)

    async def _end(self, key: BranchKey, ask: Ask, reason: str) -> Answer:
        while True:
            run = self._runs.get(key)
            if run is not None:
                run.interrupt(Reject(reason or "aborted by its coordinator"))
                await asyncio.wait({run.task})
            async with self._lanes.of(key):
                if key not in self._runs:  # none has begun while this waited for the lane
                    return await self._end_alone(key, ask, reason)

    async def _end_alone(self, key: BranchKey, ask: Ask, reason: str) -> Answer:
        if await self._known.drop(key):
            branch = Branch(key, BranchState.WORKING)
        elif key in self._known.held or ask is Ask.EXPIRE:
            branch = await self._known.truth(key)
        else:
            branch = Branch(key)
        answer = await self._end_as(branch, ask, reason)
        if answer is None:  # there is a row, or another process is at it
            answer = await self._end_as(await self._known.truth(key), ask, reason)
        return answer or ELSEWHERE

    async def _end_as(self, branch: Branch, ask: Ask, reason: str) -> Answer | None:
        """Do what the table says of a branch in this state; None if it is not, or no longer, in it."""
        rule = judge(branch.state, ask)
        if rule.verdict not in (Verdict.RUN, Verdict.EMPTY):
            return said(branch, rule)
        is_empty = rule.verdict is Verdict.EMPTY
        reason = reason or ("aborted before it was prepared" if is_empty else "aborted by its coordinator")
        if branch.state is BranchState.PREPARED:
            await self._backend.doom(branch.move(ask, BranchState.ABORTED, at_ms=self._wall_ms(), reason=reason))
            if not await self._backend.finish(branch, BranchState.ABORTED):
                self._known.held.pop(branch.key, None)
                return None
            self._count_decided(branch.key)
        return await self._settle(branch, ask, reason)

    async def _settle(self, branch: Branch, ask: Ask, reason: str, digest: bytes = b"") -> Answer | None:
        moved = branch.move(ask, BranchState.ABORTED, at_ms=self._wall_ms(), digest=digest, reason=reason)
        is_read_only = branch.state is BranchState.READ_ONLY
        return moved.answer() if await self._backend.settle(moved, is_read_only=is_read_only) else None

    # What changes nothing.

    async def outcome(self, key: BranchKey) -> Answer:
        self._check_open()
        branch = await self._known.truth(key)
        return said(branch, judge(branch.state, Ask.OUTCOME))

    async def in_doubt(self) -> list[BranchKey]:
        self._check_open()
        return [prepared.key for prepared in await self._known.listed()]

    async def status(self) -> ResourceStatus:
        self._check_open()
        await self._known.listed()
        units = [run.unit for run in self._runs.values() if run.unit is not None]
        waiting = await self._backend.waiting(units) if units else 0
        since = {key: held.since for key, held in self._known.held.items()}
        return self._measures.status(self._loop.time(), since, range(waiting), self._known.open)

    async def read(self, call: Call) -> Any:
        self._check_open()
        self._schema.check()
        return await self.look(call)

    async def look(self, call: Call) -> Any:
        """What `read` does, for a function that wants no table of the schema."""
        self._check_open()
        try:
            return await self._backend.read(call)
        except ParticipantError:
            raise
        except Exception as error:
            _LOG.exception("view.failed", view=call.name)
            raise ActionError(f"{call.name!r} failed with {type(error).__name__}") from error

    def _check_open(self) -> None:
        if not self._is_open:
            raise ResourceClosed("the resource manager is not open")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
