"""A client of the system world: moves money with production's client, and tells the checkers what it intends and hears.

It asks again with the same gid until it knows, asks how earlier transactions ended, tries a gid twice, and now and
then gives up. Its process may be killed at any point, as everything else may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from unittest import mock

from coordinator.client.client import Client
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
from coordinator.ledger.records import Decision
from coordinator.wire import Outcome
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.money import Money
from tests.simulation.rpc import Rpc
from tests.simulation.trace import Trace
from tests.simulation.web import SimSession, url_of
from tests.simulation.world import THINK_MAX_S

__all__ = ["Teller"]

_ACCOUNTS = 6
_REMEMBERED_S = 600.0  # how long after its end a transaction is asked for; well within every retention
_GIVES_UP = 0.1

_Leg = tuple[str, str, str, int]  # bank, action, account, amount
_Decided = {Committed: Decision.COMMIT, Aborted: Decision.ABORT}


class Teller:
    """One incarnation of one client. `working` says whether to begin something new."""

    def __init__(
        self,
        name: str,
        rng: Random,
        rpc: Rpc,
        banks: list[str],
        replicas: list[str],
        working: Callable[[], bool],
        checkers: tuple[Findings, Decisions, Money],
        trace: Trace,
    ) -> None:
        self._name = name
        self._rng = rng
        self._banks = banks
        self._working = working
        self._findings, self._decisions, self._money = checkers
        self._trace = trace
        self._count = 0
        self._ended: list[tuple[float, str]] = []
        self._loop = asyncio.get_running_loop()
        urls = [url_of(name) for name in replicas]
        rng.shuffle(urls)
        with mock.patch("coordinator.client.client.Session", return_value=SimSession(rpc)):
            self._client = Client(urls, timeout_s=20.0, attempt_timeout_s=4.0, chance=rng)

    async def run(self, think_s: float) -> None:
        """Work until it is enough, then end what is open."""
        while self._working():
            await asyncio.sleep(min(self._rng.expovariate(1.0) * think_s, THINK_MAX_S))
            match self._rng.randrange(10):
                case 0:
                    await self._look_back()
                case 1:
                    await self._move()
                case 2:
                    await self._interactively()
                case 3:
                    await asyncio.gather(*(self._transfer() for _ in range(self._rng.randint(2, 8))))
                case 4:
                    await self._overrule()
                case _:
                    await self._transfer()

    # What it does ------------------------------------------------------------------------------------------------

    def _gid(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _account(self) -> str:
        return f"a{self._rng.randrange(_ACCOUNTS)}"

    def _legs(self) -> list[_Leg]:
        """A transfer; now and then with a branch that only looks."""
        giver, taker = self._rng.sample(self._banks, 2)
        amount = self._rng.choice((1, 5, 50, 400, 5_000))
        legs = [(giver, "debit", self._account(), amount), (taker, "credit", self._account(), amount)]
        if self._rng.random() < 0.2:
            legs.append((self._rng.choice(self._banks), "look", self._account(), amount))
        return legs

    async def _transfer(self) -> None:
        gid, legs = self._gid(), self._legs()
        self._money.intended(gid, _changes(legs))
        if await self._commit(gid, _branches(legs)) and self._rng.random() < 0.05:
            await self._reuse(gid)

    async def _move(self) -> None:
        """One branch: its bank decides."""
        gid, bank, amount = self._gid(), self._rng.choice(self._banks), self._rng.choice((1, 50, 5_000))
        source, target = self._account(), self._account()
        self._money.intended(gid, _changes([(bank, "debit", source, amount), (bank, "credit", target, amount)]))
        await self._commit(gid, [Branch(bank, "move", {"from": source, "to": target, "amount": amount})])

    async def _commit(self, gid: str, branches: list[Branch]) -> bool:
        """Until it knows how it ended (True), or gives up."""
        deadline_ms = self._rng.choice((500, 3_000, 10_000))
        ambiguous = False  # an earlier call may have begun it
        while True:
            try:
                ended = await self._client.commit(branches, gid=gid, deadline_ms=deadline_ms)
            except OutcomeUnknown as error:
                self._trace.note("unknown", gid, error.why)
                ambiguous = True
                if self._working() and self._rng.random() < _GIVES_UP:
                    return False
            except Unavailable:
                if not ambiguous and (not self._working() or self._rng.random() < 0.5):
                    self._decisions.not_begun(gid)
                    return False
            except RequestError as error:
                self._findings.report("a proper request is taken", f"{gid}: {error!r}")
                return False
            else:
                self._heard(gid, ended)
                return True

    async def _overrule(self) -> None:
        """An operator aborts a transaction while its caller waits for it: one of the two decisions wins."""
        gid, legs = self._gid(), self._legs()
        self._money.intended(gid, _changes(legs))
        await asyncio.gather(self._commit(gid, _branches(legs)), self._resolve(gid))

    async def _resolve(self, gid: str) -> None:
        await asyncio.sleep(self._rng.expovariate(20.0))
        try:
            view = await self._client.resolve(gid, Decision.ABORT, operator="teller", reason="changed our mind")
        except (Contradiction, NotFound, OutcomeUnknown, Unavailable):
            return
        self._decisions.answered(gid, Decision.COMMIT if view.outcome is Outcome.COMMITTED else Decision.ABORT)

    async def _interactively(self) -> None:
        gid, legs = self._gid(), self._legs()[:2]
        self._money.intended(gid, _changes(legs))
        with mock.patch.object(self._client, "new_gid", return_value=gid):
            transaction = self._client.transaction(call_timeout_s=5.0)
        try:
            async with transaction as tx:
                for bank, action, account, amount in legs:
                    await tx.call(bank, action, {"account": account, "amount": amount})
        except OutcomeUnknown:
            await self._wait(gid)
        except (TransactionAborted, WorkFailed, Unavailable):
            self._decisions.not_begun(gid)
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

    async def _look_back(self) -> None:
        """An earlier transaction: nobody may know less of it than somebody knew before."""
        recent = [gid for at, gid in self._ended if self._loop.time() - at < _REMEMBERED_S]
        if not recent:
            return
        gid = self._rng.choice(recent)
        before = self._decisions.heard(gid)
        try:
            now = await self._client.outcome(gid)
        except NotFound:
            self._decisions.read(gid, before, None)
        except Unavailable:
            return
        else:
            decision = _Decided.get(type(now))
            self._decisions.read(gid, before, decision.value if decision is not None else "deciding")

    async def _reuse(self, gid: str) -> None:
        """The same gid for something else must be refused."""
        try:
            ended = await self._client.commit([Branch(self._banks[0], "look", {"account": "other"})], gid=gid)
        except (GidReused, OutcomeUnknown, Unavailable):
            return
        if isinstance(ended, Committed) or self._decisions.of(gid) is not Decision.ABORT:
            self._findings.report("a gid is bound to its request", f"{gid}: {ended!r}")

    def _heard(self, gid: str, ended: Ended) -> None:
        self._trace.note("heard", gid, type(ended).__name__)
        self._decisions.answered(gid, _Decided[type(ended)])
        self._ended.append((self._loop.time(), gid))


def _branches(legs: list[_Leg]) -> list[Branch]:
    return [Branch(bank, action, {"account": account, "amount": amount}) for bank, action, account, amount in legs]


def _changes(legs: list[_Leg]) -> dict[str, int]:
    changes: dict[str, int] = {}
    for bank, action, account, amount in legs:
        sign = {"debit": -1, "credit": 1, "look": 0}[action]
        key = f"{bank}/{account}"
        changes[key] = changes.get(key, 0) + sign * amount
    return changes
