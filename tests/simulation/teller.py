"""A client of the system world: moves money with production's client, and tells the checkers what it intends and hears.

It asks again with the same gid until it knows, asks how its own and others' transactions ended or go on, repeats one
that has ended, tries a gid for something else, and now and then gives up. What it does at the same time travels in one
request. Its process may be killed at any point, as everything else may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from random import Random
from typing import Any
from unittest import mock
from zlib import crc32

from coordinator.client.outcomes import Aborted, Branch, Committed, Ended
from coordinator.errors import (
    Contradiction,
    GidReused,
    NotFound,
    OutcomeUnknown,
    RequestError,
    TransactionAborted,
    Unavailable,
    WorkFailed,
)
from coordinator.ledger.records import Decision, Path
from coordinator.simulation.rpc import Rpc
from coordinator.simulation.trace import Trace
from coordinator.simulation.web import SimClient, url_of
from coordinator.wire import CommitProtocol
from tests.simulation.bank import path_over
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.flows import Flows
from tests.simulation.checkers.money import Money
from tests.simulation.checkers.steps import Steps
from tests.simulation.errands import Leg, draw_errand, takes_steps
from tests.simulation.flows import NAME, draw_plan
from tests.simulation.onlooker import DECIDED, VIEWED, Onlooker
from tests.simulation.settings import Only, Settings
from tests.simulation.world import THINK_MAX_S

__all__ = ["Teller"]

_ACCOUNTS = 6
_GIVES_UP = 0.1
_DEADLINES_MS = (500, 3_000, 10_000)  # of what is reported, six times as long
_FLOW_DEADLINES_MS = (3_000, 20_000, 600_000)  # with the last one, it is for the workers to end it in time


class Teller:
    """One incarnation of one client. `working` says whether to begin something new."""

    def __init__(
        self,
        name: str,
        rng: Random,
        rpc: Rpc,
        settings: Settings,
        replicas: list[str],
        working: Callable[[], bool],
        checkers: tuple[Findings, Decisions, Money, Steps, Flows],
        trace: Trace,
    ) -> None:
        self._name = name
        self._rng = rng
        self._settings = settings
        self._kinds = settings.kinds
        self._banks = list(settings.kinds)
        self._working = working
        self._findings, self._decisions, self._money, self._steps, self._flows = checkers
        self._trace = trace
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._doubles = rpc.flaws.duplicate > 0
        urls = [url_of(name) for name in replicas]
        rng.shuffle(urls)
        self._client = SimClient(rpc, urls, timeout_s=20.0, attempt_timeout_s=4.0, chance=rng, routed=False)
        readers = [
            SimClient(rpc, [url], timeout_s=8.0, attempt_timeout_s=4.0, chance=rng, routed=False) for url in urls
        ]
        self._onlooker = Onlooker(rng, readers, self._decisions)

    async def run(self, think_s: float) -> None:
        """Work until it is enough, then end what is open."""
        while self._working():
            await asyncio.sleep(min(self._rng.expovariate(1.0) * think_s, THINK_MAX_S))
            match self._does[0] if len(self._does) == 1 else self._rng.choice(self._does):
                case 17:
                    await asyncio.gather(*(self._flow() for _ in range(self._rng.choice((1, 1, 3)))))
                case 14 | 15 | 16:
                    await asyncio.gather(*(self._errand() for _ in range(self._rng.choice((1, 1, 3)))))
                case 0 | 1:
                    await self._onlooker.look()
                case 2 | 3 | 9:
                    await self._move()
                case 4:
                    await self._interactively()
                case 5 | 10:
                    await asyncio.gather(*(self._transfer() for _ in range(self._rng.randint(2, 8))))
                case 6:
                    await self._overrule()
                case 7:
                    await self._contest()
                case 8:
                    await asyncio.gather(self._transfer(), self._onlooker.peep())
                case _:
                    await self._transfer()

    @property
    def _does(self) -> range | tuple[int, ...]:
        """What `run` chooses from: in three phases only, what needs no other path; workflows, if there are workers."""
        match self._settings.only:
            case Only.STEPS:
                return (14, 14, 14, 14, 14, 17) if self._settings.workers else (14,)
            case Only.WORKFLOWS:
                return (17,)
        if self._settings.three_percent == 100:
            return 0, 4, 5, 6, 7, 8, 10, 11, 12, 13
        return range(18 if self._settings.workers else 17)

    # What it does ------------------------------------------------------------------------------------------------

    def _gid(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _account(self) -> str:
        return f"a{self._rng.randrange(_ACCOUNTS)}"

    def _legs(self) -> list[Leg]:
        """A transfer with two, three or four branches; now and then one of them only looks."""
        amount = self._rng.choice((1, 5, 5, 50, 50, 5_000))
        shape = self._rng.choice(((-1, 1), (-1, 1), (-1, 1, 0), (-2, 1, 1), (-1, -1, 2), (-1, -1, 1, 1)))
        banks = self._around()
        actions = {-1: "debit", 0: "look", 1: "credit"}
        return [
            (self._rng.choice(banks), actions[(way > 0) - (way < 0)], self._account(), abs(way) * amount)
            for way in shape
        ]

    def _around(self) -> list[str]:
        """The banks of one transaction: those that can be prevented, those that cannot, or any."""
        prevent = self._rng.choice((True, True, None, None, False))
        return [name for name, kind in self._kinds.items() if prevent in (None, kind.prevent)]

    def _protocol_of(self, gid: str) -> CommitProtocol:
        """The same whenever it is asked for."""
        is_in_three = crc32(f"phases of {gid}".encode()) % 100 < self._settings.three_percent
        return CommitProtocol.THREE_PHASE if is_in_three else CommitProtocol.TWO_PHASE

    def _path_over(self, gid: str, banks: Iterable[str]) -> Path:
        protocol = self._protocol_of(gid)
        return path_over(banks, self._kinds) if protocol is CommitProtocol.TWO_PHASE else Path(protocol.value)

    def _intend(self, gid: str, legs: list[Leg], *more: list[Leg]) -> None:
        """Tell the checkers what is going to be asked for under `gid`, maybe in several ways with the same changes."""
        self._money.intended(gid, _changes(legs))
        paths = [self._path_over(gid, (bank for bank, *_ in request)) for request in (legs, *more)]
        self._decisions.intended(gid, self._loop.time(), *paths)

    async def _transfer(self) -> None:
        gid, legs = self._gid(), self._legs()
        self._intend(gid, legs)
        if not await self._commit(gid, _branches(legs)):
            return
        match self._rng.randrange(12):
            case 0:
                await self._reuse(gid)
            case 1 | 2 | 3:
                await self._onlooker.read(gid)
            case 4:  # it has ended, and must not begin again
                await self._commit(gid, _branches(legs))

    async def _errand(self) -> None:
        """A transfer that goes step by step; an operator may want it aborted meanwhile."""
        gid = self._gid()
        able = [name for name, kind in self._kinds.items() if takes_steps(kind)]
        legs, branches = draw_errand(self._rng, gid, self._legs(), able)
        self._money.intended(gid, _changes(legs))
        self._decisions.intended(gid, self._loop.time(), Path.STEPS)
        self._steps.intended(gid, branches)
        await self._with_more(gid, partial(self._commit, gid, branches))

    async def _flow(self) -> None:
        """A transfer whose steps come from code that some worker runs; an operator may want it aborted meanwhile."""
        gid = self._gid()
        able = [name for name, kind in self._kinds.items() if takes_steps(kind)]
        legs, plan = draw_plan(self._rng, self._legs(), able)
        self._money.intended(gid, _changes(legs))
        self._decisions.intended(gid, self._loop.time(), Path.STEPS)
        self._steps.expected(gid)
        await self._with_more(gid, partial(self._follow, gid, plan))

    async def _with_more(self, gid: str, ask: Callable[[], Coroutine[Any, Any, Ended | None]]) -> None:
        """Ask for it; and meanwhile or afterwards, perhaps, for something else about it."""
        if self._rng.random() < 0.1:
            await asyncio.gather(ask(), self._resolve(gid))
        elif await ask() is not None:
            match self._rng.randrange(8):
                case 0:
                    await self._reuse(gid)
                case 1 | 2:
                    await self._onlooker.read(gid)
                case 3:  # it has ended, and must not begin again
                    await ask()

    async def _follow(self, gid: str, plan: dict[str, Any]) -> Ended | None:
        """Begin a workflow, and wait until it knows how that ended, or gives up."""
        deadline_ms = self._rng.choice(_FLOW_DEADLINES_MS)
        ambiguous = False  # an earlier call may have begun it
        while True:
            try:
                run = await self._client.start(NAME, plan, gid=gid, deadline_ms=deadline_ms, notify=self._notify(gid))
                ambiguous = True
                self._flows.begun(gid)
                self._flows.told(gid, await run.result())
            except TransactionAborted as error:
                ended: Ended = Aborted(gid, error.reason, error.branch)
            except OutcomeUnknown as error:
                self._trace.note("unknown", gid, error.why)
                ambiguous = True
                if self._working() and self._rng.random() < _GIVES_UP:
                    return None
                continue
            except Unavailable:
                if ambiguous or (self._working() and self._rng.random() < 0.5):
                    continue
                if self._decisions.heard(gid) is None:
                    self._decisions.not_begun(gid, surely=not self._doubles)
                return None
            except RequestError as error:
                self._findings.report("a proper request is taken", f"{gid}: {error!r}")
                return None
            else:
                ended = Committed(gid)
            self._heard(gid, ended)
            return ended

    async def _move(self) -> None:
        """One branch: if its bank can, it decides."""
        gid, bank, amount = self._gid(), self._rng.choice(self._around()), self._rng.choice((1, 50, 5_000))
        source, target = self._account(), self._account()
        self._money.intended(gid, _changes([(bank, "debit", source, amount), (bank, "credit", target, amount)]))
        self._decisions.intended(gid, self._loop.time(), self._path_over(gid, [bank]))
        await self._commit(gid, [Branch(bank, "move", {"from": source, "to": target, "amount": amount})])

    async def _commit(self, gid: str, branches: list[Branch], *, contested: bool = False) -> Ended | None:
        """Until it knows how it ended, or gives up. `contested`: something else is asked for under the same gid."""
        deadline_ms = self._rng.choice(_DEADLINES_MS)
        if any("reported" in (branch.step or {}) for branch in branches):
            deadline_ms *= 6
        is_stepwise = any(branch.step is not None for branch in branches)
        protocol = CommitProtocol.TWO_PHASE if is_stepwise else self._protocol_of(gid)
        ambiguous = False  # an earlier call may have begun it
        while True:
            try:
                ended = await self._client.commit(
                    branches, gid=gid, deadline_ms=deadline_ms, notify=self._notify(gid), protocol=protocol
                )
            except OutcomeUnknown as error:
                self._trace.note("unknown", gid, error.why)
                ambiguous = True
                if self._working() and self._rng.random() < _GIVES_UP:
                    return None
            except Unavailable:
                if not ambiguous and (not self._working() or self._rng.random() < 0.5):
                    if not contested and self._decisions.heard(gid) is None:
                        self._decisions.not_begun(gid, surely=not self._doubles)
                    return None
            except RequestError as error:
                if not (contested and isinstance(error, GidReused)):
                    self._findings.report("a proper request is taken", f"{gid}: {error!r}")
                return None
            else:
                self._heard(gid, ended)
                return ended

    def _notify(self, gid: str) -> str | None:
        """Where somebody wants to be told of it, if so: the same whenever it is asked for."""
        return f"{url_of(self._banks[0])}/v1/notices" if crc32(gid.encode()) % 3 == 0 else None

    async def _contest(self) -> None:
        """Two requests for one gid, with other branches, at the same time: at most one of them is committed."""
        gid, legs = self._gid(), self._legs()
        more = [*legs, (self._rng.choice(self._banks), "look", self._account(), 0)]
        self._intend(gid, legs, more)
        requests = [_branches(legs), _branches(more)]
        self._rng.shuffle(requests)
        ended = await asyncio.gather(*(self._commit(gid, request, contested=True) for request in requests))
        if all(isinstance(one, Committed) for one in ended):
            self._findings.report("a gid is bound to its request", f"{gid} was committed with two sets of branches")

    async def _overrule(self) -> None:
        """An operator aborts a transaction while its caller waits for it: one of the two decisions wins."""
        gid, legs = self._gid(), self._legs()
        self._intend(gid, legs)
        await asyncio.gather(self._commit(gid, _branches(legs)), self._resolve(gid))

    async def _resolve(self, gid: str) -> None:
        await asyncio.sleep(self._rng.expovariate(20.0))
        try:
            view = await self._client.resolve(gid, Decision.ABORT, operator="teller", reason="changed our mind")
        except (Contradiction, NotFound, OutcomeUnknown, Unavailable):
            return
        self._decisions.answered(gid, VIEWED[view.outcome])

    async def _interactively(self) -> None:
        gid, legs = self._gid(), self._legs()[:2]
        self._money.intended(gid, _changes(legs))
        self._decisions.intended(gid, self._loop.time(), self._path_over(gid, {bank: None for bank, *_ in legs}))
        with mock.patch.object(self._client, "new_gid", return_value=gid):
            transaction = self._client.transaction(call_timeout_s=5.0, protocol=self._protocol_of(gid))
        try:
            async with transaction as tx:
                for bank, action, account, amount in legs:
                    await tx.call(bank, action, {"account": account, "amount": amount})
        except OutcomeUnknown:
            await self._wait(gid)
        except (TransactionAborted, WorkFailed):
            self._decisions.not_begun(gid, surely=True)
        except Unavailable:
            self._decisions.not_begun(gid, surely=not self._doubles)
        else:
            self._heard(gid, Committed(gid))

    async def _wait(self, gid: str) -> None:
        while True:
            try:
                self._heard(gid, await self._client.wait(gid))
            except NotFound:  # surely nobody recorded it by now; a late request may yet
                return
            except OutcomeUnknown:
                continue
            return

    async def _reuse(self, gid: str) -> None:
        """The same gid for something else must be refused."""
        others = [Branch(self._rng.choice(self._banks), "look", {"account": "other"}) for _ in range(2)]
        try:
            ended = await self._client.commit(others, gid=gid)
        except (GidReused, OutcomeUnknown, Unavailable):
            return
        if isinstance(ended, Committed) or self._decisions.of(gid) is not Decision.ABORT:
            self._findings.report("a gid is bound to its request", f"{gid}: {ended!r}")

    def _heard(self, gid: str, ended: Ended) -> None:
        self._trace.note("heard", gid, type(ended).__name__)
        self._decisions.answered(gid, DECIDED[type(ended)])


def _branches(legs: list[Leg]) -> list[Branch]:
    return [Branch(bank, action, {"account": account, "amount": amount}) for bank, action, account, amount in legs]


def _changes(legs: list[Leg]) -> dict[str, int]:
    changes: dict[str, int] = {}
    for bank, action, account, amount in legs:
        sign = {"debit": -1, "credit": 1}.get(action, 0)
        key = f"{bank}/{account}"
        changes[key] = changes.get(key, 0) + sign * amount
    return changes
