"""What a caller, a participant or an operator can ask of this replica, without HTTP.

Owns: who may be answered from what. Reads stand behind a barrier of the log, so that they reflect every answer
given before; writes need the leader. Must never do: tell an outcome that the record neither holds nor implies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

import structlog

from coordinator.driver.examination import Examination, examine
from coordinator.driver.intake import branches_of, check_deadline, check_notify, digest_of, path_of, report_of
from coordinator.driver.listening import Listener
from coordinator.driver.notices import SILENT
from coordinator.driver.scribe import Scribe
from coordinator.driver.supervisor import Supervisor
from coordinator.driver.waiters import Known, Waiters
from coordinator.errors import (
    RETRY_AFTER_S,
    Contradiction,
    GidReused,
    NotFound,
    Overloaded,
    RequestError,
    Undetermined,
    WrongToken,
)
from coordinator.facts import Expiry
from coordinator.ledger.commands import BY_EXPIRY, BY_INQUIRY, BY_OPERATOR, Decide, DropNotice, Heard, Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Phase, TransactionRecord
from coordinator.ledger.table import Accepted, Ledger, Page, PageQuery, Rejected
from coordinator.ports import Notifier, Participants
from coordinator.protocols.letters import dead_letters, has_taken, wanted
from coordinator.protocols.reports import Misreport, Misreported, judge_report
from coordinator.protocols.two_phase import Plan, clean
from coordinator.wire import GID_RANDOM_BITS, InquiryRequest, ResolveRequest, TransactionRequest, new_gid
from coordinator.wire_queries import DropNoticeRequest
from coordinator.wire_steps import LettersRequest, ReportRequest
from participant.traceparent import read_trace

__all__ = ["Begun", "Transactions"]

_log = structlog.get_logger(__name__)

STAGED_PATIENCE_S = 2.0  # how long a reader waits for a decision that may have been told before


@dataclass(frozen=True, slots=True)
class Begun:
    """A transaction that was begun here for a request, or before."""

    gid: str
    digest: bytes
    transactions: Transactions

    def known(self) -> Known:
        """What may be told of it now.

        Raises: GidReused if another request turns out to have begun the gid; Undetermined if its outcome may have
        been told already, but is not known here.
        """
        return self.transactions.known(self.gid, self.digest)

    def when_decided(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See `Waiters.when_decided`. Raises: Overloaded."""
        return self.transactions.when_decided(self.gid, wake)


class Transactions:
    """The use cases. Every method may raise a RequestError; those that write may raise NotLeader."""

    def __init__(
        self,
        scribe: Scribe,
        ledger: Ledger,
        supervisor: Supervisor,
        waiters: Waiters,
        participants: Participants,
        *,
        wall_ms: Callable[[], int],
        chance: Random,
        notifier: Notifier = SILENT,
        key_id: str = "",
    ) -> None:
        """`key_id`: of the secret that proves decisions to participants; "" without one."""
        self._scribe = scribe
        self._ledger = ledger
        self._supervisor = supervisor
        self._waiters = waiters
        self._participants = participants
        self._wall_ms = wall_ms
        self._chance = chance
        self._notifier = notifier
        self._key_id = key_id

    def require_leading(self) -> None:
        """Raises NotLeader unless this replica leads."""
        self._supervisor.require_leading()

    async def begin(self, request: TransactionRequest, wait_s: float) -> Known:
        """Begin a transaction, or attach to the one that this request began before; wait for the decision.

        Returns: what this replica knows after `wait_s` at most.
        Raises: Invalid, GidReused, Overloaded, Unreachable, Undetermined, NotLeader.
        """
        begun = await self.start(request)
        with suppress(Overloaded):  # it would say that nothing was begun
            await self._waiters.decided(begun.gid, wait_s)
        return begun.known()

    async def start(self, request: TransactionRequest) -> Begun:
        """As `begin`, but without waiting. Raises: Invalid, GidReused, Overloaded, Unreachable, NotLeader."""
        self._supervisor.require_leading()
        gid = request.gid or new_gid(self._wall_ms(), self._chance.getrandbits(GID_RANDOM_BITS))
        branches = branches_of(request.branches, self._participants, self._chance)
        check_deadline(request.deadline_ms, branches)
        key, notify = request.key or "", request.notify or ""
        check_notify(notify, self._notifier)
        digest = digest_of(branches, key, notify, request.protocol)
        if not self._is_begun(gid, digest):
            path = await path_of(branches, self._participants, request.protocol, self._key_id)
            self._supervisor.require_leading()
            if not self._is_begun(gid, digest):
                asked = (read_trace(request.trace), key, notify)
                self._supervisor.drive(Plan(gid, digest, path, branches, request.deadline_ms, *asked))
        return Begun(gid, digest, self)

    def _is_begun(self, gid: str, digest: bytes) -> bool:
        """Whether this request was begun before, here or by an earlier leader. Raises GidReused if another one was."""
        record, under_way = self._ledger.get(gid), self._supervisor.plan_of(gid)
        _refuse_other(gid, digest, record, None if under_way is None else under_way.digest)
        return record is not None or under_way is not None

    async def transaction(self, gid: str) -> TransactionRecord:
        """The record. Raises NotFound; NotLeader, see `_undecided`."""
        await self._scribe.barrier()
        record = self._ledger.get(gid)
        if record is None:
            raise NotFound(f"no transaction {gid!r} is recorded")
        return record if record.decision is not None else await self._undecided(record)

    @asynccontextmanager
    async def listening(self, gid: str, revision: int) -> AsyncIterator[Listener]:
        """What becomes of it, from now on; beginning with the record as it is, if that is newer than `revision`.

        Raises NotFound at once; NotLeader, see `_undecided`; Overloaded.
        """
        listener = Listener(revision)
        leave = self._waiters.when_changed(gid, listener.hear)
        try:
            listener.begin(await self.transaction(gid))
            yield listener
        finally:
            leave()

    async def examine(self, gid: str) -> Examination:
        """What the participants hold of it now; changes nothing. It says no outcome that the record does not hold.

        Raises: NotFound.
        """
        await self._scribe.barrier()
        record = self._ledger.get(gid)
        if record is None:
            raise NotFound(f"no transaction {gid!r} is recorded")
        return await examine(record, self._participants)

    async def outcome(self, gid: str, wait_s: float) -> Known:
        """What is known of it, once it is decided or `wait_s` have passed.

        Raises NotFound at once; NotLeader, see `_undecided`.
        """
        record = await self.transaction(gid)
        return Known.of(record) if record.decision is not None else await self._waiters.decided(gid, wait_s)

    def known(self, gid: str, digest: bytes) -> Known:
        """See `Begun.known`."""
        record = self._ledger.get(gid)
        _refuse_other(gid, digest, record, None)
        known = self._waiters.known(gid)
        if known.decision is None and record is not None and self._may_have_been_told(record):
            raise _undetermined(gid)
        return known

    def when_decided(self, gid: str, wake: Callable[[], None]) -> Callable[[], None]:
        """See `Waiters.when_decided`. Raises: Overloaded."""
        return self._waiters.when_decided(gid, wake)

    def _may_have_been_told(self, record: TransactionRecord) -> bool:
        """Whether somebody may have heard the outcome of an undecided record, and this replica does not know it.

        On some paths, callers hear the outcome before the record holds it. Only the leader that began such a
        transaction knows what it has told them.
        """
        return record.path.is_implied and self._supervisor.plan_of(record.gid) is None

    async def _undecided(self, record: TransactionRecord) -> TransactionRecord:
        """The record of an undecided transaction, unless somebody may have heard its outcome already.

        Then whoever leads waits until it is decided and recorded. Raises: NotLeader, Undetermined.
        """
        if not record.path.is_implied:
            return record
        self._supervisor.require_leading()
        if not self._may_have_been_told(record) and self._waiters.known(record.gid).decision is None:
            return record
        latest = await self._waiters.recorded(record.gid, STAGED_PATIENCE_S)
        if latest is None or latest.decision is None:
            raise _undetermined(record.gid)
        return latest

    async def inquire(self, gid: str, inquiry: InquiryRequest) -> TransactionRecord | None:
        """A participant in doubt asks. None: the branch is no part of the transaction, so it is to be rolled back.

        A transaction that nobody recorded is aborted first, durably, so that this answer stays true.
        Raises: Contradiction if the branch belongs to another participant.
        """
        await self._scribe.barrier()
        record = self._ledger.get(gid)
        if record is None:
            result = await self._scribe.propose(
                Decide(gid, Decision.ABORT, BY_INQUIRY, 0, reason="asked for, never begun")
            )
            record = result.record
            if record is None:
                raise Undetermined(f"{gid} was forgotten meanwhile; ask again", retry_after_s=RETRY_AFTER_S)
        branch = next((b for b in record.branches if b.branch == inquiry.branch), None)
        if branch is not None and branch.participant != inquiry.participant:
            raise Contradiction(
                f"branch {branch.branch} of {gid} belongs to {branch.participant}, not to {inquiry.participant}"
            )
        return record if branch is not None or record.tombstone else None

    async def resolve(self, gid: str, request: ResolveRequest) -> TransactionRecord:
        """An operator decides.

        Off the classic path the votes decide, and may have been told already. There, to abort means not to wait for
        them any longer: whoever has not voted is prevented, and what that brings is the decision.
        Raises: NotFound, Contradiction, Undetermined.
        """
        record = self._ledger.get(gid)
        if request.decision is Decision.ABORT and record is not None and record.phase is Phase.PRECOMMITTING:
            raise Contradiction(f"{gid} is precommitting: its participants may have committed it already")
        if request.decision is Decision.ABORT and record is not None and record.path is not Path.CLASSIC:
            self._supervisor.expire(gid, Expiry(BY_EXPIRY + request.operator, request.reason))
            return _aborted(gid, await self._waiters.recorded(gid, STAGED_PATIENCE_S))
        by = BY_OPERATOR + request.operator
        result = await self._scribe.propose(Decide(gid, request.decision, by, 0, reason=request.reason))
        match result:
            case Accepted(record=TransactionRecord() as record):
                return record
            case Rejected(record=TransactionRecord() as record):
                raise Contradiction(_why_not(record, request.decision))
        raise NotFound(f"no transaction {gid!r} is recorded")

    async def submit(self, gid: str, wait_s: float) -> Known:
        """The sender of a message says that its source is done: find out, and wait for the decision.

        Raises: NotFound; Contradiction, if it has no source.
        """
        self._supervisor.require_leading()
        await self._scribe.barrier()
        record = self._ledger.get(gid)
        if record is None:
            raise NotFound(f"no transaction {gid!r} is recorded")
        if not any(branch.step is not None and branch.step.mode is Mode.SOURCE for branch in record.branches):
            raise Contradiction(f"{gid} has no source, so nobody submits it")
        self._supervisor.submit(gid)
        return await self._waiters.decided(gid, wait_s)

    async def report(self, gid: str, name: str, request: ReportRequest) -> BranchRecord:
        """Whoever has done the work of a step says how it has ended. The same again is harmless, at any time.

        Returns: the branch, with the report in it.
        Raises: Invalid, NotFound, WrongToken, Contradiction if it comes too late, Undetermined.
        """
        report, word = report_of(request)
        self._supervisor.require_leading()
        await self._scribe.barrier()
        record = self._ledger.get(gid)
        while record is not None:
            match judge_report(record, name, request.token, report, word):
                case None:
                    return next(branch for branch in record.branches if branch.branch == name)
                case Misreported() as wrong:
                    raise _misreported(wrong)
                case Progress() as progress:
                    record = (await self._scribe.propose(progress)).record
        raise NotFound(f"no transaction {gid!r} is recorded")

    async def letters(self, gid: str, heard: Heard, request: LettersRequest) -> TransactionRecord:
        """An operator has the dead letters of a transaction REDELIVERED, or DROPPED.

        Raises: NotFound; Contradiction, if there are none; Undetermined.
        """
        record = await self.transaction(gid)
        word = f"{heard} by {request.operator}: {request.reason}"
        dead = {branch.branch: branch for branch in dead_letters(record)}
        if not dead or not dead.keys() >= set(request.branches):
            missing = ", ".join(name for name in request.branches if name not in dead)
            raise Contradiction(f"{gid} has no dead letters" + (f" {missing}" if missing else ""))
        for name in request.branches or dead:
            note = wanted(record, dead[name], heard, word)
            match await self._scribe.propose(note):
                case Accepted(record=TransactionRecord() as changed) if has_taken(changed, note):
                    record = changed
                case Accepted():
                    raise Contradiction(f"{gid}: somebody else has decided about {name} meanwhile")
                case _:
                    raise Contradiction(f"{gid} has ended meanwhile")
        return record

    async def drop_notice(self, gid: str, request: DropNoticeRequest) -> TransactionRecord:
        """An operator has the application told no more of a decided transaction.

        The same again is harmless; it finds nothing if the transaction was past its retention. So it is written into
        the log of this process before it is asked for: whether it happened or not, who wanted it can be found there.

        Raises: NotFound; Contradiction, if it is to be told nothing, or somebody else has said so; Undetermined.
        """
        word = clean(f"dropped by {request.operator}: {request.reason}")
        _log.warning("notice.drop_asked", gid=gid, word=word)
        match await self._scribe.propose(DropNotice(gid, word)):
            case Accepted(record=TransactionRecord() as record) if record.notice_dropped == word:
                _log.warning("notice.dropped", gid=gid, word=word)
                return record
            case Accepted(record=TransactionRecord() as record):
                raise Contradiction(f"{gid}: what its application is to be told was {record.notice_dropped}")
            case Rejected(record=TransactionRecord() as record):
                raise Contradiction(_why_no_notice(record))
        raise NotFound(f"no transaction {gid!r} is recorded")

    async def page(self, query: PageQuery) -> Page:
        """Records, newest first; see `Ledger.page`."""
        await self._scribe.barrier()
        return self._ledger.page(query)


def _undetermined(gid: str) -> Undetermined:
    why = f"{gid} may have been decided, and its participants are being asked; ask again"
    return Undetermined(why, retry_after_s=RETRY_AFTER_S)


def _aborted(gid: str, record: TransactionRecord | None) -> TransactionRecord:
    """What came of an operator's abort. Raises: NotFound, Contradiction, Undetermined."""
    if record is None:
        raise NotFound(f"no transaction {gid!r} is recorded")
    if record.decision is None:
        why = f"{gid} is being aborted, if its participants have not voted yet; not all of them can be reached"
        raise Undetermined(why, retry_after_s=RETRY_AFTER_S)
    if record.decision is Decision.COMMIT:
        raise Contradiction(_why_not(record, Decision.ABORT))
    return record


def _refuse_other(gid: str, digest: bytes, record: TransactionRecord | None, under_way: bytes | None) -> None:
    """A record without branches was never begun: its answer is *aborted*, whatever was asked for."""
    known = record.digest if record is not None and not record.tombstone else under_way
    if known is not None and known != digest:
        raise GidReused(f"{gid} is a transaction with other branches, or another key or notify; use a new gid")


def _why_no_notice(record: TransactionRecord) -> str:
    if not record.notify:
        return f"{record.gid} was begun without `notify`: no application is told of it"
    if record.decision is None:
        return f"{record.gid} is undecided: its application is to be told nothing yet"
    return f"{record.gid} has ended, and its application has been told so"


def _misreported(wrong: Misreported) -> RequestError:
    match wrong.kind:
        case Misreport.NO_STEP:
            return NotFound(wrong.why)
        case Misreport.WRONG_TOKEN:
            return WrongToken(wrong.why)
        case Misreport.NOT_REPORTED | Misreport.TOO_LATE:
            return Contradiction(wrong.why)


def _why_not(record: TransactionRecord, wanted: Decision) -> str:
    if record.decision is not None:
        return f"{record.gid} was decided before: {record.decision.value}, by {record.decided_by}"
    if wanted is Decision.COMMIT:
        return f"{record.gid} is undecided, and only the votes of its branches can commit it; it can be aborted"
    return f"{record.gid} has just begun on the {record.path.value} path; try again"
