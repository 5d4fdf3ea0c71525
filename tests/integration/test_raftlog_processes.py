"""Three processes with real disks and real sockets, killed and frozen at random moments while clients write.

What is tested is what a caller may believe: applied means for ever, refused means never, unknown means once or never.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.lognode import LogNode
from tests.support.ports import free_addresses

NAMES = ("n1", "n2", "n3")
PATIENCE_S = 30.0
IN_FLIGHT = 40


class Processes:
    """The cluster, and what its clients were told: `applied` in the order of the answers, the rest by outcome."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._members = dict(zip(NAMES, free_addresses(len(NAMES)), strict=True))
        self.nodes: dict[str, LogNode] = {}
        self.applied: list[str] = []
        self.refused: set[str] = set()
        self.unknown: set[str] = set()

    async def start(self, *names: str) -> None:
        started = await asyncio.gather(
            *(LogNode.start(self._directory / name, name, self._members) for name in names or NAMES)
        )
        for name, node in zip(names or NAMES, started, strict=True):
            assert node.failure is None
            self.nodes[name] = node

    async def leader(self, *, other_than: str = "") -> str:
        """The node that leads in the highest term, once one does."""
        async with asyncio.timeout(PATIENCE_S):
            while not (leading := [n for n, node in self.nodes.items() if node.leads and n != other_than]):
                waiting = [asyncio.ensure_future(node.until(lambda n=node: n.leads)) for node in self.nodes.values()]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        return max(leading, key=lambda name: self.nodes[name].leadership.term)

    async def propose(self, node: LogNode, command: str) -> str:
        """And note what was said."""
        answer = await node.ask("propose", command=command)
        match answer["outcome"]:
            case "applied":
                self.applied.append(command)
            case "refused":
                self.refused.add(command)
            case _:
                self.unknown.add(command)
        return str(answer["outcome"])

    async def write(self, name: str, prefix: str) -> None:
        """Clients that write as fast as they are answered, until the node is gone or leads no more."""

        node = self.nodes[name]

        async def client(number: int) -> None:
            count = 0
            while await self.propose(node, f"{prefix}-{number}-{count}") == "applied":
                count += 1

        async with asyncio.TaskGroup() as group:
            for number in range(IN_FLIGHT):
                group.create_task(client(number))

    async def kill(self, *names: str) -> None:
        """kill -9, and hear the last that was said."""
        for name in names:
            self.nodes[name].signal(signal.SIGKILL)
        for name in names:
            await self.nodes.pop(name).gone()

    async def tape(self, name: str) -> list[str]:
        """What the node's state machine holds behind a read point."""
        async with asyncio.timeout(PATIENCE_S):
            while (answer := await self.nodes[name].ask("barrier"))["outcome"] != "applied":
                await self.leader()
        return list(answer["commands"])

    async def check(self) -> None:
        """On every node the same: everything applied, nothing refused, nothing twice."""
        tapes = [await self.tape(name) for name in self.nodes]
        assert all(tape == tapes[0] for tape in tapes)
        tape = tapes[0]
        kept = set(tape)
        assert len(kept) == len(tape), "applied twice"
        assert not (lost := set(self.applied) - kept), f"{len(lost)} of {len(self.applied)} acknowledged are lost"
        assert not kept & self.refused, "refused, and applied all the same"
        assert kept <= {*self.applied, *self.unknown}, "never proposed"

    async def close(self) -> None:
        for node in self.nodes.values():
            with suppress(ProcessLookupError):
                await node.stop()


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    cluster = Processes(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.close()


async def test_what_was_acknowledged_survives_kill_9_of_everything_at_any_moment(processes: Processes) -> None:
    """Six rounds; in each the clients write for a random time, then all processes are killed at once.

    Red when an acknowledged entry is kept in memory only (`WriteAheadLog.write` appends nothing), and when recovery
    begins an empty log.
    """
    dice = random.Random(4)
    for round_number in range(6):
        writing = asyncio.create_task(processes.write(await processes.leader(), f"r{round_number}"))
        await asyncio.sleep(dice.uniform(0.05, 0.5))  # not to synchronise: this is the moment
        await processes.kill(*NAMES)
        await writing
        await processes.start()
    await processes.check()
    assert len(processes.applied) > 200


async def test_what_a_killed_leader_owed_is_applied_at_most_once_and_once_when_asked_again(
    processes: Processes,
) -> None:
    """Every command without an answer is proposed again with the same id: then each is there, once.

    Red when the window of command ids is not kept (`DEDUPE_WINDOW` of 0), or not restored from a snapshot.
    """
    for round_number in range(3):
        leader = await processes.leader()
        writing = asyncio.create_task(processes.write(leader, f"r{round_number}"))
        await asyncio.sleep(0.2)  # not to synchronise: this is the moment
        await processes.kill(leader)
        await writing
        owed, processes.unknown = processes.unknown, set()
        survivor = await processes.leader()
        for command in sorted(owed):
            assert await processes.propose(processes.nodes[survivor], command) == "applied"
        await processes.start(leader)
    await processes.check()
    assert processes.unknown == set()


async def test_a_leader_that_was_frozen_wakes_up_and_has_promised_nothing_false(processes: Processes) -> None:
    """Its clients wait; another is elected and writes; then it runs again, still in the belief that it leads.

    Red when a deposed leader answers as if it still led: when acknowledgements of an older term are counted, or when
    what is in its log is called applied.
    """
    for round_number in range(2):
        frozen = await processes.leader()
        writing = asyncio.create_task(processes.write(frozen, f"frozen{round_number}"))
        await asyncio.sleep(0.1)  # not to synchronise: this is the moment
        processes.nodes[frozen].signal(signal.SIGSTOP)
        other = await processes.leader(other_than=frozen)
        assert await processes.propose(processes.nodes[other], f"meanwhile{round_number}") == "applied"
        processes.nodes[frozen].signal(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            await writing
    await processes.check()


async def test_a_second_process_on_the_same_port_says_so_and_ends(processes: Processes, tmp_path: Path) -> None:
    again = await LogNode.start(tmp_path / "elsewhere", "n1", processes._members)
    assert again.failure is not None
    assert "in use" in again.failure
    assert await again.gone() == 1


async def test_a_process_whose_disk_rotted_says_where_and_does_not_start(processes: Processes, tmp_path: Path) -> None:
    """Red when `WriteAheadLog.recover` does not look for later batches."""
    leader = await processes.leader()
    for number in range(20):
        assert await processes.propose(processes.nodes[leader], f"w{number}") == "applied"
    victim = next(name for name in NAMES if name != leader)
    await processes.kill(victim)
    (file,) = (tmp_path / victim).glob("journal-*.wal")
    data = bytearray(file.read_bytes())
    data[data.rindex(b"\xc7WAL") // 2] ^= 0xFF  # in the middle of what was written; reserved room follows
    file.write_bytes(data)
    node = await LogNode.start(tmp_path / victim, victim, processes._members)
    assert node.failure is not None
    assert f"{file.name} is corrupt at byte" in node.failure
    assert await node.gone() == 1
    await processes.check()


async def test_processes_start_again_after_a_quiet_stop(processes: Processes) -> None:
    leader = processes.nodes[await processes.leader()]
    answers: list[Any] = await asyncio.gather(*(processes.propose(leader, f"w{n}") for n in range(200)))
    assert set(answers) == {"applied"}
    codes = [await node.stop() for node in processes.nodes.values()]
    assert codes == [0, 0, 0]
    processes.nodes.clear()
    await processes.start()
    await processes.check()
