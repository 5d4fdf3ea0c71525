"""What `MemoryGroup` adds to the contract of a log: luck and faults, made on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from raftlog.errors import LogStopped
from raftlog.memory import MemoryGroup, MemoryLog
from raftlog.port import Applied, Leadership, Outcome, Refusal, Refused, Role, Unknown


class Tally:
    """Remembers the commands that were applied, in order."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, index: int, command: bytes) -> int:
        self.commands.append(command)
        return len(self.commands)

    def snapshot(self) -> Iterable[bytes]:
        return [b" ".join(self.commands)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.commands = b"".join(chunks).split()


class World:
    """A group of three, all running; `n1` leads."""

    def __init__(self) -> None:
        self.group = MemoryGroup(["n1", "n2", "n3"], snapshot_every_entries=10)
        self.logs: dict[str, MemoryLog] = {}
        self.machines: dict[str, Tally] = {}

    async def start(self, name: str) -> MemoryLog:
        self.machines[name] = Tally()
        self.logs[name] = self.group.join(name, self.machines[name])
        await self.logs[name].start()
        return self.logs[name]

    async def commands(self, name: str) -> list[bytes]:
        assert isinstance(await self.logs[name].barrier(), Applied)
        return self.machines[name].commands


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    world.group.elect("n1")
    await settled()
    yield world
    for log in world.logs.values():
        await log.stop()


async def settled() -> None:
    """Let every turn that is due be taken: an election needs two of the loop's, a commit three."""
    for _ in range(5):
        await asyncio.sleep(0)


def proposing(log: MemoryLog, command: bytes, command_id: bytes | None = None) -> asyncio.Task[Outcome]:
    return log.propose(command, command_id=command_id)


async def test_a_single_node_leads_as_soon_as_it_is_started() -> None:
    log = MemoryLog.single(Tally())
    await log.start()
    await settled()
    assert log.leadership == Leadership(Role.LEADER, 1, "n1")
    assert await log.propose(b"a") == Applied(1, 1)
    await log.stop()


async def test_nobody_leads_until_somebody_is_elected() -> None:
    group = MemoryGroup(["n1", "n2", "n3"])
    logs = [group.join(name, Tally()) for name in ("n1", "n2", "n3")]
    with pytest.raises(ValueError, match="n1 cannot be elected"):
        group.elect("n1")
    for log in logs:
        await log.start()
    await settled()
    assert {log.leadership for log in logs} == {Leadership(Role.FOLLOWER, 0, None)}
    assert await logs[0].propose(b"a") == Refused(Refusal.NOT_LEADER)
    assert await logs[0].barrier() == Refused(Refusal.NOT_LEADER)
    with pytest.raises(ValueError, match="stranger cannot be elected"):
        group.elect("stranger")
    with pytest.raises(ValueError, match="stranger cannot crash"):
        group.crash("stranger")
    for log in logs:
        await log.stop()


async def test_a_lost_answer_hides_a_command_that_was_applied(world: World) -> None:
    world.group.lose_next_answer(applied=True)
    lost, heard = proposing(world.logs["n1"], b"a", b"id-a"), proposing(world.logs["n1"], b"b")
    assert isinstance(await lost, Unknown)
    assert await heard == Applied(1, 2)
    assert await world.commands("n2") == [b"a", b"b"]
    assert await world.logs["n1"].propose(b"a", command_id=b"id-a") == Applied(2, 1)


async def test_a_lost_answer_hides_a_command_that_never_will_be_applied(world: World) -> None:
    world.group.lose_next_answer(applied=False)
    assert isinstance(await world.logs["n1"].propose(b"a"), Unknown)
    assert await world.logs["n1"].propose(b"b") == Applied(1, 1)
    assert await world.commands("n2") == [b"b"]


async def test_answers_are_lost_in_the_order_in_which_that_was_asked_for(world: World) -> None:
    for applied in (False, True):
        world.group.lose_next_answer(applied=applied)
    outcomes = await asyncio.gather(*(world.logs["n1"].propose(name) for name in (b"a", b"b", b"c")))
    assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown, Applied]
    assert await world.commands("n1") == [b"b", b"c"]


async def test_without_a_majority_nothing_is_applied_until_it_is_back(world: World) -> None:
    world.group.crash("n2")
    world.group.crash("n3")
    task, barrier = proposing(world.logs["n1"], b"a"), asyncio.create_task(world.logs["n1"].barrier())
    await settled()
    assert not task.done()
    assert not barrier.done()
    assert world.machines["n1"].commands == []
    await world.start("n2")
    assert await task == Applied(1, 1)
    assert await barrier == Applied(1, None)
    assert await world.commands("n2") == [b"a"]


async def test_a_read_at_a_follower_waits_for_a_majority_and_no_longer() -> None:
    """Broken on purpose by waking the leader alone when a node starts: red (the reader waits for ever)."""
    group = MemoryGroup([f"n{number}" for number in range(1, 6)])
    logs = [group.join(f"n{number}", Tally()) for number in range(1, 5)]
    for log in logs[:3]:
        await log.start()
    group.elect("n1")
    await settled()
    group.crash("n3")
    barrier = asyncio.create_task(logs[1].barrier())
    await settled()
    assert not barrier.done()
    await logs[3].start()
    async with asyncio.timeout(5):
        assert await barrier == Applied(0, None)
    for log in logs:
        await log.stop()


async def test_what_had_no_majority_is_never_applied_when_another_node_is_elected(world: World) -> None:
    """Broken on purpose by keeping the uncommitted tail at an election: red."""
    world.group.crash("n2")
    world.group.crash("n3")
    task = proposing(world.logs["n1"], b"a")
    await settled()
    world.group.crash("n1")
    assert isinstance(await task, Unknown)
    for name in ("n1", "n2", "n3"):
        await world.start(name)
    world.group.elect("n2")
    await settled()
    assert await world.logs["n2"].propose(b"b") == Applied(1, 1)
    assert await world.commands("n1") == [b"b"]


async def test_a_deposed_leader_refuses_what_was_not_in_the_log_and_does_not_know_about_the_rest(world: World) -> None:
    appended = proposing(world.logs["n1"], b"a")
    await asyncio.sleep(0)  # the node's turn comes first
    waiting = proposing(world.logs["n1"], b"b")
    world.group.elect("n2")
    assert isinstance(await appended, Unknown)
    assert await waiting == Refused(Refusal.NOT_LEADER, "n2")
    assert await world.commands("n2") == [b"a"]
    assert world.logs["n1"].leadership == Leadership(Role.FOLLOWER, 2, "n2")


async def test_the_log_is_cut_to_a_snapshot_and_does_not_grow_for_ever(world: World) -> None:
    for number in range(35):
        await world.logs["n1"].propose(b"%d" % number)
    status = world.logs["n1"].status()
    assert status.last_index == status.applied_index == 35
    assert status.snapshot_index == 30
    assert status.counters == {"entries": 35, "commands": 35}
    world.group.crash("n3")
    await world.start("n3")
    assert len(await world.commands("n3")) == 35


async def test_a_follower_that_reads_ahead_of_the_leader_takes_no_answer_from_it(world: World) -> None:
    """Broken on purpose by letting any node cut the log: red (the tenth proposal is never answered)."""
    for number in range(20):
        proposal = proposing(world.logs["n1"], b"%d" % number)
        barrier = asyncio.create_task(world.logs["n2"].barrier())
        async with asyncio.timeout(5):
            assert isinstance(await proposal, Applied)
            assert isinstance(await barrier, Applied)


async def test_a_handle_has_one_life(world: World) -> None:
    with pytest.raises(ValueError, match="n2 runs already"):
        await world.group.join("n2", Tally()).start()
    world.group.crash("n2")
    with pytest.raises(LogStopped, match="join the group again"):
        await world.logs["n2"].start()


async def test_a_node_outside_the_membership_serves_nothing(world: World) -> None:
    stranger = await world.start("n4")
    assert await stranger.barrier() == Refused(Refusal.NOT_LEADER)
    assert await stranger.propose(b"a") == Refused(Refusal.NOT_LEADER, "n1")
    await world.logs["n1"].propose(b"a")
    await settled()
    assert world.machines["n4"].commands == []
