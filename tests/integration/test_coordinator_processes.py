"""Real processes, a real disk, real sockets: what was answered survives `kill -9`, and what is open goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coordinator.client import Aborted, Branch, Client, Committed
from coordinator.demo.cluster import Cluster
from coordinator.errors import TransactionAborted, Unavailable, WorkFailed

NODES = ("n1", "n2", "n3")
BANKS = ("bank-a", "bank-b")
OPEN = [
    Branch("bank-a", "open", {"account": "bob", "balance": 100}),
    Branch("bank-b", "open", {"account": "smith", "balance": 0}),
]


def transfer(amount: int) -> list[Branch]:
    return [
        Branch("bank-a", "debit", {"account": "bob", "amount": amount}),
        Branch("bank-b", "credit", {"account": "smith", "amount": amount}),
    ]


def client_of(made: Cluster) -> Client:
    return Client(list(made.replicas.values()), timeout_s=20.0, attempt_timeout_s=1.0)


@pytest.mark.timeout(120)
async def test_transfers_survive_the_death_of_every_process(tmp_path: Path) -> None:
    async with Cluster(tmp_path, NODES, BANKS) as made, client_of(made) as client:
        assert await client.commit(OPEN, gid="open") == Committed("open")
        await client.settled("open")
        assert await client.commit(transfer(30), gid="first") == Committed("first")
        refused = await client.commit(transfer(1_000), gid="too-much")
        assert isinstance(refused, Aborted)
        assert refused.branch == "b1"

        under_way = asyncio.ensure_future(client.commit(transfer(20), gid="second"))
        await made.processes[await made.leader()].kill()
        assert await under_way == Committed("second")

        for process in made.processes.values():
            await process.kill()
        for process in made.processes.values():
            await process.start()
        for name in made.processes:
            await made.ready(name)
        for gid in ("open", "first", "second"):
            assert await client.wait(gid) == Committed(gid)
        assert await client.outcome("too-much") == refused
        assert await client.commit(transfer(50), gid="third") == Committed("third")
        assert isinstance(await client.commit(transfer(1), gid="empty"), Aborted)


@pytest.mark.timeout(120)
async def test_the_interactive_style_commits_all_or_rolls_back_all(tmp_path: Path) -> None:
    async with Cluster(tmp_path, NODES[:1], BANKS) as made, client_of(made) as client:
        await client.settled((await client.commit(OPEN)).gid)
        async with client.transaction() as tx:
            await tx.call("bank-a", "debit", {"account": "bob", "amount": 40})
            await tx.call("bank-b", "credit", {"account": "smith", "amount": 40})
        assert (await client.record(tx.gid)).outcome == "committed"

        async def interrupted() -> None:
            async with client.transaction() as undone:
                await undone.call("bank-a", "debit", {"account": "bob", "amount": 60})
                raise ZeroDivisionError

        async def overdrawn() -> None:
            async with client.transaction() as refused:
                await refused.call("bank-b", "credit", {"account": "smith", "amount": 61})
                await refused.call("bank-a", "debit", {"account": "bob", "amount": 61})

        with pytest.raises(ZeroDivisionError):
            await interrupted()
        with pytest.raises((TransactionAborted, WorkFailed)):
            await overdrawn()
        assert isinstance(await client.commit(transfer(60)), Committed)
        assert isinstance(await client.commit(transfer(1)), Aborted)


class Serving:
    """One replica as a child of this process."""

    def __init__(self, child: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.child = child
        self.url = url
        self.log = log

    async def status(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(20):
            return await self.child.wait()

    async def serves(self) -> None:
        """Wait until it answers."""
        async with Client([self.url], timeout_s=20.0) as client:
            await client.cluster()


@asynccontextmanager
async def serving(directory: Path, client_port: int, raft_port: int) -> AsyncIterator[Serving]:
    """`commitd serve` of a cluster with one node."""
    (directory / "cluster.toml").write_text(
        f"""
        [cluster]
        id = "test"
        secret = "only for this test, on loopback"
        [[nodes]]
        name = "n1"
        raft_address = "127.0.0.1:{raft_port}"
        client_address = "127.0.0.1:{client_port}"
        data_dir = "n1"
        """,
        encoding="utf-8",
    )
    command = ("-m", "coordinator", "serve", "--config", str(directory / "cluster.toml"), "--node", "n1")
    with (directory / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=log, stderr=log)
    try:
        yield Serving(child, f"http://127.0.0.1:{client_port}", directory / "log")
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two ports that nobody uses now."""
    with socket.socket() as one, socket.socket() as other:
        for taken in (one, other):
            taken.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_replica_stops_when_it_is_told_to_and_logs_json(
    tmp_path: Path, ports: tuple[int, int], number: signal.Signals
) -> None:
    async with serving(tmp_path, *ports) as replica:
        await replica.serves()
        replica.child.send_signal(number)
        assert await replica.status() == 0
        lines = [json.loads(line) for line in replica.log.read_text(encoding="utf-8").splitlines()]
        assert {"replica.serves", "replica.stops"} <= {line["event"] for line in lines}
        assert {line["node"] for line in lines} == {"n1"}
        async with Client([replica.url], timeout_s=0.2) as client:
            with pytest.raises(Unavailable):
                await client.cluster()


@pytest.mark.timeout(60)
async def test_a_replica_whose_port_is_taken_says_so_in_one_line_and_ends(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", ports[0])
    async with taken, serving(tmp_path, *ports) as replica:
        assert await replica.status() == 1
        text = replica.log.read_text(encoding="utf-8")
        (said,) = [line for line in text.splitlines() if line.startswith("commitd: ")]
        assert said.startswith(f"commitd: cannot listen on 127.0.0.1:{ports[0]}: ")
        assert "Traceback" not in text
