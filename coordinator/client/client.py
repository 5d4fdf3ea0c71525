"""The client of `commitd` for asyncio: commit several services together, and hear honestly how it ended.

    async with Client(["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]) as client:
        ended = await client.commit([
            Branch("bank-a", "debit", {"account": "bob", "amount": 10}),
            Branch("bank-b", "credit", {"account": "smith", "amount": 10}),
        ])
        match ended:
            case Committed(gid): ...
            case Aborted(gid, reason, branch): ...

Transactions of one shard that are committed at the same time travel in one request; none waits for another. A
transaction keeps its gid through every retry, so that asking again is harmless. What nobody could say in time is
`OutcomeUnknown`, never an abort.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from random import Random, SystemRandom
from types import TracebackType
from typing import Any, Self, Unpack

from coordinator.client.asking import ATTEMPT_MIN_S, Patience, honest
from coordinator.client.lane import Lane
from coordinator.client.message import Message
from coordinator.client.outcomes import Aborted, Branch, Committed, Deciding, Ended, Named
from coordinator.client.policy import Pauses, pause_s
from coordinator.client.questions import Questions, path_of
from coordinator.client.replicas import Replicas, Reply
from coordinator.client.saga import Saga, Tcc
from coordinator.client.session import Lost, Session
from coordinator.client.shards import Shard, Shards
from coordinator.client.transaction import InteractiveTransaction
from coordinator.client.workflow import Run, Workflow
from coordinator.errors import Contradiction, NotFound, OutcomeUnknown, Unavailable
from coordinator.ledger.records import Decision
from coordinator.shards import draw_gid, shard_of
from coordinator.wire import (
    DEADLINE_DEFAULT_MS,
    GID_RANDOM_BITS,
    BranchView,
    CommitProtocol,
    Outcome,
    OutcomeView,
    TransactionView,
    handle_of,
    new_gid,
    parse_name,
)
from coordinator.wire_base import DEADLINE_MAX_MS
from participant.tracing import current

__all__ = ["Client"]

CONFLICT_ATTEMPTS_MAX = 5
PAUSES = Pauses()


class Client(Questions):
    """Talks to the replicas at `urls`; one of them is enough, the others are found.

    `timeout_s`: how long a call tries before it gives up; `attempt_timeout_s`: how long one replica may take.
    `chance` is for back-off and gids. Without `routed`, only the replicas at `urls` are asked, as if their shard were
    all of the cluster. A transaction is in the trace that is current where it is begun (`participant.tracing`), if the
    cluster's map says that it may name one. What begins one also takes `key` and `notify` (`outcomes.Named`).
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float = 30.0,
        attempt_timeout_s: float = 3.0,
        pauses: Pauses = PAUSES,
        chance: Random | None = None,
        routed: bool = True,
    ) -> None:
        self._session = self._new_session()
        self._chance = chance or SystemRandom()
        self._patience = Patience(timeout_s, attempt_timeout_s, pauses, self._chance)
        super().__init__(Shards(urls, self._session, self._lane_to, routed=routed), self._patience)

    def _new_session(self) -> Session:
        """What requests go through."""
        return Session()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._shards.close()
        await self._session.close()

    def new_gid(self) -> str:
        """A gid for a transaction of this client."""
        return self._gid_of(time.time_ns() // 1_000_000)

    async def gid_beside(self, order_key: str) -> str:
        """A gid for a transaction with a message of this key, whose order one shard keeps. Raises: Unavailable."""
        shards = len(await self._asking().found(self._shards.all))
        return draw_gid(shard_of(order_key, shards), shards, self.new_gid)

    def _gid_of(self, at_ms: int) -> str:
        return new_gid(at_ms, self._chance.getrandbits(GID_RANDOM_BITS))

    async def commit(
        self,
        branches: Iterable[Branch],
        *,
        gid: str | None = None,
        deadline_ms: int = DEADLINE_DEFAULT_MS,
        timeout_s: float | None = None,
        **named: Unpack[Named],
    ) -> Ended:
        """Commit all branches or none, and wait for the decision.

        `deadline_ms`: how long the coordinator collects votes; `timeout_s`: how long this call waits. Without a `gid`,
        a transaction without steps or `notify` that was aborted for a conflict is tried again, as a new one that is as
        old as the first.
        Raises: OutcomeUnknown; Unavailable, if nothing was begun; RequestError, if it was refused.
        """
        forms = [branch.to_map() for branch in branches]
        is_once = gid is not None or named.get("notify") is not None  # each attempt would be told of
        if is_once or any("step" in form for form in forms):  # what is aborted may not be undone yet
            return await self._commit(_body(gid or self.new_gid(), forms, deadline_ms, named), timeout_s)
        began_ms = time.time_ns() // 1_000_000
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + (self._patience.timeout_s if timeout_s is None else timeout_s)
        for attempt in range(1, CONFLICT_ATTEMPTS_MAX + 1):
            body = _body(self._gid_of(began_ms), forms, deadline_ms, named)
            ended = await self._commit(body, ends_at - loop.time())
            pause = pause_s(self._patience.pauses, attempt, self._chance.random())
            is_late = loop.time() + pause + ATTEMPT_MIN_S > ends_at
            if isinstance(ended, Committed) or not ended.is_conflict or is_late or attempt == CONFLICT_ATTEMPTS_MAX:
                break
            await asyncio.sleep(pause)
        return ended

    async def _commit(self, body: dict[str, Any], timeout_s: float | None) -> Ended:
        gid = body["gid"]
        asking = self.about(gid, timeout_s)
        trace = current()
        traced = {**body, "trace": trace} if trace else body

        async def attempt(shard: Shard, attempt_timeout_s: float) -> Reply:
            try:
                async with asyncio.timeout(attempt_timeout_s):
                    return await shard.lane.send(traced if self._shards.takes_traces else body)
            except TimeoutError as error:
                raise Lost(f"no answer within {attempt_timeout_s:.1f} s") from error

        with honest(asking, gid):
            while True:
                ended = _ended(await asking.insist(attempt, OutcomeView))
                if not isinstance(ended, Deciding):
                    return ended
                asking.ambiguous = True
                await asking.pause("it is still being decided")

    def transaction(
        self, *, deadline_ms: int = DEADLINE_DEFAULT_MS, call_timeout_s: float = 10.0, **named: Unpack[Named]
    ) -> InteractiveTransaction:
        """An interactive transaction, to be used with `async with`; see `coordinator.client.transaction`."""
        return InteractiveTransaction(
            self.new_gid(),
            self,
            self._session,
            self._patience,
            deadline_ms=deadline_ms,
            call_timeout_s=call_timeout_s,
            named=named,
        )

    def saga(self, *, deadline_ms: int = DEADLINE_MAX_MS, **named: Unpack[Named]) -> Saga:
        """A saga, to be declared and run; see `coordinator.client.saga`. `deadline_ms`: how long until it is given up
        and undone, unless it is decided by then."""
        return Saga(self, deadline_ms, **named)

    def tcc(self, *, deadline_ms: int = DEADLINE_DEFAULT_MS, **named: Unpack[Named]) -> Tcc:
        """Reservations, to be declared and run; see `coordinator.client.saga`."""
        return Tcc(self, deadline_ms, **named)

    def message(self, *, deadline_ms: int = DEADLINE_DEFAULT_MS, **named: Unpack[Named]) -> Message:
        """A local transaction with messages, to be declared and run; see `coordinator.client.message`."""
        return Message(self, deadline_ms, **named)

    async def start(
        self,
        workflow: Workflow | str,
        given: Any = None,
        *,
        gid: str | None = None,
        deadline_ms: int = DEADLINE_MAX_MS,
        timeout_s: float | None = None,
        key: str | None = None,
        notify: str | None = None,
    ) -> Run:
        """Begin a workflow (`coordinator.client.workflow`), and wait until it is recorded. Some worker runs its code.

        The same again, with a `gid`, finds the one that was begun. Raises: OutcomeUnknown: it may be recorded later,
        call again with the same; GidReused, Invalid; Unavailable, if nothing was begun.
        """
        gid = gid or self.new_gid()
        name = workflow if isinstance(workflow, str) else workflow.name
        asked = {"gid": gid, "workflow": name, "input": given, "deadline_ms": deadline_ms, "trace": current() or None}
        body = {field: value for field, value in {**asked, "key": key, "notify": notify}.items() if value is not None}
        asking = self.about(gid, timeout_s)
        with honest(asking, gid):
            await asking.ask("POST", "/v1/workflows", OutcomeView, body=body)
        return Run(gid, self)

    async def begin(
        self,
        branches: Iterable[Branch],
        *,
        gid: str,
        deadline_ms: int,
        timeout_s: float | None = None,
        **named: Unpack[Named],
    ) -> TransactionView:
        """Begin a transaction, and wait until it is recorded, whoever leads next; not until it is decided.

        It may have been decided long ago, as the record says. Raises: OutcomeUnknown: it may be recorded later, call
        again with the same; Unavailable; RequestError, if it was refused.
        """
        body = _body(gid, [branch.to_map() for branch in branches], deadline_ms, named)
        asking = self.about(gid, timeout_s)
        view: TransactionView | None = None
        with honest(asking, gid):
            while view is None:
                await asking.ask("POST", "/v1/transactions", OutcomeView, body=body, query={"wait_ms": 0})
                asking.ambiguous = True  # it is being recorded
                try:
                    view = await asking.ask("GET", path_of(gid), TransactionView)
                except NotFound:
                    await asking.pause("it is not recorded yet")
        if not view.branches:
            raise Contradiction(f"{gid} was aborted before it was begun; use a new gid")
        return view

    async def submit(self, gid: str, *, timeout_s: float | None = None) -> Ended:
        """Say that the source of a message is done, and wait for the decision. Without it, the coordinators ask by
        themselves at the deadline. Raises: OutcomeUnknown; NotFound; Contradiction, if `gid` has no source."""
        return await self._decided("POST", f"{path_of(gid)}/submit", gid, timeout_s)

    async def cancel(self, gid: str, *, reason: str, by: str = "caller") -> Ended:
        """Abort a transaction that is not decided yet, and hear how it ended: what it has done is undone, or will be.
        `by` stands in its record. Raises: NotFound, OutcomeUnknown, Unavailable."""
        try:
            view = await self.resolve(gid, Decision.ABORT, operator=by, reason=reason)
        except Contradiction:  # it was decided before
            return await self.wait(gid)
        return Aborted(gid, view.reason or "", view.branch)

    async def report(self, token: str, result: Any = None) -> BranchView:
        """Report that the work which a step has begun is done; `token` is what its action was given.

        The same again is harmless, whatever has been decided meanwhile; so after Unavailable it is asked again.
        Raises: Contradiction, if nobody waits for it any more; WrongToken, NotFound, Invalid, Unavailable.
        """
        return await self._report(token, {"result": result})

    async def decline(self, token: str, reason: str) -> BranchView:
        """Report that the work which a step has begun will not be done; otherwise as `report`."""
        return await self._report(token, {"refused": reason})

    async def _report(self, token: str, word: dict[str, Any]) -> BranchView:
        gid, step, *_ = f"{token}//".split("/")
        path = f"{path_of(gid)}/steps/{parse_name(step, 'token')}"
        return await self.about(gid).ask("POST", path, BranchView, body={"token": token, **word})

    async def outcome(self, gid: str) -> Ended | Deciding:
        """What is recorded of `gid` now. Linearizable.

        Raises: Unavailable; NotFound, if nothing is recorded (yet): that is no abort, and `commit` with the same gid
        and branches is how to find out.
        """
        return _ended(await self.about(gid).ask("GET", f"{path_of(gid)}/outcome", OutcomeView))

    async def wait(self, gid: str, *, timeout_s: float | None = None) -> Ended:
        """Wait until `gid` is decided. Raises: OutcomeUnknown; NotFound, as `outcome` does."""
        return await self._decided("GET", f"{path_of(gid)}/outcome", gid, timeout_s)

    async def _decided(self, method: str, path: str, gid: str, timeout_s: float | None) -> Ended:
        asking = self.about(gid, timeout_s)
        try:
            while True:
                ended = _ended(await asking.ask(method, path, OutcomeView, query={"wait_ms": self.wait_ms}))
                if not isinstance(ended, Deciding):
                    return ended
                await asking.pause("it is still being decided")
        except Unavailable as error:
            raise OutcomeUnknown(gid, handle_of(gid), str(error)) from error

    async def resolve(self, gid: str, decision: Decision, *, operator: str, reason: str) -> TransactionView:
        """Decide an undecided transaction by hand. Raises: NotFound, Contradiction, OutcomeUnknown, Unavailable."""
        body = {"decision": decision.value, "operator": operator, "reason": reason}
        path = f"{path_of(gid)}/resolve"
        asking = self.about(gid)
        try:
            return await asking.ask("POST", path, TransactionView, body=body)
        except Unavailable as error:
            if asking.ambiguous:
                raise OutcomeUnknown(gid, handle_of(gid), str(error)) from error
            raise

    async def redeliver(self, gid: str, *, operator: str, reason: str, branches: Sequence[str] = ()) -> TransactionView:
        """Have dead letters delivered once more, all of them unless some are named. Raises: NotFound; Contradiction, if
        there are none; Unavailable: they may be delivered, look again."""
        return await self._letters("redeliver", gid, operator, reason, branches)

    async def drop(self, gid: str, *, operator: str, reason: str, branches: Sequence[str] = ()) -> TransactionView:
        """Give dead letters up; otherwise as `redeliver`."""
        return await self._letters("drop", gid, operator, reason, branches)

    async def _letters(
        self, what: str, gid: str, operator: str, reason: str, branches: Sequence[str]
    ) -> TransactionView:
        body = {"operator": operator, "reason": reason, "branches": list(branches)}
        return await self.about(gid).ask("POST", f"{path_of(gid)}/{what}", TransactionView, body=body)

    async def drop_notice(self, gid: str, *, operator: str, reason: str) -> TransactionView:
        """Have the application told no more of a decided transaction, neither now nor at its end. The same again is
        harmless. Raises: NotFound; Contradiction, if it is to be told nothing; Unavailable: call again with the
        same."""
        body = {"operator": operator, "reason": reason}
        return await self.about(gid).ask("POST", f"{path_of(gid)}/drop-notice", TransactionView, body=body)

    def _lane_to(self, replicas: Replicas) -> Lane:
        return Lane(replicas, {"wait_ms": self.wait_ms}, self._patience.attempt_timeout_s)


def _body(gid: str, branches: list[dict[str, Any]], deadline_ms: int, named: Named) -> dict[str, Any]:
    """The wire form of a new transaction (`wire.TransactionRequest`)."""
    given = {key: value for key, value in named.items() if value is not None}
    if named.get("protocol") is CommitProtocol.TWO_PHASE:  # which older coordinators do not know by name
        del given["protocol"]
    return {"gid": gid, "branches": branches, "deadline_ms": deadline_ms, **given}


def _ended(view: OutcomeView) -> Ended | Deciding:
    match view.outcome:
        case Outcome.COMMITTED:
            return Committed(view.gid)
        case Outcome.ABORTED:
            return Aborted(view.gid, view.reason or "", view.branch)
        case Outcome.DECIDING:
            return Deciding(view.gid, view.handle or handle_of(view.gid))
