"""The examples without us commit together under a real coordinator, and ask it when they are in doubt."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from coordinator.client import Aborted, Branch, Client, Committed
from participant.ids import BranchKey
from participant.testing import Bench, Target
from participant.wire import BranchState
from tests.support.foreign import ROOT, STOCK, node, stdlib
from tests.support.impostor import Impostor, impostor
from tests.support.ports import free_addresses

ENDED_WITHIN_S = 30.0  # after 5 s of grace
LOOK_EVERY_S = 0.1


@asynccontextmanager
async def coordinating(directory: Path, participants: dict[str, str], client: str) -> AsyncIterator[Client]:
    """One replica, as a process."""
    raft, _ = free_addresses(2)
    config = directory / "cluster.toml"
    listed = "\n".join(f'{name} = "{url}"' for name, url in participants.items())
    config.write_text(
        '[cluster]\nid = "foreign"\nsecret = "sixteen bytes or more"\n'
        f'[[nodes]]\nname = "n1"\nraft_address = "{raft}"\nclient_address = "{client}"\ndata_dir = "n1"\n'
        f"[participants]\n{listed}\n",
        encoding="utf-8",
    )
    command = ("-m", "coordinator", "serve", "--config", str(config), "--node", "n1", "--log-level", "ERROR")
    child = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
    try:
        async with Client([f"http://{client}"], timeout_s=20.0) as made:
            yield made
    finally:
        child.kill()
        await child.wait()


async def until_it_is(bench: Bench, key: BranchKey, state: BranchState) -> None:
    ends_at = asyncio.get_running_loop().time() + ENDED_WITHIN_S
    while (said := await bench.outcome(key)).state is not state:
        assert asyncio.get_running_loop().time() < ends_at, said.said()
        await asyncio.sleep(LOOK_EVERY_S)


async def views(shelf: Bench, hall: Bench) -> tuple[Any, Any]:
    return (await shelf.talk.get("/v1/shelf")).value["mug"], (await hall.talk.get("/v1/rows")).value.get("A", 0)


async def test_they_commit_together_and_abort_what_nobody_knows(tmp_path: Path) -> None:
    """Goal: they are participants, not only passers of checks: all or nothing, and no branch stays in doubt.

    Seen red: the coordinator spoke msgpack only, and neither of them does.
    """
    (address,) = free_addresses(1)
    replica = ("--replica", f"http://{address}")
    targets = (await stdlib(tmp_path, *replica), await node(tmp_path, *replica))
    async with targets[0].open() as shelf, targets[1].open() as hall:
        urls = {"shelf": targets[0].url, "hall": targets[1].url}
        async with coordinating(tmp_path, urls, address) as client:
            both = [Branch("shelf", "reserve", {"item": "mug", "pieces": 2}), Branch("hall", "book", targets[1].body)]
            done = await client.commit(both)
            assert isinstance(done, Committed)
            await client.settled(done.gid)
            assert await views(shelf, hall) == (STOCK - 2, 1)

            for alone in both:  # in one phase
                assert isinstance(await client.commit([alone]), Committed)
            assert await views(shelf, hall) == (STOCK - 4, 2)

            too_many = Branch("hall", "book", {"row": "ZZZ", "seats": 1})
            refused = await client.commit([both[0], too_many])
            assert isinstance(refused, Aborted)
            assert refused.reason == "a row, A to ZZ, is wanted"
            await client.settled(refused.gid)
            assert await views(shelf, hall) == (STOCK - 4, 2)

            orphans = [await bench.prepared() for bench in (shelf, hall)]
            for bench, key in zip((shelf, hall), orphans, strict=True):
                await until_it_is(bench, key, BranchState.ABORTED)


class Replica(Impostor):
    """Says that every transaction was committed; or sends to who says it."""

    def __init__(self, leader: str = "") -> None:
        super().__init__()
        self._leader = leader

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.path, await request.read()))
        if self._leader:
            return web.Response(status=307, headers={"Location": self._leader + request.path})
        gid = request.path.split("/")[3]
        return web.json_response({"gid": gid, "outcome": "committed"})


@pytest.mark.parametrize("make", [stdlib, node], ids=lambda make: make.__name__)
async def test_one_in_doubt_asks_the_replica_that_leads(make: Any, tmp_path: Path) -> None:
    """Goal: the question is that of the contract, it goes to where a 307 points, and its answer ends the branch."""
    async with impostor(Replica()) as leader, impostor(Replica(leader.url)) as follower:
        target: Target = await make(tmp_path, "--replica", "http://127.0.0.1:1", "--replica", follower.url)
        async with target.open() as bench:
            key = await bench.prepared()
            await bench.restart()
            await until_it_is(bench, key, BranchState.COMMITTED)
            method, path, body = leader.seen[-1]
            assert (method, path) == ("POST", f"/v1/transactions/{key.gid}/outcome")
            assert json.loads(body) == {"participant": bench.capabilities["name"], "branch": key.branch}
            assert (await bench.talk.get("/v1/in-doubt")).value == {"branches": []}
