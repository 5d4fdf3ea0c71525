"""A participant in a process of its own, on a real database, that can be killed between its yes and the decision.

Method: its coordinator is the in-process cluster. `Remote` stands there for the participant, and carries operations to
it over HTTP; once it is cut off, no commit and no abort comes through.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from coordinator.participants.http import HttpParticipants
from coordinator.ports import CallFailed
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb
from tests.house.tree import ROOT
from tests.support.cluster import WAIT_S, Cluster, cluster
from tests.support.ports import free_addresses

__all__ = ["NAME", "Remote", "remote"]

NAME = "shop"
START_TIMEOUT_S = 20.0
_PAUSE_S = 0.05
_LOOKS = 200
_ENDS = frozenset((Verb.COMMIT, Verb.ABORT))


class Remote:
    """The participant `NAME`, seen from its coordinator, and its process."""

    def __init__(self, kind: str, place: str) -> None:
        self.is_cut_off = False
        host, _, port = free_addresses(1)[0].rpartition(":")
        self.url = f"http://{host}:{port}"
        self.http = HttpParticipants({NAME: self.url})
        self._words = ("-m", "tests.fixtures.adder", NAME, kind, place, host, port)
        self._child: asyncio.subprocess.Process | None = None

    def capabilities(self) -> Capabilities:
        return Capabilities(NAME, prevent=True)

    async def perform(self, operation: Operation) -> Answer:
        """The `LocalParticipant` port."""
        if self.is_cut_off and operation.verb in _ENDS:
            raise CallFailed("cut off")
        return await self.http.call(NAME, operation)

    async def start(self) -> None:
        """Start the process, and wait until it serves."""
        self._child = await asyncio.create_subprocess_exec(sys.executable, *self._words, cwd=ROOT)
        async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self.url}/livez") as response:
                        await response.read()
                    return
                except aiohttp.ClientError:
                    await asyncio.sleep(_PAUSE_S)

    async def kill(self) -> None:
        """kill -9."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()

    async def state(self, gid: str) -> BranchState:
        """What it says of a branch."""
        return (await self.http.call(NAME, Operation(Verb.OUTCOME, BranchKey(gid, "b1")))).state

    async def has_prepared(self, gid: str) -> None:
        """Wait until it has."""
        for _ in range(_LOOKS):
            if await self.state(gid) is BranchState.PREPARED:
                return
            await asyncio.sleep(_PAUSE_S)
        raise TimeoutError(f"{NAME} has not prepared {gid}")

    async def prepare(self, gid: str, key: str, value: int) -> None:
        """Prepare a branch of which no coordinator knows."""
        async with aiohttp.ClientSession() as session:
            url = f"{self.url}/v1/branches/{gid}/b1/prepare"
            async with session.post(url, json={"action": "put", "body": {"key": key, "value": value}}) as response:
                assert (await response.json())["state"] == BranchState.PREPARED


@asynccontextmanager
async def remote(kind: str, place: str) -> AsyncIterator[tuple[Cluster, Remote]]:
    """A served cluster with the participants `bank`, in memory, and `NAME`, on a resource manager of this kind."""
    async with asyncio.timeout(4 * WAIT_S + 2 * START_TIMEOUT_S), cluster(1, ["bank", NAME], serve=True) as made:
        shop = Remote(kind, place)
        made.clerks[NAME] = shop  # type: ignore[assignment]
        await shop.http.start()
        try:
            await shop.start()
            yield made, shop
        finally:
            await shop.kill()
            await shop.http.stop()
