"""Whoever asks how transactions of anybody ended or go on, and tells the checkers what he hears."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from coordinator.client.client import Client
from coordinator.client.outcomes import Aborted, Committed
from coordinator.errors import NotFound, Unavailable
from coordinator.ledger.records import Decision
from coordinator.wire import Outcome
from tests.simulation.checkers.decisions import Decisions

__all__ = ["DECIDED", "VIEWED", "Onlooker"]

_REMEMBERED_S = 600.0  # how long after its begin a transaction is asked for; well within every retention

DECIDED = {Committed: Decision.COMMIT, Aborted: Decision.ABORT}
VIEWED = {Outcome.COMMITTED: Decision.COMMIT, Outcome.ABORTED: Decision.ABORT}


class Onlooker:
    """`readers`: one client for each replica, so that any of them is asked, not only the one that leads."""

    def __init__(self, rng: Random, readers: Sequence[Client], decisions: Decisions) -> None:
        self._rng = rng
        self._readers = readers
        self._decisions = decisions

    async def peep(self) -> None:
        """Ask, a few times, how the latest transactions go on."""
        for _ in range(self._rng.randint(1, 6)):
            await asyncio.sleep(self._rng.expovariate(10.0))
            await self.look(among=4)

    async def look(self, among: int = 0) -> None:
        """A transaction of anybody, begun lately: nobody may know less of it than somebody knew before."""
        recent = self._decisions.recent(asyncio.get_running_loop().time() - _REMEMBERED_S)[-among:]
        if recent:
            await self.read(self._rng.choice(recent))

    async def read(self, gid: str) -> None:
        """Ask any replica."""
        reader = self._rng.choice(self._readers)
        before = self._decisions.heard(gid)
        try:
            decision = await self._ask(reader, gid)
        except NotFound:
            self._decisions.read(gid, before, None)
        except Unavailable:
            return
        else:
            self._decisions.read(gid, before, "deciding" if decision is None else decision.value)
            if decision is not None:
                self._decisions.answered(gid, decision)

    async def _ask(self, reader: Client, gid: str) -> Decision | None:
        """In one of the two ways. Raises: NotFound, Unavailable."""
        if self._rng.random() < 0.7:
            return DECIDED.get(type(await reader.outcome(gid)))
        return VIEWED.get((await reader.record(gid)).outcome)
