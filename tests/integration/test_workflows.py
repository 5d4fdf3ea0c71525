"""Workflows with real processes: the worker, the leader, or both are killed inside every action.

Method: three coordinators and the worker are processes; the participant is in the process of the test, on a real
journal. When the action that the test names runs, it kills before anything is answered, and goes on. Then another
worker is started, and another leader is elected.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from coordinator.client import Branch, Client, Run, verify
from coordinator.client.workflow import worker_of
from coordinator.demo.ports import HOST
from coordinator.errors import TransactionAborted
from coordinator.http.app import serving
from coordinator.webhooks import NoticeView
from tests.house.tree import ROOT
from tests.integration.test_steps import DESK, NODES, Stage, _served
from tests.support.forks import ForkedCluster

ALL = ["do flight", "do hotel", "do pay", "do mail"]
OTHER = ["do flight", "do hostel", "do pay", "confirm hostel", "do mail"]
BACK = ["do flight", "do hotel", "undo hotel", "undo flight"]
SECRET = "whsec_" + "QUJD" * 10


class Box:
    """An application that is notified. `taken`: what it has verified and taken, by id; `away`: it takes nothing."""

    def __init__(self) -> None:
        self.taken: dict[str, NoticeView] = {}
        self.came = asyncio.Event()
        self.away = False
        self.app = web.Application()
        self.app.router.add_post("/notices", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        notice = verify(request.headers, await request.read(), SECRET)
        if self.away:
            return web.Response(status=503)
        self.taken[request.headers["webhook-id"]] = notice
        self.came.set()
        return web.Response(status=204)


class Theatre(Stage):
    """A cluster, a desk, an application at `url`, and a worker at a time."""

    def __init__(self, cluster: ForkedCluster, desk: Any, client: Client, box: Box, url: str) -> None:
        super().__init__(cluster, desk, client)
        self.box = box
        self.url = url
        self.worker: asyncio.subprocess.Process | None = None

    async def employ(self) -> None:
        """Start a worker."""
        self.worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fixtures.trips", *self.cluster.replicas.values()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
        )
        assert self.worker.stdout is not None
        assert await self.worker.stdout.readline() == b"ready\n"

    async def dismiss(self) -> None:
        """End it, if it lives."""
        if self.worker is not None:
            if self.worker.returncode is None:
                os.kill(self.worker.pid, signal.SIGKILL)
            await self.worker.wait()

    async def run_with(self, tag: str, how: str, strike_at: str, *victims: str, **named: str) -> Run:
        """Run a trip, in which those are killed in that action; it is decided, and nothing is owed."""
        leader = await self.cluster.leader()
        process = self.cluster.processes[leader]
        process._may_end = "leader" in victims
        assert self.worker is not None
        pids = [{"leader": process.pid, "worker": self.worker.pid}[victim] for victim in victims]
        self.desk.strikes[f"{strike_at}-{tag}"] = partial(_kill, pids)
        run = await self.client.start("trip", {"tag": tag, "how": how}, gid=tag, **named)
        if "worker" in victims:
            await self.worker.wait()
            await self.employ()
        ended = await self.client.wait(tag)
        await self.client.settled(ended.gid)
        assert not self.desk.strikes, f"{strike_at} was not reached"
        if "leader" in victims:
            await self.cluster.restart(leader)
        return run


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def theatre(tmp_path: Path) -> AsyncIterator[Theatre]:
    cluster = ForkedCluster(tmp_path, NODES, [DESK])
    del cluster.processes[DESK]
    client = Client(list(cluster.replicas.values()), timeout_s=60.0, attempt_timeout_s=1.0)
    box = Box()
    async with serving(box.app, HOST, 0, shutdown_s=0.5) as port, AsyncExitStack() as stack:
        url = f"http://{HOST}:{port}/notices"
        with (tmp_path / "cluster.toml").open("a", encoding="utf-8") as config:
            config.write(f'[notify]\nallow = ["{url}"]\nsecret = "{SECRET}"\n')
        desk = await stack.enter_async_context(_served(tmp_path, cluster))
        await stack.enter_async_context(cluster)
        await stack.enter_async_context(client)
        made = Theatre(cluster, desk, client, box, url)
        stack.push_async_callback(made.dismiss)
        await made.employ()
        yield made


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victims", [("worker",), ("leader",), ("worker", "leader")], ids="-and-".join)
async def test_a_workflow_ends_as_it_should_wherever_one_is_killed(theatre: Theatre, victims: tuple[str, ...]) -> None:
    """Nothing is done twice, and the result is that of the steps that were done once."""
    for step in ALL[:3]:
        tag = step.removeprefix("do ")
        run = await theatre.run_with(tag, "", step, *victims)
        assert await run.result() == {"did": f"do flight-{tag}", "with": None}
        assert await theatre.counts(tag) == ALL


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victims", [("worker",), ("leader",)], ids="-and-".join)
async def test_the_code_takes_the_other_way_again(theatre: Theatre, victims: tuple[str, ...]) -> None:
    """The refusal is recorded as the results are."""
    for step in ("do hostel", "do pay"):
        tag = f"r-{step.removeprefix('do ')}"
        run = await theatre.run_with(tag, "refused", step, *victims)
        assert await run.result() == {"did": f"do flight-{tag}", "with": None}
        counts = await theatre.counts(tag)
        assert counts[:3] == OTHER[:3]
        assert sorted(counts) == sorted(OTHER)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victims", [("worker",), ("leader",)], ids="-and-".join)
async def test_a_workflow_that_fails_is_undone_wherever_one_is_killed(
    theatre: Theatre, victims: tuple[str, ...]
) -> None:
    for number, step in enumerate(BACK):
        tag = f"f{number}"
        run = await theatre.run_with(tag, "fails", step, *victims)
        with pytest.raises(TransactionAborted, match="ValueError: the weather is bad"):
            await run.result()
        assert await theatre.counts(tag) == BACK


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["", "fails"], ids=["commits", "fails"])
async def test_its_application_is_told_and_finds_it_by_its_key_whoever_dies(theatre: Theatre, how: str) -> None:
    """The worker and the leader die; the application is away until all is over. What is told is signed."""
    theatre.box.away = True
    tag, outcome = f"told-{how}", "aborted" if how else "committed"
    await theatre.run_with(tag, how, "do hotel", "worker", "leader", key="order-7", notify=theatre.url)
    leader = await theatre.cluster.leader()
    theatre.cluster.processes[leader]._may_end = True
    os.kill(theatre.cluster.processes[leader].pid, signal.SIGKILL)
    theatre.box.away = False
    await asyncio.wait_for(theatre.box.came.wait(), 60)
    assert [(view.gid, view.outcome.value) for view in await theatre.client.by_key("order-7")] == [(tag, outcome)]
    (notice,) = theatre.box.taken.values()
    assert (notice.type, notice.data.key, notice.data.outcome) == ("transaction.ended", "order-7", outcome)
    assert [view.outcome.value async for view in theatre.client.events(tag)] == [outcome]


@pytest.mark.timeout(120)
async def test_what_an_operator_gives_up_telling_is_told_by_nobody_any_more(theatre: Theatre) -> None:
    """Every replica is killed then, and reads its log anew."""
    theatre.box.away = True
    run = await theatre.client.start("trip", {"tag": "t", "how": ""}, gid="t", notify=theatre.url)
    assert await run.result() is not None
    await theatre.client.settled("t")
    words = ("drop-notice", "t", "--reason", "the shop is gone", "--operator", "olivia", "--json")
    url = ",".join(theatre.cluster.replicas.values())
    commitd = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator", "txn", *words, "--url", url), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await commitd.communicate()
    assert (commitd.returncode, json.loads(said)["notice_dropped"]) == (0, "dropped by olivia: the shop is gone")
    for name in NODES:
        await theatre.cluster.processes[name].kill()
    theatre.box.away = False
    for name in NODES:
        await theatre.cluster.processes[name].start()
    for name in NODES:
        await theatre.cluster.ready(name)
    view = await theatre.client.record("t")
    assert (view.notice_dropped, view.doing) == ("dropped by olivia: the shop is gone", None)
    assert await theatre.client.commit([Branch(DESK, "do", {"what": "other"})], notify=theatre.url)
    await asyncio.wait_for(theatre.box.came.wait(), 30)
    assert "t" not in {notice.data.gid for notice in theatre.box.taken.values()}  # which the same leader had owed first


async def test_a_workflow_that_nobody_offers_waits_and_shows_it(theatre: Theatre) -> None:
    await theatre.client.start("unheard-of", None, gid="waits")
    assert await worker_of(theatre.client, "waits") is None
    view = await theatre.client.record("waits")
    assert view.workflow is not None
    assert (view.workflow.name, view.phase.value) == ("unheard-of", "preparing")
