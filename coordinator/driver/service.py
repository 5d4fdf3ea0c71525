"""What a caller, a participant or an operator can ask of this replica, without HTTP.

Owns: who may be answered from what. Reads stand behind a barrier of the log, so that they reflect every answer
given before; writes need the leader. Must never do: tell an outcome that the record does not hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import cast

from coordinator.driver.intake import plan_of
from coordinator.driver.supervisor import Supervisor
from coordinator.driver.waiters import Waiters
from coordinator.errors import Contradiction, GidReused, NoLeader, NotFound, NotLeader, Overloaded, Undetermined
from coordinator.ledger.commands import BY_INQUIRY, BY_OPERATOR, Command, Decide, encode, stamped
from coordinator.ledger.records import Decision, TransactionRecord
from coordinator.ledger.table import Accepted, Ledger, Page, PageQuery, Rejected, Result
from coordinator.ports import Participants
from coordinator.wire import InquiryRequest, ResolveRequest, TransactionRequest, new_gid
from raftlog.port import Applied, Outcome, Refusal, Refused, ReplicatedLog, Unknown

__all__ = ["Transactions"]

RETRY_AFTER_S = 1.0
GID_RANDOM_BITS = 74


class Transactions:
    """The use cases. Every method may raise a RequestError; those that write may raise NotLeader."""

    def __init__(
        self,
        log: ReplicatedLog,
        ledger: Ledger,
        supervisor: Supervisor,
        waiters: Waiters,
        participants: Participants,
        *,
        wall_ms: Callable[[], int],
        chance: Random,
        propose_timeout_s: float = 10.0,
    ) -> None:
        self._replicated = log
        self._ledger = ledger
        self._supervisor = supervisor
        self._waiters = waiters
        self._participants = participants
        self._wall_ms = wall_ms
        self._chance = chance
        self._propose_timeout_s = propose_timeout_s

    async def begin(self, request: TransactionRequest, wait_s: float) -> tuple[str, TransactionRecord | None]:
        """Begin a transaction, or attach to the one that this request began before; wait for the decision.

        Returns: the gid, and the record as far as this replica knows it after `wait_s` at most.
        Raises: Invalid, GidReused, Overloaded, NotLeader.
        """
        self._supervisor.require_leading()
        gid = request.gid or new_gid(self._wall_ms(), self._chance.getrandbits(GID_RANDOM_BITS))
        plan = await plan_of(gid, request, self._participants)
        self._supervisor.require_leading()
        under_way = self._supervisor.plan_of(gid)
        self._refuse_other(gid, plan.digest, self._ledger.get(gid), None if under_way is None else under_way.digest)
        if self._ledger.get(gid) is None and under_way is None:
            self._supervisor.drive(plan)
        try:
            record = await self._waiters.decided(gid, wait_s)
        except Overloaded:  # it would say that nothing was begun
            record = self._ledger.get(gid)
        self._refuse_other(gid, plan.digest, record, None)
        return gid, record

    async def transaction(self, gid: str) -> TransactionRecord:
        """The record. Raises NotFound."""
        await self._barrier()
        record = self._ledger.get(gid)
        if record is None:
            raise NotFound(f"no transaction {gid!r} is recorded")
        return record

    async def outcome(self, gid: str, wait_s: float) -> TransactionRecord:
        """The record, once it is decided or `wait_s` have passed. Raises NotFound at once."""
        record = await self.transaction(gid)
        if record.decision is None:
            record = await self._waiters.decided(gid, wait_s) or record
        return record

    async def inquire(self, gid: str, inquiry: InquiryRequest) -> TransactionRecord | None:
        """A participant in doubt asks. None: the branch is no part of the transaction, so it is to be rolled back.

        A transaction that nobody recorded is aborted first, durably, so that this answer stays true.
        Raises: Contradiction if the branch belongs to another participant.
        """
        await self._barrier()
        record = self._ledger.get(gid)
        if record is None:
            result = await self._propose(Decide(gid, Decision.ABORT, BY_INQUIRY, 0, reason="asked for, never begun"))
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
        """An operator decides. Raises: NotFound, Contradiction."""
        by = BY_OPERATOR + request.operator
        result = await self._propose(Decide(gid, request.decision, by, 0, reason=request.reason))
        match result:
            case Accepted(record=TransactionRecord() as record):
                return record
            case Rejected(record=TransactionRecord() as record):
                raise Contradiction(_why_not(record, request.decision))
        raise NotFound(f"no transaction {gid!r} is recorded")

    async def page(self, query: PageQuery) -> Page:
        """Records, newest first; see `Ledger.page`."""
        await self._barrier()
        return self._ledger.page(query)

    def _refuse_other(self, gid: str, digest: bytes, record: TransactionRecord | None, under_way: bytes | None) -> None:
        """A record without branches was never begun: its answer is *aborted*, whatever was asked for."""
        known = record.digest if record is not None and not record.tombstone else under_way
        if known is not None and known != digest:
            raise GidReused(f"{gid} is a transaction with other branches; use a new gid")

    async def _barrier(self) -> None:
        match await self._in_time(self._replicated.barrier()):
            case Applied():
                return
            case Refused(reason=reason):
                raise NoLeader(f"the log cannot be read now ({reason.value})", retry_after_s=RETRY_AFTER_S)
            case Unknown(reason=why):
                raise Undetermined(f"the log cannot be read now ({why})", retry_after_s=RETRY_AFTER_S)

    async def _propose(self, command: Command) -> Result:
        self._supervisor.require_leading()
        match await self._in_time(self._replicated.propose(encode(stamped(command, self._wall_ms())))):
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


def _why_not(record: TransactionRecord, wanted: Decision) -> str:
    if record.decision is not None:
        return f"{record.gid} was decided before: {record.decision.value}, by {record.decided_by}"
    if wanted is Decision.COMMIT:
        return f"{record.gid} is undecided, and only the votes of its branches can commit it; it can be aborted"
    return f"{record.gid} is on the {record.path.value} path, where only its participant can say that it ended as abort"
