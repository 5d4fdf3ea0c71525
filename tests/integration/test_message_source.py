"""Messages whose sender commits by itself, with real processes: the sender is killed wherever it could be.

Method: three coordinators and the sender (`tests/fixtures/sender.py`) are processes; the receiver is the desk of
`test_steps.py`. The sender kills itself where it is told, and another process serves its data afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from yarl import URL

from coordinator.client import Aborted, Client, Committed
from coordinator.demo.process import Process
from tests.integration.test_steps import DESK, NODES, Stage, _served
from tests.support.forks import Forked, ForkedCluster

SENDER = "orders"
Start: TypeAlias = Callable[[str, str], Awaitable[Process]]
ROOT = Path(__file__).parents[2]


class Senders(Stage):
    """A cluster, a desk, and one process after the other that sends."""

    async def run(self, gid: str, until: str) -> Process:
        """A process on the sender's data, that comes so far."""
        port = str(URL(self.cluster.banks[SENDER]).port)
        directory = self.cluster.directory
        words = (port, str(directory / SENDER), ",".join(self.cluster.replicas.values()), gid, until)
        process = Forked(SENDER, words, directory / f"{SENDER}.log", module="tests.fixtures.sender")
        await process.start()
        process._may_end = True
        self.cluster.processes[SENDER] = process
        return process

    async def killed(self, gid: str, until: str) -> None:
        """The sender sends, and kills itself there."""
        process = await self.run(gid, until)
        assert process._watching is not None
        await process._watching

    async def serve(self) -> Process:
        """The sender's data are served."""
        process = await self.run("", "nothing")
        await self.cluster.ready(SENDER)
        return process

    async def orders(self) -> list[str]:
        """What the sender has committed."""
        async with self.cluster._http.get(f"{self.cluster.banks[SENDER]}/v1/orders") as response:
            placed: list[str] = await response.json()
        return placed


@pytest.fixture
async def senders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Senders]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with _sending(tmp_path) as made:
        yield made


@asynccontextmanager
async def _sending(directory: Path) -> AsyncIterator[Senders]:
    cluster = ForkedCluster(directory, NODES, [DESK, SENDER])
    for name in (DESK, SENDER):
        del cluster.processes[name]
    client = Client(list(cluster.replicas.values()), timeout_s=30.0, attempt_timeout_s=1.0)
    async with _served(directory, cluster) as desk, cluster, client:
        yield Senders(cluster, desk, client)


@pytest.mark.timeout(120)
async def test_what_the_sender_has_committed_is_sent_although_it_died_before_it_said_so(senders: Senders) -> None:
    """Goal: also when the leader that recorded the message dies, and with the result of the sender's action."""
    await senders.killed("o1", "commit")
    leader = await senders.cluster.leader()
    await senders.cluster.processes[leader].kill()
    await senders.serve()
    assert isinstance(await senders.client.wait("o1"), Committed)
    await senders.client.settled("o1")
    assert await senders.orders() == ["o1"]
    assert await senders.counts("o1") == ["do points"]
    await senders.cluster.restart(leader)


@pytest.mark.timeout(120)
async def test_what_the_sender_has_not_committed_is_never_sent_and_it_is_too_late_for_it_afterwards(
    senders: Senders,
) -> None:
    """Goal: the question itself keeps the late commit out. Seen red with a question that changes nothing."""
    await senders.killed("o2", "prepare")
    process = await senders.serve()
    ended = await senders.client.wait("o2")
    assert isinstance(ended, Aborted)
    assert "order at orders" in ended.reason
    await process.kill()
    await senders.killed("o2", "commit-only")
    await senders.serve()
    assert await senders.orders() == []
    assert await senders.counts("o2") == []


@pytest.mark.timeout(120)
async def test_who_submits_hears_the_decision_without_waiting_for_the_deadline(senders: Senders) -> None:
    await senders.killed("o3", "submit")
    assert isinstance(await senders.client.outcome("o3"), Committed)
    await senders.client.settled("o3")
    assert await senders.counts("o3") == ["do points"]
