"""What can be asked of this replica about workflows, without HTTP: begin one, run its code, record its steps.

Owns: who is told of which workflow, and who waits for a step. Must never do: call a participant, or decide when the
code has failed; the driver of the transaction does. Whatever a worker is answered stands in the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from random import Random
from typing import NamedTuple

from coordinator.driver.admission import Admission
from coordinator.driver.claims import LEASE_S, REST_S, Claims
from coordinator.driver.intake import (
    branch_of,
    check_notify,
    check_size,
    digest_of,
    digest_of_workflow,
    path_of,
)
from coordinator.driver.notices import SILENT
from coordinator.driver.scribe import Scribe
from coordinator.driver.supervisor import Supervisor
from coordinator.driver.waiters import Known, Waiters
from coordinator.errors import (
    RETRY_AFTER_S,
    Contradiction,
    GidReused,
    Invalid,
    NotClaimed,
    NotDeterministic,
    NotFound,
    Undetermined,
)
from coordinator.facts import Expiry
from coordinator.ledger.commands import BY_WORKFLOW, Begin, Diverge, Extend
from coordinator.ledger.records import BranchRecord, Path, TransactionRecord, WorkflowRecord
from coordinator.ledger.table import Accepted, Ledger
from coordinator.ledger.workflows import StepState, is_answered
from coordinator.ports import Notifier, Participants
from coordinator.protocols.declaration import Misdeclared
from coordinator.protocols.modes import step_of
from coordinator.protocols.workflow import Answer, answer_of, check_next, placed, return_of, step_name
from coordinator.wire import GID_RANDOM_BITS, BranchRequest, new_gid, pack_body
from coordinator.wire_workflows import ClaimRequest, RunEndRequest, StepAsk, WorkflowRequest
from participant.traceparent import read_trace
from raftlog.port import Leadership, ReplicatedLog, Role

__all__ = ["Claimed", "Workflows"]


class Claimed(NamedTuple):
    """What a worker is to run, and what it need not run any more."""

    offers: Sequence[TransactionRecord]
    lost: Sequence[str]


class Workflows:
    """The use cases. Each may raise NotLeader, NoLeader, Overloaded and Undetermined."""

    def __init__(
        self,
        scribe: Scribe,
        ledger: Ledger,
        supervisor: Supervisor,
        waiters: Waiters,
        participants: Participants,
        log: ReplicatedLog,
        admission: Admission,
        *,
        wall_ms: Callable[[], int],
        chance: Random,
        notifier: Notifier = SILENT,
    ) -> None:
        self._scribe = scribe
        self._ledger = ledger
        self._supervisor = supervisor
        self._waiters = waiters
        self._participants = participants
        self._admission = admission
        self._wall_ms = wall_ms
        self._chance = chance
        self._notifier = notifier
        self._claims = Claims()
        # While this replica leads, by workflow: undecided gids, in the order of their beginning.
        self._open: dict[str, dict[str, None]] = {}
        self._questions: dict[str, object] = {}  # the last one of each worker, while it waits for something to run
        self._watching: dict[str, list[asyncio.Future[None]]] = {}  # by gid; "" for what is to be run
        self._term: int | None = None
        self._unsubscribe = [ledger.subscribe(self._changed), log.subscribe(self._leadership_changed)]

    def close(self) -> None:
        """Hear of nothing any more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._wake_all()

    async def start(self, request: WorkflowRequest) -> TransactionRecord:
        """Begin a workflow, or find the one that this request began before. Raises: Invalid, GidReused."""
        self._supervisor.require_leading()
        gid = request.gid or new_gid(self._wall_ms(), self._chance.getrandbits(GID_RANDOM_BITS))
        given = pack_body(request.input, "input")
        key, notify = request.key or "", request.notify or ""
        check_notify(notify, self._notifier)
        digest = digest_of_workflow(request.workflow, given, key, notify)
        if self._ledger.get(gid) is None:
            self._supervisor.admit(notify)
        asked = (read_trace(request.trace), key, notify, WorkflowRecord(request.workflow, given))
        begin = Begin(gid, digest, Path.STEPS, (), request.deadline_ms, 0, *asked)
        result = await self._scribe.propose(begin)
        record = result.record
        if record is None or not (isinstance(result, Accepted) or record.tombstone):
            raise GidReused(f"{gid} is another transaction, or has another input, key or notify; use a new gid")
        return record

    async def claim(self, request: ClaimRequest, wait_s: float) -> Claimed:
        """What a worker is to run, as soon as there is something, after `wait_s` at the latest.

        Nothing, once the worker has asked anew: it does not hear the answer to its last question.
        """
        self._supervisor.require_leading()
        ends_at = self._now() + wait_s
        question = self._questions[request.worker] = object()
        if self._claims.keep_only(request.worker, set(request.running)):
            self._wake("")
        lost = [gid for gid in request.running if not self._goes_on(gid, request.worker)]
        try:
            while self._questions.get(request.worker) is question:
                offers = self._offer(request)
                now = self._now()
                if offers or lost or now >= ends_at or not request.room:
                    return Claimed(offers, lost)
                await self._news("", min(ends_at, self._claims.next_end(now) or ends_at))
                self._supervisor.require_leading()
            return Claimed((), lost)
        finally:
            if self._questions.get(request.worker) is question:
                del self._questions[request.worker]

    async def step(self, gid: str, ask: StepAsk, wait_s: float) -> tuple[TransactionRecord, Answer]:
        """Record a step, unless it is recorded, and wait until it is answered.

        Raises: NotFound, NotClaimed; Invalid, if the code may not ask for that; NotDeterministic, if it has asked for
        something else before; Unreachable.
        """
        record = await self._claimed(gid, ask.worker)
        ends_at = self._now() + wait_s
        record = await self._until(gid, lambda found: len(found.branches) >= ask.number - 1, ends_at) or record
        while record.decision is None and len(record.branches) >= ask.number - 1:
            branch = self._branch_of(ask.number, ask.call)
            if await self._is_recorded(record, ask.number, branch):
                break
            record = self._ledger.get(gid) or record  # somebody else was quicker
        found = await self._until(
            gid, lambda found: answer_of(found, ask.number).state is not StepState.PENDING, ends_at
        )
        record = found or record
        return record, answer_of(record, ask.number)

    async def end(self, gid: str, request: RunEndRequest, wait_s: float) -> Known:
        """The code has returned, or failed; wait for the decision.

        Raises: NotFound, NotClaimed, NotDeterministic; Invalid, if a step is still under way.
        """
        await self._scribe.barrier()
        record = await self._claimed(gid, request.worker)
        if record.decision is None and request.failure is not None:
            if request.steps < len(record.branches):  # another run of this code has come further
                why = f"it failed after {request.steps} steps, and {len(record.branches)} are recorded"
                await self._diverged(gid, f"{why}: {request.failure}")
            self._supervisor.expire(gid, Expiry(BY_WORKFLOW, request.failure))
        elif record.decision is None:
            await self._return(record, request)
        return await self._waiters.decided(gid, wait_s)

    async def worker_of(self, gid: str) -> tuple[WorkflowRecord, str | None]:
        """Who runs it. Raises: NotFound, Contradiction."""
        self._supervisor.require_leading()
        await self._scribe.barrier()
        record = _found(gid, self._ledger.get(gid))
        return _workflow_of(record), self._claims.worker_of(gid, self._now())

    # Claims

    def _goes_on(self, gid: str, worker: str) -> bool:
        """Whether a worker that runs it is to go on."""
        record = self._ledger.get(gid)
        return record is not None and record.decision is None and self._claims.take(gid, worker, self._now())

    def _offer(self, request: ClaimRequest) -> list[TransactionRecord]:
        now = self._now()
        offers: list[TransactionRecord] = []
        for gid in self._waiting(request.workflows):
            if len(offers) == request.room:
                break
            record = self._ledger.get(gid)
            if record is not None and self._claims.is_free(gid, now):
                self._claims.take(gid, request.worker, now)
                offers.append(record)
        return offers

    def _waiting(self, workflows: Iterable[str]) -> Iterable[str]:
        return (gid for name in workflows for gid in self._open.get(name, ()))

    async def _claimed(self, gid: str, worker: str) -> TransactionRecord:
        """The record of a workflow that this worker runs."""
        self._supervisor.require_leading()
        if self._ledger.get(gid) is None:
            await self._scribe.barrier()
        record = _found(gid, self._ledger.get(gid))
        _workflow_of(record)
        if record.decision is None and not self._claims.take(gid, worker, self._now()):
            raise NotClaimed(f"{gid} is run by {self._claims.worker_of(gid, self._now())}")
        return record

    # Recording

    def _branch_of(self, number: int, call: BranchRequest) -> BranchRecord:
        if call.branch is not None or call.step is None or call.step.after:
            raise Invalid.field("call", "is a branch with a step, without a name, and without `after`")
        return branch_of(call, step_name(number), "call", self._participants, self._chance, is_stepwise=True)

    async def _is_recorded(self, record: TransactionRecord, number: int, branch: BranchRecord) -> bool:
        """See to it that the step is there, and no other one; False if another one came in between."""
        workflow = _workflow_of(record)
        digest = digest_of((branch,))
        if number <= len(workflow.asked):
            if workflow.asked[number - 1].digest != digest:
                was, now = _told(record.branches[number - 1]), _told(branch)
                how = "with other details" if was == now else f"as {now}"
                await self._diverged(record.gid, f"step {number} was asked for as {was}, and now {how}")
            return True
        try:
            check_next(record, branch)
        except Misdeclared as error:
            raise Invalid.field(f"call.{error.field}", error.why) from error
        check_size((*record.branches, branch), "call.body")
        await path_of((branch,), self._participants, where="call")
        result = await self._scribe.propose(Extend(record.gid, number, digest, placed(record, branch), at_ms=0))
        return isinstance(result, Accepted)

    async def _return(self, record: TransactionRecord, request: RunEndRequest) -> None:
        if request.steps < len(record.branches):
            asked = len(record.branches)
            await self._diverged(record.gid, f"it returned after {request.steps} steps; {asked} are recorded")
        if not is_answered(record, request.steps):
            raise Invalid.field("steps", "not every step is answered; wait for each before the code returns")
        result = await self._scribe.propose(return_of(record, request.steps, pack_body(request.result, "result")))
        if not isinstance(result, Accepted) and (result.record is None or result.record.decision is None):
            raise Undetermined("another run of the code has gone on meanwhile", retry_after_s=RETRY_AFTER_S)

    async def _diverged(self, gid: str, why: str) -> None:
        await self._scribe.propose(Diverge(gid, why))
        self._claims.rest(gid, self._now() + REST_S)
        raise NotDeterministic(f"{gid}: {why}; run the code that it was begun with, or abort it")

    # Waiting

    async def _until(
        self, gid: str, holds: Callable[[TransactionRecord], bool], ends_at: float
    ) -> TransactionRecord | None:
        """The record once it is decided or `holds`, or as it is at `ends_at`. Raises: NotLeader, Overloaded."""
        while True:
            self._supervisor.require_leading()
            record = self._ledger.get(gid)
            if record is None or record.decision is not None or holds(record) or self._now() >= ends_at:
                return record
            await self._news(gid, ends_at)

    async def _news(self, of: str, until: float) -> None:
        """Wait until something has changed, or until then."""
        self._admission.admit_waiter(sum(map(len, self._watching.values())))
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self._watching.setdefault(of, []).append(woken)
        timer = loop.call_at(until, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            left = [each for each in self._watching.pop(of, []) if each is not woken]
            if left:
                self._watching[of] = left

    def _wake(self, of: str) -> None:
        for woken in self._watching.get(of, ()):
            _wake(woken)

    def _wake_all(self) -> None:
        for of in tuple(self._watching):
            self._wake(of)

    # Hearing

    def _changed(self, record: TransactionRecord) -> None:
        """The ledger changed a record, in the middle of its `apply`."""
        if record.workflow is None or self._term is None:
            return
        gid = record.gid
        waiting = self._open.setdefault(record.workflow.name, {})
        if record.decision is not None:
            waiting.pop(gid, None)
            self._claims.drop(gid)
            if not waiting:
                del self._open[record.workflow.name]
        elif gid not in waiting:
            waiting[gid] = None
            self._wake("")
        self._wake(gid)

    def _leadership_changed(self, leadership: Leadership) -> None:
        """What an earlier leader had given out, its workers keep, if they say so in time."""
        term = leadership.term if leadership.role is Role.LEADER else None
        if term == self._term:
            return
        self._term = term
        self._claims.clear()
        self._open.clear()
        for record in sorted(self._ledger.unfinished(), key=attrgetter("begun_at_ms")) if term is not None else ():
            if record.workflow is not None and record.decision is None:
                self._open.setdefault(record.workflow.name, {})[record.gid] = None
                self._claims.rest(record.gid, self._now() + LEASE_S)
        self._wake_all()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _found(gid: str, record: TransactionRecord | None) -> TransactionRecord:
    if record is None:
        raise NotFound(f"no transaction {gid!r} is recorded")
    return record


def _workflow_of(record: TransactionRecord) -> WorkflowRecord:
    if record.workflow is None:
        raise Contradiction(f"{record.gid} is no workflow")
    return record.workflow


def _told(branch: BranchRecord) -> str:
    step = step_of(branch)
    named = (("confirm", step.confirm), ("undo", step.undo))
    more = "".join(f", {what} {action}" for what, action in named if action is not None)
    return f"{branch.participant} {branch.action} ({step.mode}{more})"
