"""A real cluster whose leader is killed in a step of a transaction, and how the transaction ended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, repeat
from pathlib import Path

from yarl import URL

from coordinator.client import Client, Committed, Ended, Worker
from participant import Participant
from tests.support.forks import ForkedCluster
from tests.takeovers.plays import OLD, PARTICIPANTS, PLAYS, trip
from tests.takeovers.watched import Blow, Side, Steps, participant_of

__all__ = ["LATE_S", "Stage", "Takeover", "staged"]

LATE_S = 3.0
"""From the kill, until a transaction must have ended everywhere. No step of these waits to be tried again."""

_NODES = ("n1", "n2", "n3")
_SECRET = "a secret of the cluster"
_SETTLED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Takeover:
    """What came of one kill. `known_s`, `ended_s`: from the kill until the client was told, and until nothing was owed.
    0 if that was before. `wrong`: what differs from an undisturbed run; "" if nothing does."""

    play: str
    step: str
    side: Side
    known_s: float
    ended_s: float
    wrong: str


@dataclass(frozen=True, slots=True)
class _End:
    """`told`: how it ended, without the gid. `done`: by participant, what was done there, in its order. When the client
    knew and when all had ended, by the clock of the loop, makes no difference between two of them."""

    told: Ended
    done: Mapping[str, list[str]]
    known_at: float = field(compare=False)
    ended_at: float = field(compare=False)


class Stage:
    """A cluster, participants and a client. See `staged`."""

    def __init__(
        self, cluster: ForkedCluster, client: Client, steps: Steps, participants: Mapping[str, Participant]
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._steps = steps
        self._participants = participants
        self._count = 0

    async def takeovers(self, play: str, *, one_side: bool = False) -> AsyncIterator[Takeover]:
        """Play undisturbed, then again for each step of that, with a leader that is killed before it, and then with one
        that is killed after it; or before one, after the next, and so on.
        """
        gid = self._gid(play)
        usual = await self._play(play, gid)
        record = await self._client.record(gid)
        expected = (PLAYS[play].path, PLAYS[play].is_committed)
        if (record.path, isinstance(usual.told, Committed)) != expected:
            raise AssertionError(f"{play} went by {record.path} and ended as {usual.told}, before anybody was killed")
        sides = cycle((side,) for side in Side) if one_side else repeat(tuple(Side))
        for step, here in zip(list(self._steps.taken[gid]), sides, strict=False):
            for side in here:
                yield await self._kill(play, step, side, usual)

    async def _kill(self, play: str, step: str, side: Side, usual: _End) -> Takeover:
        gid = self._gid(play)
        leader = await self._cluster.leader()
        term = await self._term(leader)
        process = self._cluster.processes[leader]
        process._may_end = True
        self._steps.strike_once(Blow(gid, step, side), lambda: os.kill(process.pid, signal.SIGKILL))
        end = await self._play(play, gid)
        struck_at = self._steps.struck_at
        if struck_at is None:
            raise AssertionError(f"{play}: {step} was not reached")
        if await self._term(await self._cluster.leader(other_than=leader)) <= term:
            raise AssertionError(f"{play}: {leader} was killed, and did not lead any more")
        await self._cluster.restart(leader)
        wrong = "" if end == usual else f"{end} instead of {usual}"
        known_s, ended_s = (max(0.0, at - struck_at) for at in (end.known_at, end.ended_at))
        return Takeover(play, step, side, known_s, ended_s, wrong)

    async def _term(self, name: str) -> int:
        view = await self._cluster._view(self._cluster.url(name))
        return 0 if view is None else view.term

    async def _play(self, play: str, gid: str) -> _End:
        loop = asyncio.get_running_loop()
        told = await PLAYS[play].run(self._client, self._participants, gid)
        known_at = loop.time()
        async with asyncio.timeout(_SETTLED_WITHIN_S):
            await self._client.settled(gid)
        ended_at = loop.time()
        done = {name: await self._done(name, gid) for name in PARTICIPANTS}
        return _End(replace(told, gid=""), {name: lines for name, lines in done.items() if lines}, known_at, ended_at)

    async def _done(self, name: str, gid: str) -> list[str]:
        url = URL(self._cluster.banks[name]) / "v1/done" % {"tag": gid}
        async with self._cluster._http.get(url) as response:
            done: list[str] = await response.json()
        return done

    def _gid(self, play: str) -> str:
        self._count += 1
        return f"{play}-{self._count}"


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    """Three coordinators as processes; participants, on real journals and sockets, and a worker for workflows here."""
    cluster = ForkedCluster(directory, _NODES, PARTICIPANTS, proof_secret=_SECRET)
    replicas = list(cluster.replicas.values())
    steps = Steps()
    async with AsyncExitStack() as stack:
        participants = {}
        for name in PARTICIPANTS:
            del cluster.processes[name]
            participants[name] = participant_of(name, directory / name, steps, _SECRET.encode())
            port = URL(cluster.banks[name]).port or 0
            serving = await stack.enter_async_context(participants[name].serving(port=port, replicas=replicas))
            if name == OLD:
                able = replace(serving.service.capabilities(), prevent=False)
                serving.service.capabilities = lambda able=able: able  # type: ignore[method-assign]
        await stack.enter_async_context(cluster)
        client = await stack.enter_async_context(Client(replicas))
        await stack.enter_async_context(Worker(client, [trip]))
        yield Stage(cluster, client, steps, participants)
