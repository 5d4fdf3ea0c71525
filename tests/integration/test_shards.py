"""Two shards on three machines, as real processes: one command a machine, and a shard's trouble stays its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count, islice
from pathlib import Path

import aiohttp
import pytest

from coordinator.client import Branch, Client, Committed
from coordinator.demo.cluster import Cluster
from coordinator.demo.ports import Ports
from coordinator.shards import shard_of
from participant.ids import BranchKey
from participant.outcomes import HttpOutcomeSource, Outcome

NODES = ("n1", "n2", "n3")
BANKS = ("bank-a", "bank-b")
SHARDS = 2
WAIT_S = 30.0
POLL_S = 0.02


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, NODES, BANKS, shards=SHARDS) as running:
        yield running


def gids(shard: int, prefix: str) -> list[str]:
    """Some gids of a shard."""
    names = (f"{prefix}{number}" for number in count())
    return list(islice((name for name in names if shard_of(name, SHARDS) == shard), 5))


def client_at(*urls: str) -> Client:
    return Client(urls, timeout_s=20.0, attempt_timeout_s=1.0)


def opening(gid: str) -> list[Branch]:
    """What any transaction does here: it opens an account of its own at both banks."""
    return [Branch(bank, "open", {"account": gid, "balance": 1}) for bank in BANKS]


async def commit(client: Client, *names: str) -> None:
    for gid in names:
        assert await client.commit(opening(gid), gid=gid) == Committed(gid)


def log_of(made: Cluster, node: str) -> Path:
    return made.directory / f"{node}.log"


def lines(log: Path, event: str) -> list[dict[str, object]]:
    """What a parent or its children have logged so."""
    text = log.read_text(encoding="utf-8")
    said = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return [line for line in said if line["event"] == event]


def children(log: Path) -> dict[int, int]:
    """The process that was started last for each shard."""
    return {int(str(line["shard"])): int(str(line["pid"])) for line in lines(log, "group.starts")}


def children_of(pid: int) -> list[int]:
    """The child processes that there are now."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def fill(pipe: int) -> None:
    """Write into a pipe until not one more byte finds room."""
    os.set_blocking(pipe, False)
    for size in (4_096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(pipe, b"x" * size)
    os.set_blocking(pipe, True)


async def until_it_hangs(session: aiohttp.ClientSession, url: str) -> None:
    """A process may answer once more before it heeds a signal. Raises TimeoutError if it never stops answering."""

    async def answers() -> bool:
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=1.0)):
                return True
        except TimeoutError:
            return False

    async with asyncio.timeout(WAIT_S):
        while await answers():  # noqa: ASYNC110 - other processes set no events of ours
            await asyncio.sleep(POLL_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - other processes set no events of ours
            await asyncio.sleep(POLL_S)


@pytest.mark.timeout(120)
async def test_every_gid_is_committed_in_its_shard_from_any_replica_of_any_shard(made: Cluster) -> None:
    """Goal: any URL is good enough: for the client, for `curl -L`, and for a participant in doubt."""
    ours, theirs = gids(0, "a"), gids(1, "a")
    for node in NODES:
        for shard in range(SHARDS):
            async with client_at(made.url(node, shard)) as client:
                await commit(client, *ours, *theirs)
                assert {view.gid async for view in client.transactions()} == {*ours, *theirs}
    for shard, names in enumerate((ours, theirs)):
        for node in NODES:
            async with Client([made.url(node, shard)], routed=False) as client:
                assert {view.gid async for view in client.transactions()} == set(names)
    async with aiohttp.ClientSession() as session:
        for node in NODES:
            async with session.get(f"{made.url(node, 0)}/v1/transactions/{theirs[0]}") as answer:
                assert (await answer.json())["outcome"] == "committed"
    for node in NODES:
        source = HttpOutcomeSource("bank-a", [made.url(node, 0)])
        await source.start()
        try:
            assert await source.inquire(BranchKey(theirs[0], "b1")) is Outcome.COMMITTED
        finally:
            await source.stop()


@pytest.mark.timeout(120)
async def test_kill_minus_9_of_one_shards_process_stops_only_that_shard_and_it_comes_back(made: Cluster) -> None:
    """Goal: the other shard on the same machine neither stops nor loses its leader; the parent starts the dead one
    again, which still has what it had.
    """
    leader = await made.leader(1)
    async with client_at(*made.replicas.values()) as client:
        await commit(client, *gids(0, "before"), *gids(1, "before"))
        before = children(log_of(made, leader))
        async with Client([made.url(leader, 0)], routed=False) as beside:
            term = (await beside.cluster()).term
            os.kill(before[1], signal.SIGKILL)
            await commit(client, *gids(0, "during"), *gids(1, "during"))
            await until(lambda: children(log_of(made, leader))[1] != before[1])
            await made.ready(leader)
            assert (await beside.cluster()).term == term
        after = children(log_of(made, leader))
        assert (after[0], after[1] != before[1]) == (before[0], True)
        (death,) = lines(log_of(made, leader), "group.died")
        assert (death["shard"], death["why"]) == (1, "it ended with status -9")
        async with Client([made.url(leader, 1)], routed=False) as restarted:
            recorded = {view.gid async for view in restarted.transactions()}
    assert recorded == {*gids(1, "before"), *gids(1, "during")}


class Machine:
    """One machine, and thereby all of a cluster: `parent` is its process, `log` what it and its children say."""

    def __init__(self, directory: Path, raft_port: int, client_port: int) -> None:
        self.log = directory / "n1.log"
        self.urls = [f"http://127.0.0.1:{client_port + shard}" for shard in range(SHARDS)]
        self._config = directory / "cluster.toml"
        self._config.write_text(
            f"""
            [cluster]
            id = "test"
            secret = "only for this test, on loopback"
            shards = {SHARDS}
            [[nodes]]
            name = "n1"
            raft_address = "127.0.0.1:{raft_port}"
            client_address = "127.0.0.1:{client_port}"
            data_dir = "n1"
            """,
            encoding="utf-8",
        )

    @asynccontextmanager
    async def serving(self, log_to: int | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
        """`commitd serve`, until it serves every shard; killed at the end if it is still there.

        With `log_to`, it logs there, and who its children are is for the test to know.
        """
        command = ("-P", "-m", "coordinator", "serve", "--config", str(self._config), "--node", "n1")
        with self.log.open("ab") as log:
            parent = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=log, stderr=log if log_to is None else log_to
            )
        try:
            for url in self.urls:
                async with Client([url], timeout_s=WAIT_S, routed=False) as client:
                    await client.cluster()
            yield parent
        finally:
            if parent.returncode is None:
                parent.kill()
            await parent.wait()
            for pid in filter(is_alive, children(self.log).values()):  # a test has failed
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """In the directory of a user who calls a package as one of ours. Seen red without `-P` for the children."""
    (tmp_path / "participant").mkdir()
    (tmp_path / "participant" / "__init__.py").write_text("raise SystemExit('not ours')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ports = Ports()
    yield Machine(tmp_path, ports.take(SHARDS), ports.take(SHARDS))
    ports.close()


@pytest.mark.timeout(120)
async def test_the_death_of_the_parent_by_kill_minus_9_takes_its_children_with_it(machine: Machine) -> None:
    """Goal: no replica is left that nobody supervises, and the parent can be started again at once, for ports and
    directories are free. Seen red without `--until-eof`.
    """
    async with machine.serving() as parent:
        before = children(machine.log)
        parent.kill()
        assert await parent.wait() == -signal.SIGKILL
        await until(lambda: not any(is_alive(pid) for pid in before.values()))
    assert len(lines(machine.log, "replica.orphaned")) == SHARDS
    assert lines(machine.log, "replica.stops") == []
    async with machine.serving():
        assert not set(before.values()) & set(children(machine.log).values())
        assert lines(machine.log, "group.died") == []


@pytest.mark.timeout(120)
async def test_children_whose_event_loops_hang_die_with_their_parent_too(machine: Machine) -> None:
    """Goal: a replica that cannot do anything else, not even log, can still end.

    Method: nobody reads the log and its pipe is full; told to stop, every child hangs in the line that says so. Seen
    red without the term that an orphan sets itself, and when the event loop watches standard input.
    """
    unread, full = os.pipe()
    pids: list[int] = []
    try:
        async with machine.serving(full) as parent, aiohttp.ClientSession() as session:
            pids += children_of(parent.pid)
            assert len(pids) == SHARDS
            fill(full)
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            for url in machine.urls:
                await until_it_hangs(session, f"{url}/v1/cluster")
            parent.kill()
            await parent.wait()
            await until(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        for pid in filter(is_alive, pids):  # the test has failed
            os.kill(pid, signal.SIGKILL)
        os.close(unread)
        os.close(full)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_parent_that_is_told_to_stop_stops_its_children_first(machine: Machine, number: signal.Signals) -> None:
    """Goal: told by its pid alone, as a service manager does; the children end in order, not by force."""
    async with machine.serving() as parent:
        pids = children(machine.log).values()
        parent.send_signal(number)
        assert await asyncio.wait_for(parent.wait(), WAIT_S) == 0
        assert not any(is_alive(pid) for pid in pids)
    ended = lines(machine.log, "group.stopped")
    assert {(line["shard"], line["why"]) for line in ended} == {(n, "it ended with status 0") for n in range(SHARDS)}
    assert {line["shard"] for line in lines(machine.log, "replica.stops")} == set(range(SHARDS))
    assert lines(machine.log, "group.died") == []


@pytest.mark.timeout(120)
async def test_a_child_that_cannot_start_is_tried_again_and_the_other_shard_serves(machine: Machine) -> None:
    """Goal: a port that somebody else has keeps one shard away, for as long as that lasts, and no other."""
    host, port = "127.0.0.1", int(machine.urls[1].rpartition(":")[2])
    taken = await asyncio.start_server(lambda _, writer: writer.close(), host, port)
    machine.urls.pop()
    async with machine.serving():
        await until(lambda: len(lines(machine.log, "group.died")) >= 2)
        taken.close()
        await taken.wait_closed()
        async with Client([f"http://{host}:{port}"], timeout_s=WAIT_S, routed=False) as client:
            assert (await client.cluster()).shard == 1
    assert {(line["shard"], line["why"]) for line in lines(machine.log, "group.died")} == {
        (1, "it ended with status 1")
    }
    assert f"commitd: cannot listen on {host}:{port}: " in machine.log.read_text(encoding="utf-8")


@pytest.mark.timeout(60)
async def test_replicas_that_do_not_agree_on_the_number_of_shards_refuse_each_other_and_say_why(tmp_path: Path) -> None:
    """Goal: a machine with another configuration is found in the log, and cannot take part in anything.

    Method: two of three nodes, of which one is told by a variable that there are more shards.
    """
    ports = Ports()
    config = ["[cluster]", 'id = "test"', 'secret = "only for this test, on loopback"', "shards = 2"]
    for name in NODES:
        raft, client = ports.take(4), ports.take(4)
        config += ["[[nodes]]", f'name = "{name}"', f'data_dir = "{name}"']
        config += [f'raft_address = "127.0.0.1:{raft}"', f'client_address = "127.0.0.1:{client}"']
    (tmp_path / "cluster.toml").write_text("\n".join(config), encoding="utf-8")
    command = ("-m", "coordinator", "serve", "--config", str(tmp_path / "cluster.toml"), "--shard", "0", "--node")
    replicas = []
    try:
        for name, shards in (("n1", "2"), ("n2", "4")):
            with (tmp_path / f"{name}.log").open("wb") as log:
                environment = {**os.environ, "COMMITD_CLUSTER__SHARDS": shards}
                replicas.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, *command, name, stdout=log, stderr=log, env=environment
                    )
                )
        for name, ours, theirs in (("n1", 2, 4), ("n2", 4, 2)):
            why = f"the peer belongs to cluster 'test/shard-0-of-{theirs}', we to 'test/shard-0-of-{ours}'"
            await until(lambda log=tmp_path / f"{name}.log", why=why: why in log.read_text(encoding="utf-8"))
    finally:
        for replica in replicas:
            replica.kill()
            await replica.wait()
        ports.close()
