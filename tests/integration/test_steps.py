"""Steps that are reported, and messages in an order, with real processes: the leader is killed inside their actions.
`tests/takeovers` does so with all that has neither.

Method: three coordinators are processes; the participant is in the process of the test, on a real journal. When the
action that the test names runs, it kills the leader before anything is answered, and goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from coordinator.client import OWN, Aborted, Client, Committed, Ended
from coordinator.wire_base import DEADLINE_MAX_MS
from participant import Participant, Reject
from participant.rm.memory import Memory, Transaction
from tests.support.forks import ForkedCluster

NODES = ("n1", "n2", "n3")
DESK = "desk"


class Desk:
    """A participant whose actions count what they have done. `strike` is called once, inside the action it names."""

    def __init__(self, directory: Path) -> None:
        self.participant = Participant(DESK, Memory(directory))
        self.strikes: dict[str, Callable[[], None]] = {}
        self.tokens: defaultdict[str, asyncio.Future[str]] = defaultdict(asyncio.get_running_loop().create_future)
        for name in ("do", "undo", "confirm"):
            self.participant.action(name)(self._counting(name))
        self.participant.view("/v1/counts")(self._counts)

    def _counting(self, action: str) -> Callable[[Transaction, Any], Any]:
        async def count(tx: Transaction, body: Any) -> dict[str, str]:
            what = f"{action} {body['what']}"
            if "token" in body and not self.tokens[what].done():
                self.tokens[what].set_result(body["token"])
            strike = self.strikes.pop(what, None)
            if strike is not None:
                strike()
            if body.get("refuse"):
                raise Reject("not today")
            counted = [*(await tx.get("all") or []), what]
            await tx.put("all", counted)
            return {"did": what, "with": body.get("with")}

        return count

    async def _counts(self, tx: Transaction, _: Any) -> list[str]:
        return await tx.get("all") or []


class Stage:
    """A cluster, and a desk."""

    def __init__(self, cluster: ForkedCluster, desk: Desk, client: Client) -> None:
        self.cluster = cluster
        self.desk = desk
        self.client = client

    async def counts(self, what: str) -> list[str]:
        """What has been done for one transaction, in order."""
        url = f"{self.cluster.banks[DESK]}/v1/counts"
        session = self.cluster._http
        async with session.get(url) as response:
            every: list[str] = await response.json()
        return [done.removesuffix(f"-{what}") for done in every if done.endswith(f"-{what}")]

    async def kill_leader_at(self, what: str, run: Callable[[], Any]) -> Ended:
        """Run with a leader that dies in the action `what`; how it ended."""
        leader = await self.cluster.leader()
        process = self.cluster.processes[leader]
        process._may_end = True
        self.desk.strikes[what] = lambda: os.kill(process.pid, signal.SIGKILL)
        ended: Ended = await run()
        await self.client.settled(ended.gid)
        assert not self.desk.strikes, f"{what} was not reached"
        await self.cluster.restart(leader)
        return ended


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    cluster = ForkedCluster(tmp_path, NODES, [DESK])
    del cluster.processes[DESK]
    client = Client(list(cluster.replicas.values()), timeout_s=30.0, attempt_timeout_s=1.0)
    async with _served(tmp_path, cluster) as desk, cluster, client:
        yield Stage(cluster, desk, client)


@asynccontextmanager
async def _served(directory: Path, cluster: ForkedCluster) -> AsyncIterator[Desk]:
    desk = Desk(directory / DESK)
    port = URL(cluster.banks[DESK]).port or 0
    async with desk.participant.serving(port=port, replicas=list(cluster.replicas.values())):
        yield desk


def _permit(client: Client, tag: str) -> Callable[[], Any]:
    """A permit that somebody else grants, and a house."""
    building = client.saga(deadline_ms=2 * DEADLINE_MAX_MS)
    permit = building.step(DESK, "do", {"what": f"permit-{tag}"}, undo="undo", reported="token", takes={"with": OWN})
    building.pivot(DESK, "do", {"what": f"house-{tag}"}, takes={"with": permit})
    return building.start


async def _reported(stage: Stage, tag: str, refused: str = "") -> Ended:
    """Somebody reports as soon as he is asked, whoever leads by then; how it ended."""
    gid = await _permit(stage.client, tag)()
    token = await stage.desk.tokens[f"do permit-{tag}"]
    await (stage.client.decline(token, refused) if refused else stage.client.report(token, tag))
    return await stage.client.wait(gid)


@pytest.mark.timeout(120)
async def test_a_report_counts_wherever_the_leader_dies(stage: Stage) -> None:
    """In the action that begins the work, and in what follows the report."""
    for step in ("do permit", "do house"):
        tag = step.replace(" ", "")
        ended = await stage.kill_leader_at(f"{step}-{tag}", lambda tag=tag: _reported(stage, tag))
        assert isinstance(ended, Committed)
        assert await stage.counts(tag) == ["do permit", "do house"]
    for step in ("do permit", "undo permit"):
        tag = step.replace(" ", "") + "x"
        ended = await stage.kill_leader_at(f"{step}-{tag}", lambda tag=tag: _reported(stage, tag, "no tower here"))
        assert ended == Aborted(ended.gid, "no tower here", "s1")
        assert await stage.counts(tag) == ["do permit", "undo permit"]


@pytest.mark.timeout(120)
async def test_messages_of_one_key_are_delivered_in_order_though_the_leader_dies(stage: Stage) -> None:
    """It dies in the third of them, while others wait for their turn."""
    numbers = range(6)

    async def send_all() -> Ended:
        gids = []
        for number in numbers:
            message = stage.client.message()
            message.when(DESK, "do", {"what": f"order{number}-k"})
            message.send(DESK, "do", {"what": f"news{number}-k"}, order_key="customer-7")
            gids.append(await message.start())
        ended = [await stage.client.wait(gid) for gid in gids]
        for gid in gids:
            await stage.client.settled(gid)
        return ended[-1]

    ended = await stage.kill_leader_at("do news2-k", send_all)
    assert isinstance(ended, Committed)
    counts = await stage.counts("k")
    assert [what for what in counts if what.startswith("do news")] == [f"do news{number}" for number in numbers]
    assert len(counts) == 2 * len(numbers)
