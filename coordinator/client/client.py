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
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from random import Random, SystemRandom
from types import TracebackType
from typing import Any, Self

from coordinator.client.asking import ATTEMPT_MIN_S, Asking, Patience
from coordinator.client.lane import Lane
from coordinator.client.listing import listed, merged
from coordinator.client.message import Message
from coordinator.client.outcomes import Aborted, Branch, Committed, Deciding, Ended
from coordinator.client.policy import Pauses, pause_s
from coordinator.client.replicas import Replicas, Reply
from coordinator.client.saga import Saga, Tcc
from coordinator.client.session import Lost, Session
from coordinator.client.shards import Shard, Shards
from coordinator.client.transaction import InteractiveTransaction
from coordinator.errors import Contradiction, NotFound, OutcomeUnknown, RequestError, Unavailable
from coordinator.examined import ExaminationView
from coordinator.ledger.records import Decision, Phase
from coordinator.shards import MAP_PATH, ClusterMap, draw_gid, shard_of
from coordinator.wire import (
    DEADLINE_DEFAULT_MS,
    GID_RANDOM_BITS,
    WAIT_MAX_MS,
    BranchView,
    ClusterView,
    Outcome,
    OutcomeView,
    ParticipantsView,
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


class Client:
    """Talks to the replicas at `urls`; one of them is enough, the others are found.

    `timeout_s`: how long a call tries before it gives up; `attempt_timeout_s`: how long one replica may take.
    `chance` is for back-off and gids. Without `routed`, only the replicas at `urls` are asked, as if their shard were
    all of the cluster. A transaction is in the trace that is current where it is begun (`participant.tracing`), if the
    cluster's map says that it may name one.
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
        self._session = Session()
        self._chance = chance or SystemRandom()
        self._patience = Patience(timeout_s, attempt_timeout_s, pauses, self._chance)
        self._shards = Shards(urls, self._session, self._lane_to, routed=routed)
        self._participants: dict[str, str] = {}

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
    ) -> Ended:
        """Commit all branches or none, and wait for the decision.

        `deadline_ms`: how long the coordinator collects votes; `timeout_s`: how long this call waits. Without a `gid`,
        a transaction without steps that was aborted for a conflict is tried again, as a new one that is as old as the
        first.
        Raises: OutcomeUnknown; Unavailable, if surely nothing was begun; RequestError, if it was refused.
        """
        forms = [branch.to_map() for branch in branches]
        if gid is not None or any("step" in form for form in forms):  # what is aborted may not be undone yet
            return await self._commit(gid or self.new_gid(), forms, deadline_ms, timeout_s)
        began_ms = time.time_ns() // 1_000_000
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + (self._patience.timeout_s if timeout_s is None else timeout_s)
        for attempt in range(1, CONFLICT_ATTEMPTS_MAX + 1):
            ended = await self._commit(self._gid_of(began_ms), forms, deadline_ms, ends_at - loop.time())
            pause = pause_s(self._patience.pauses, attempt, self._chance.random())
            is_late = loop.time() + pause + ATTEMPT_MIN_S > ends_at
            if isinstance(ended, Committed) or not ended.is_conflict or is_late or attempt == CONFLICT_ATTEMPTS_MAX:
                break
            await asyncio.sleep(pause)
        return ended

    async def _commit(
        self, gid: str, branches: list[dict[str, Any]], deadline_ms: int, timeout_s: float | None
    ) -> Ended:
        body = {"gid": gid, "branches": branches, "deadline_ms": deadline_ms}
        asking = self._about(gid, timeout_s)
        trace = current()
        traced = {**body, "trace": trace} if trace else body

        async def attempt(shard: Shard, attempt_timeout_s: float) -> Reply:
            try:
                async with asyncio.timeout(attempt_timeout_s):
                    return await shard.lane.send(traced if self._shards.takes_traces else body)
            except TimeoutError as error:
                raise Lost(f"no answer within {attempt_timeout_s:.1f} s") from error

        with _honest(asking, gid):
            while True:
                ended = _ended(await asking.insist(attempt, OutcomeView))
                if not isinstance(ended, Deciding):
                    return ended
                asking.ambiguous = True
                await asking.pause("it is still being decided")

    def transaction(
        self, *, deadline_ms: int = DEADLINE_DEFAULT_MS, call_timeout_s: float = 10.0
    ) -> InteractiveTransaction:
        """An interactive transaction, to be used with `async with`; see `coordinator.client.transaction`."""
        return InteractiveTransaction(
            self.new_gid(), self, self._session, self._patience, deadline_ms=deadline_ms, call_timeout_s=call_timeout_s
        )

    def saga(self, *, deadline_ms: int = DEADLINE_MAX_MS) -> Saga:
        """A saga, to be declared and run; see `coordinator.client.saga`. `deadline_ms`: how long until it is given up
        and undone, unless it is decided by then."""
        return Saga(self, deadline_ms)

    def tcc(self, *, deadline_ms: int = DEADLINE_DEFAULT_MS) -> Tcc:
        """Reservations, to be declared and run; see `coordinator.client.saga`."""
        return Tcc(self, deadline_ms)

    def message(self, *, deadline_ms: int = DEADLINE_DEFAULT_MS) -> Message:
        """A local transaction with messages, to be declared and run; see `coordinator.client.message`."""
        return Message(self, deadline_ms)

    async def begin(
        self, branches: Iterable[Branch], *, gid: str, deadline_ms: int, timeout_s: float | None = None
    ) -> TransactionView:
        """Begin a transaction, and wait until it is recorded, whoever leads next; not until it is decided.

        It may have been decided long ago, as the record says. Raises: OutcomeUnknown: it may be recorded later, call
        again with the same; Unavailable; RequestError, if it was refused.
        """
        body = {"gid": gid, "branches": [branch.to_map() for branch in branches], "deadline_ms": deadline_ms}
        asking = self._about(gid, timeout_s)
        view: TransactionView | None = None
        with _honest(asking, gid):
            while view is None:
                await asking.ask("POST", "/v1/transactions", OutcomeView, body=body, query={"wait_ms": 0})
                asking.ambiguous = True  # it is being recorded
                try:
                    view = await asking.ask("GET", _path_of(gid), TransactionView)
                except NotFound:
                    await asking.pause("it is not recorded yet")
        if not view.branches:
            raise Contradiction(f"{gid} was aborted before it was begun; use a new gid")
        return view

    async def submit(self, gid: str, *, timeout_s: float | None = None) -> Ended:
        """Say that the source of a message is done, and wait for the decision. Without it, the coordinators ask by
        themselves at the deadline. Raises: OutcomeUnknown; NotFound; Contradiction, if `gid` has no source."""
        return await self._decided("POST", f"{_path_of(gid)}/submit", gid, timeout_s)

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
        path = f"{_path_of(gid)}/steps/{parse_name(step, 'token')}"
        return await self._about(gid).ask("POST", path, BranchView, body={"token": token, **word})

    async def outcome(self, gid: str) -> Ended | Deciding:
        """What is recorded of `gid` now. Linearizable.

        Raises: Unavailable; NotFound, if nothing is recorded (yet): that is no abort, and `commit` with the same gid
        and branches is how to find out.
        """
        return _ended(await self._about(gid).ask("GET", f"{_path_of(gid)}/outcome", OutcomeView))

    async def wait(self, gid: str, *, timeout_s: float | None = None) -> Ended:
        """Wait until `gid` is decided. Raises: OutcomeUnknown; NotFound, as `outcome` does."""
        return await self._decided("GET", f"{_path_of(gid)}/outcome", gid, timeout_s)

    async def _decided(self, method: str, path: str, gid: str, timeout_s: float | None) -> Ended:
        asking = self._about(gid, timeout_s)
        try:
            while True:
                ended = _ended(await asking.ask(method, path, OutcomeView, query=self._wait()))
                if not isinstance(ended, Deciding):
                    return ended
                await asking.pause("it is still being decided")
        except Unavailable as error:
            raise OutcomeUnknown(gid, handle_of(gid), str(error)) from error

    async def settled(self, gid: str, *, timeout_s: float | None = None) -> TransactionView:
        """Wait until every branch of `gid` has confirmed its end, so that whoever looks at a participant sees it.

        *Committed* is heard before: the participants are told next. Raises: NotFound; Unavailable, if time is up.
        """
        asking = self._about(gid, timeout_s)
        while True:
            view = await asking.ask("GET", _path_of(gid), TransactionView)
            if view.phase in (Phase.COMMITTED, Phase.ABORTED):
                return view
            await asking.pause("not every branch has confirmed")

    async def record(self, gid: str) -> TransactionView:
        """The record of `gid`. Raises: NotFound, Unavailable."""
        return await self._about(gid).ask("GET", _path_of(gid), TransactionView)

    async def examine(self, gid: str) -> ExaminationView:
        """What the participants of `gid` hold of it now; changes nothing. Raises: NotFound, Unavailable."""
        return await self._about(gid).ask("GET", f"{_path_of(gid)}/branches", ExaminationView)

    async def transactions(
        self,
        *,
        phases: Iterable[Phase] = (),
        participant: str | None = None,
        begun_after_ms: int | None = None,
        begun_before_ms: int | None = None,
        stuck: bool = False,
        dead: bool = False,
        page_size: int | None = None,
    ) -> AsyncGenerator[TransactionView]:
        """Every recorded transaction of every shard that the filters let through, newest first; `stuck`: only those
        that a person should look at; `dead`: only those with messages that were set aside.

        Raises: Unavailable, Invalid.
        """
        query = {
            "phase": [phase.value for phase in phases],
            "participant": participant,
            "begun_after_ms": begun_after_ms,
            "begun_before_ms": begun_before_ms,
            "stuck": "true" if stuck else None,
            "dead": "true" if dead else None,
            "limit": page_size,
        }
        shards = await self._asking().found(self._shards.all)
        found = merged([listed(shard, query, self._patience) for shard in shards])
        async with aclosing(found):
            async for transaction in found:
                yield transaction

    async def resolve(self, gid: str, decision: Decision, *, operator: str, reason: str) -> TransactionView:
        """Decide an undecided transaction by hand. Raises: NotFound, Contradiction, OutcomeUnknown, Unavailable."""
        body = {"decision": decision.value, "operator": operator, "reason": reason}
        path = f"{_path_of(gid)}/resolve"
        asking = self._about(gid)
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
        return await self._about(gid).ask("POST", f"{_path_of(gid)}/{what}", TransactionView, body=body)

    async def cluster(self) -> ClusterView:
        """The cluster as the replica sees it, of whichever shard, that answers first. Raises: Unavailable."""
        return await self._asking().ask("GET", "/v1/cluster", ClusterView)

    async def cluster_map(self) -> ClusterMap:
        """All shards, and where their replicas are. Raises: Unavailable."""
        return await self._asking().ask("GET", MAP_PATH, ClusterMap)

    async def participant_url(self, name: str) -> str:
        """Where the participant called `name` is. Raises: Unavailable, KeyError if it is not configured."""
        if name not in self._participants:
            view = await self._asking().ask("GET", "/v1/participants", ParticipantsView)
            self._participants = {participant.name: participant.url for participant in view.participants}
        return self._participants[name]

    def _asking(self) -> Asking:
        """A question that every replica can answer."""
        return Asking(self._shards.any, self._patience)

    def _about(self, gid: str, timeout_s: float | None = None) -> Asking:
        """A question about `gid`."""
        return Asking(partial(self._shards.of, gid), self._patience, timeout_s)

    def _lane_to(self, replicas: Replicas) -> Lane:
        return Lane(replicas, self._wait(), self._patience.attempt_timeout_s)

    def _wait(self) -> dict[str, int]:
        """How long a replica may keep us waiting: its answer is to be here before we lose patience."""
        return {"wait_ms": min(int(self._patience.attempt_timeout_s * 750), WAIT_MAX_MS)}


@contextmanager
def _honest(asking: Asking, gid: str) -> Iterator[None]:
    """A replica may have begun what a later one refuses, or nobody answers any more: then nobody knows."""
    try:
        yield
    except (Unavailable, RequestError) as error:
        if asking.ambiguous:
            raise OutcomeUnknown(gid, handle_of(gid), str(error)) from error
        raise


def _path_of(gid: str) -> str:
    """Raises Invalid for what cannot be a gid: it must not become another path."""
    return handle_of(parse_name(gid, "gid"))


def _ended(view: OutcomeView) -> Ended | Deciding:
    match view.outcome:
        case Outcome.COMMITTED:
            return Committed(view.gid)
        case Outcome.ABORTED:
            return Aborted(view.gid, view.reason or "", view.branch)
        case Outcome.DECIDING:
            return Deciding(view.gid, view.handle or handle_of(view.gid))
