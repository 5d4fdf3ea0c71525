"""What happens to branches in one embedded database: barrier, votes, row locks and waiting, over a `Store`.

Owns the order of things: judge by the table, run, lock, write the row, and only then answer. It runs in one
thread, knows no event loop, and takes the time as an argument. Must never do: answer before `Store.commit` has
returned.

Group commit. `step` serves a batch of requests in one local transaction, so that they share one forced write.
No answer of a batch leaves before that write, and a batch that cannot be written is fatal: what was answered
before stays true, what was not is unknown until a restart reads it back.

Waiting. A branch that wants a row of another branch is *parked* without an answer, holding nothing but what
earlier work of its own needs. When the rows are granted, its action runs again, because what it had read is
stale. When the wait is over, it votes no, durably. A repeat of a parked request joins it; another one that would run
or vote in the same branch is refused, and all else is served at once, so an abort never waits. A vote for nobody is
none: when all who asked have gone (their coordinator died), a wait that is over ends without one, and a repeat begins
anew. So the time without a leader, in which nobody frees rows either, costs no branch its yes.

Deadlock. Branches can wait for each other across participants, where nobody sees the whole cycle. But in every cycle
some branch waits for one with a smaller key than its own, which makes no headway. So that is not waited for longer
than `deadlock_wait_s`, counted from when the other got the row; a deadlock then costs one victim and not all of them,
and a long line that moves costs none. (Wait-die, with time to wait before dying: Rosenkrantz, Stearns & Lewis,
"System Level Concurrency Control for Distributed Database Systems", ACM TODS 3(2), 1978. Gids are in the order of
time, unless callers make their own.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from structlog import get_logger

from participant.branch import Ask, Branch, Verdict, judge
from participant.errors import (
    ActionError,
    BranchConflict,
    IntentConflict,
    InvariantError,
    ParticipantError,
    Reject,
    ResourceFailed,
    invariant,
)
from participant.ids import BranchKey
from participant.locks import Expired, LockTable, Row
from participant.resource import Call, OpenBranch, ResourceLimits
from participant.rm.actions import checked, no_of
from participant.rm.measures import Measures
from participant.rm.notes import serve_note
from participant.rm.pending import Open, Parked
from participant.rm.requests import BranchRequest, Forget, ListInDoubt, Measure, OtherRequest, Read, Request, Ticket
from participant.rm.store import NOTHING, Effects, Ran, Store
from participant.wire import CONFLICT, Answer, BranchState

__all__ = ["Engine"]

_LOG = get_logger(__name__)

_VOTING = frozenset((Ask.PREPARE, Ask.COMMIT_ONE_PHASE))  # these bind the branch to their request
_RUNNING = _VOTING | {Ask.WORK}  # these may wait for rows


class Engine:
    """All branches of one database. Not thread-safe: one thread calls everything.

    `is_awaited`: whether somebody still waits for the result with this ticket.
    """

    def __init__(
        self, store: Store, limits: ResourceLimits, is_awaited: Callable[[Ticket], bool] = lambda _: True
    ) -> None:
        self._store = store
        self._limits = limits
        self._is_awaited = is_awaited
        self._locks = LockTable()
        self._measures = Measures()
        self._open: dict[BranchKey, Open] = {}  # in order of their deadlines
        self._prepared: dict[BranchKey, float] = {}  # since when; oldest first
        self._parked: dict[BranchKey, Parked] = {}
        self._touched: list[BranchKey] = []
        self._done: list[tuple[Ticket, Any]] = []
        self._now = 0.0
        self._wall_ms = 0

    def open(self, now: float) -> None:
        """Recover the prepared branches, as prepared at `now`, and their locks. Raises what `Store.open` raises."""
        for key, rows in self._store.open():
            self._prepared[key] = now
            granted = self._locks.acquire(key, rows, 0.0)
            invariant(granted, f"prepared branch {key} shares a row with another prepared branch")

    def close(self) -> None:
        """Give the data back."""
        self._store.close()

    def step(self, requests: Sequence[tuple[Ticket, Request]], now: float, wall_ms: int) -> list[tuple[Ticket, Any]]:
        """Serve requests in one local transaction; the results that are ready, durable, in any order.

        A result is an Answer, or what `Read`, `ListInDoubt`, `Measure` and `Forget` give, or a ParticipantError; None
        for who has gone. A request without a result is parked; a later `step` has it. Raises ResourceBusy (nothing was
        done); whatever else it raises is fatal.
        """
        self._now, self._wall_ms, self._done = now, wall_ms, []
        self._store.begin()
        self._expire()
        for ticket, request in requests:
            self._serve(ticket, request)
            self._resume()
        self._store.commit()
        return self._done

    @property
    def wake_at(self) -> float | None:
        """When `step` will have something to do without being asked."""
        waits = self._locks.next_deadline
        opened = next((opened.deadline for opened in self._open.values()), None)
        return min((at for at in (waits, opened) if at is not None), default=None)

    def _serve(self, ticket: Ticket, request: Request) -> None:
        try:
            if isinstance(request, BranchRequest):
                self._serve_branch(ticket, request)
            else:
                self._done.append((ticket, self._result(request)))
        except (ResourceFailed, InvariantError):
            raise
        except ParticipantError as error:
            self._done.append((ticket, error))

    def _result(self, request: OtherRequest) -> Any:
        match request:
            case Read(call):
                return self._read(call)
            case ListInDoubt():
                return list(self._prepared)
            case Measure():
                return self._measures.status(self._now, self._prepared, self._parked, self._open)
            case Forget(before_ms, branches_max):
                return self._store.forget(before_ms, branches_max)
            case _:
                return serve_note(self._store, request, self._wall_ms)

    def _serve_branch(self, ticket: Ticket, request: BranchRequest) -> None:
        parked = self._parked.get(request.key)
        if parked is not None and request.ask in _RUNNING and not self._has_waiter(parked):
            self._done.extend((gone, None) for gone in self._parked.pop(request.key).tickets)
            self._locks.release(request.key, keep=self._locks.held(request.key))
            parked = None
        if parked is not None and request.ask in _RUNNING:
            if not request.is_repeat_of(parked.request):
                raise BranchConflict(f"another request for branch {request.key} is waiting for a row lock")
            parked.tickets.append(ticket)
            return
        answer = self._answer(request, self._now)
        if answer is None:
            self._parked[request.key] = Parked(request, self._now, [ticket])
        else:
            self._done.append((ticket, answer))

    def _has_waiter(self, parked: Parked) -> bool:
        return any(map(self._is_awaited, parked.tickets))

    def _resume(self) -> None:
        """Try those parked requests again that got their rows, or whose branch has changed meanwhile."""
        while self._parked and (ready := self._locks.take_granted() + self._touched):
            self._touched = []
            for key in ready:
                waiting = self._parked.pop(key, None)
                if waiting is not None:
                    self._retry(waiting)
        self._touched.clear()

    def _retry(self, waiting: Parked) -> None:
        answer = self._answer(waiting.request, waiting.since)
        if answer is None:
            self._parked[waiting.request.key] = waiting
        else:
            self._done.extend((ticket, answer) for ticket in waiting.tickets)

    def _expire(self) -> None:
        for late in self._locks.expire(self._now, self._patience_again):
            waiting = self._parked.pop(late.owner)
            if not self._has_waiter(waiting):
                self._done.extend((gone, None) for gone in waiting.tickets)
                continue
            reason = f"{CONFLICT}{late.row} stayed locked by {late.holder} for {self._now - waiting.since:.2g} s"
            branch = self._abort(self._branch(late.owner), waiting.request.ask, reason, waiting.request.binding)
            self._measures.conflict()
            self._done.extend((ticket, branch.answer()) for ticket in waiting.tickets)
        overdue = [key for key, opened in self._open.items() if opened.deadline <= self._now]
        for key in overdue:
            reason = f"not prepared within {self._limits.unprepared_limit_s:g} s of its first work"
            self._abort(self._branch(key), Ask.EXPIRE, reason)
        self._resume()

    # One branch: judge, then do.

    def _branch(self, key: BranchKey) -> Branch:
        if key in self._open:
            return Branch(key, BranchState.WORKING)
        return self._store.load(key) or Branch(key)

    def _answer(self, request: BranchRequest, since: float) -> Answer | None:
        """Do what the table says; None if the branch must wait for a row. Raises BranchConflict."""
        branch = self._branch(request.key)
        rule = judge(branch.state, request.ask)
        if request.ask in _VOTING and branch.is_bound_to_another(request.binding):
            raise BranchConflict(f"branch {branch.key} is bound to another action or body (a gid used twice?)")
        match rule.verdict:
            case Verdict.RUN:
                return self._run(branch, request, since)
            case Verdict.REPEAT:
                return branch.answer()
            case Verdict.REFUSE:
                return branch.answer(rule.why)
            case Verdict.CONTRADICTION:
                _LOG.error("branch.contradiction", branch=str(branch.key), state=branch.state, why=rule.why)
                return branch.answer(rule.why)
            case Verdict.EMPTY:
                reason = request.reason or "aborted before it was prepared"
                return self._abort(branch, request.ask, reason).answer()

    def _run(self, branch: Branch, request: BranchRequest, since: float) -> Answer | None:
        if request.ask is Ask.COMMIT:
            return self._commit(branch)
        if request.ask not in _RUNNING:
            return self._abort(branch, request.ask, request.reason or "aborted by its coordinator").answer()
        if branch.state is BranchState.UNKNOWN and self._is_full():
            self._locks.release(branch.key)  # it may have waited for rows, and been granted them
            return Answer(BranchState.UNKNOWN, "too many branches are open; come again", retry=True)
        try:
            if request.ask is Ask.WORK:
                return self._work(branch, request, since)
            return self._vote(branch, request, since)
        except Reject as no:
            return self._abort(branch, request.ask, no.reason, request.binding).answer()

    def _is_full(self) -> bool:
        return len(self._open) + len(self._prepared) >= self._limits.branches_max

    def _vote(self, branch: Branch, request: BranchRequest, since: float) -> Answer | None:
        """PREPARE and COMMIT_ONE_PHASE: the branch's own say. Raises Reject for a no."""
        ran = self._ran_for_vote(branch, request, since)
        if ran is None:
            return None
        if request.ask is Ask.COMMIT_ONE_PHASE:
            self._apply_own(ran.effects)
            state = BranchState.COMMITTED
        else:
            state = BranchState.PREPARED if ran.effects else BranchState.READ_ONLY
        return self._settle(branch, request.ask, state, ran.effects, request.binding, result=ran.result).answer()

    def _ran_for_vote(self, branch: Branch, request: BranchRequest, since: float) -> Ran | None:
        """What the branch gave and would change, with its rows locked; None if it must wait. Raises Reject."""
        opened = self._open.get(branch.key)
        if request.call is None:
            if opened is None:
                raise Reject("no work is open: it never came, ran out of time, or was lost in a restart")
            if request.works is not None and opened.works != request.works:
                what = "lost" if opened.works < request.works else "unknown"
                raise Reject(f"{what} work: {opened.works} of {request.works}")
            return Ran(None, opened.effects)
        if opened is not None:
            raise BranchConflict(f"branch {branch.key} has open work, which is prepared without an action")
        ran = self._ran(request.call, NOTHING, OpenBranch(branch.key))
        return ran if self._lock(branch.key, ran.effects.rows, since) else None

    def _work(self, branch: Branch, request: BranchRequest, since: float) -> Answer | None:
        call = request.call
        if call is None:
            raise InvariantError("work comes with a call")
        opened = self._open.get(branch.key) or Open(self._now + self._limits.unprepared_limit_s)
        if request.seq < opened.works:
            return self._repeat_work(branch, opened, request)
        if request.seq > opened.works:
            raise Reject(f"{request.seq - opened.works} earlier work request(s) of this branch were lost")
        inside = OpenBranch(branch.key, opened.numbers)
        ran = self._ran(call, opened.effects, inside)
        if not self._lock(branch.key, ran.effects.rows, since):
            return None
        opened.effects, opened.works, opened.numbers = ran.effects, opened.works + 1, inside.taken
        opened.last_digest, opened.last_result = call.digest, ran.result
        self._open[branch.key] = opened
        return Answer(branch.move(Ask.WORK, BranchState.WORKING, at_ms=self._wall_ms).state, result=ran.result)

    def _repeat_work(self, branch: Branch, opened: Open, request: BranchRequest) -> Answer:
        if request.seq != opened.works - 1 or request.digest != opened.last_digest:
            raise BranchConflict(f"work {request.seq} of branch {branch.key} was another action or body before")
        return Answer(branch.state, result=opened.last_result)

    def _ran(self, call: Call, base: Effects, branch: OpenBranch) -> Ran:
        """Run an action. Raises Reject, also in the place of whatever else an action may raise."""
        try:
            ran = self._store.run(call, base.intent, branch)
            checked(ran.result)
        except (Reject, ResourceFailed, InvariantError):
            raise
        except Exception as error:
            raise no_of(call, error) from error
        return ran

    def _read(self, call: Call) -> Any:
        try:
            ran = self._store.run(call, b"")
        except ParticipantError:
            raise
        except Exception as error:
            _LOG.exception("view.failed", view=call.name)
            raise ActionError(f"{call.name!r} failed with {type(error).__name__}") from error
        if ran.effects:
            raise ActionError(f"{call.name!r} may only read, but it wrote")
        return ran.result

    def _lock(self, key: BranchKey, rows: frozenset[Row], since: float) -> bool:
        """Lock `rows`, or line up for them; a branch without earlier work holds nothing while it waits.

        Raises Reject if the wait could not end: a branch of the same transaction holds a row until this one votes.
        """
        deadline = since + self._limits.lock_wait_s
        for row, holder in self._locks.blockers(key, rows):
            if holder.gid == key.gid:
                raise Reject(
                    f"{row} is changed by branch {holder.branch} of the same transaction; make them one branch"
                )
            deadline = min(deadline, self._deadline(key, holder, since))
        if self._locks.acquire(key, rows, deadline):
            return True
        if key not in self._open and self._locks.held(key):
            self._locks.release(key)
            return self._locks.acquire(key, rows, deadline)
        return False

    def _deadline(self, key: BranchKey, holder: BranchKey | None, since: float) -> float:
        """Until when `key` waits for a row that `holder` has."""
        deadline = since + self._limits.lock_wait_s
        if holder is not None and holder < key:
            held_since = max(since, self._prepared.get(holder, 0.0))
            deadline = min(deadline, held_since + self._limits.deadlock_wait_s)
        return deadline

    def _patience_again(self, late: Expired) -> float:
        """The row may be another's by now."""
        return self._deadline(late.owner, late.holder, self._parked[late.owner].since)

    def _commit(self, branch: Branch) -> Answer:
        """The decision of others: a promise to keep."""
        try:
            self._store.apply(self._store.intent(branch.key))
        except IntentConflict as error:
            _LOG.error("branch.conflict", branch=str(branch.key), why=str(error))
            return Answer(branch.state, str(error), retry=True)
        return self._settle(branch, Ask.COMMIT, BranchState.COMMITTED, NOTHING).answer()

    def _apply_own(self, effects: Effects) -> None:
        try:
            self._store.apply(effects.intent)
        except IntentConflict as error:
            raise Reject(str(error)) from error

    def _abort(self, branch: Branch, ask: Ask, reason: str, digest: bytes = b"") -> Branch:
        return self._settle(branch, ask, BranchState.ABORTED, NOTHING, digest, reason=reason)

    def _settle(
        self,
        branch: Branch,
        ask: Ask,
        to: BranchState,
        effects: Effects,
        digest: bytes = b"",
        *,
        reason: str = "",
        result: Any = None,
    ) -> Branch:
        """The one place where a branch's row changes, and what is held for it with the row."""
        moved = branch.move(ask, to, at_ms=self._wall_ms, digest=digest, reason=reason).giving(result)
        self._open.pop(branch.key, None)
        if to is BranchState.PREPARED:
            self._store.save(moved, effects)
            self._prepared[branch.key] = self._now
            self._locks.release(branch.key, keep=effects.rows)
            self._locks.hasten(branch.key, self._now + self._limits.deadlock_wait_s)
        else:
            self._store.save(moved)
            if (since := self._prepared.pop(branch.key, None)) is not None:
                self._measures.decided(self._now - since)
            self._locks.release(branch.key)
        self._touched.append(branch.key)
        return moved
