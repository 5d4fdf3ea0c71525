"""Workflows with real processes: the worker, the leader, or both are killed inside every action.

Method: three coordinators and the worker are processes; the participant is in the process of the test, on a real
journal. When the action that the test names runs, it kills before anything is answered, and goes on. Then another
worker is started, and another leader is elected.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import Client, Run
from coordinator.client.workflow import worker_of
from coordinator.demo.cluster import Cluster
from coordinator.errors import TransactionAborted
from tests.house.tree import ROOT
from tests.integration.test_steps import DESK, NODES, Stage, _served

ALL = ["do flight", "do hotel", "do pay", "do mail"]
OTHER = ["do flight", "do hostel", "do pay", "confirm hostel", "do mail"]
BACK = ["do flight", "do hotel", "undo hotel", "undo flight"]


class Theatre(Stage):
    """A cluster, a desk, and a worker at a time."""

    def __init__(self, cluster: Cluster, desk: Any, client: Client) -> None:
        super().__init__(cluster, desk, client)
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

    async def run_with(self, tag: str, how: str, strike_at: str, *victims: str) -> Run:
        """Run a trip, in which those are killed in that action; it is decided, and nothing is owed."""
        leader = await self.cluster.leader()
        process = self.cluster.processes[leader]
        process._may_end = "leader" in victims
        assert self.worker is not None
        pids = [{"leader": process.pid, "worker": self.worker.pid}[victim] for victim in victims]
        self.desk.strikes[f"{strike_at}-{tag}"] = partial(_kill, pids)
        run = await self.client.start("trip", {"tag": tag, "how": how}, gid=tag)
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
    cluster = Cluster(tmp_path, NODES, [DESK])
    del cluster.processes[DESK]
    client = Client(list(cluster.replicas.values()), timeout_s=60.0, attempt_timeout_s=1.0)
    async with _served(tmp_path, cluster) as desk, cluster, client, AsyncExitStack() as stack:
        made = Theatre(cluster, desk, client)
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


async def test_a_workflow_that_nobody_offers_waits_and_shows_it(theatre: Theatre) -> None:
    await theatre.client.start("unheard-of", None, gid="waits")
    assert await worker_of(theatre.client, "waits") is None
    view = await theatre.client.record("waits")
    assert view.workflow is not None
    assert (view.workflow.name, view.phase.value) == ("unheard-of", "preparing")
