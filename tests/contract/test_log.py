"""The promises of `raftlog.port.ReplicatedLog`, kept by every implementation of it.

Each test gets a running cluster of three nodes and speaks to it through the port alone; `Cluster` adds what only
the world outside a log can do: crash a node, start it again, wait for an election.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from structlog.testing import capture_logs

from coordinator.simulation.disk import SimDisk
from raftlog.config import LogConfig, Security, Timing
from raftlog.machine import COMMAND_BYTES_MAX, COMMAND_ID_BYTES_MAX
from raftlog.memory import MemoryGroup
from raftlog.node import RaftLog
from raftlog.port import (
    Applied,
    Leadership,
    Member,
    Outcome,
    Refusal,
    Refused,
    ReplicatedLog,
    Role,
    StateMachine,
    Unknown,
)
from tests.support.ports import free_addresses

NAMES = ("n1", "n2", "n3")
SNAPSHOT_EVERY_ENTRIES = 20
PATIENCE_S = 20.0
BACK_OFF_S = 0.005


class Words(StateMachine):
    """Remembers every word that was applied, in order; an apply of `POISON` is the bug in the user's code."""

    POISON = b"poison"

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, index: int, command: bytes) -> Any:
        if command == self.POISON:
            raise ZeroDivisionError("a bug in the state machine")
        self.words.append(command)
        return len(self.words)

    def snapshot(self) -> Iterable[bytes]:
        captured = list(self.words)
        return (word + b"\n" for word in captured)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = b"".join(chunks).splitlines()


class Cluster(ABC):
    """Nodes under test: what the port gives, and what happens to machines in the world."""

    def __init__(self) -> None:
        self.logs: dict[str, ReplicatedLog] = {}
        self.machines: dict[str, Words] = {}

    @abstractmethod
    async def start(self, name: str) -> None:
        """Start, or start again, the node `name` with an empty state machine and the disk it left behind."""

    @abstractmethod
    async def crash(self, name: str) -> None:
        """End the node `name` without warning."""

    @abstractmethod
    async def elect(self) -> None:
        """Bring an election about, if the cluster does not by itself."""

    @abstractmethod
    def member(self, name: str) -> Member:
        """How to reach a node that the cluster was not started with."""

    async def close(self) -> None:
        for name in list(self.logs):
            await self.logs[name].stop()

    async def leader(self) -> str:
        """The name of the node that leads, once one does."""
        await self.elect()
        leading = asyncio.get_running_loop().create_future()

        def look(_: Leadership) -> None:
            if not leading.done() and (names := [n for n, log in self.logs.items() if leads(log)]):
                leading.set_result(max(names, key=lambda n: self.logs[n].leadership.term))

        unsubscribe = [log.subscribe(look) for log in self.logs.values()]
        try:
            look(Leadership(Role.FOLLOWER, 0, None))
            async with asyncio.timeout(PATIENCE_S):
                return str(await leading)
        finally:
            for end in unsubscribe:
                end()

    async def followers(self) -> list[str]:
        leader = await self.leader()
        return [name for name in self.logs if name != leader]

    async def propose(self, command: bytes, command_id: bytes | None = None) -> Outcome:
        """Propose where the leader is."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.logs[await self.leader()].propose(command, command_id=command_id)

    async def applied(self, *commands: bytes) -> None:
        """Propose each command, and see it applied."""
        for command in commands:
            assert isinstance(await self.propose(command), Applied)

    async def words(self, name: str) -> list[bytes]:
        """What the node's state machine holds behind a barrier; asked again until the node has found a leader."""
        await self.elect()
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(outcome := await self.logs[name].barrier(), Applied):
                assert outcome != Refused(Refusal.STOPPED)
                await asyncio.sleep(BACK_OFF_S)
        return self.machines[name].words


class MemoryCluster(Cluster):
    def __init__(self) -> None:
        super().__init__()
        self.group = MemoryGroup(NAMES, snapshot_every_entries=SNAPSHOT_EVERY_ENTRIES)

    async def start(self, name: str) -> None:
        self.machines[name] = Words()
        log = self.group.join(name, self.machines[name])
        self.logs[name] = log
        await log.start()

    async def crash(self, name: str) -> None:
        del self.logs[name]
        self.group.crash(name)

    async def elect(self) -> None:
        if not any(leads(log) for log in self.logs.values()):
            members = {member.name for log in self.logs.values() for member in log.status().members}
            self.group.elect(min(self.logs.keys() & members))

    def member(self, name: str) -> Member:
        return Member(name, "memory:0")


class RaftCluster(Cluster):
    """Real nodes on loopback, each with a disk that loses in a crash whatever was not synced."""

    # Patient enough for a busy machine: no test wants an election that it did not cause.
    TIMING = Timing(heartbeat_s=0.05, election_min_s=0.5, election_max_s=0.8, lease_s=1.0, silence_s=1.5, redial_s=0.02)

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(1)
        names = (*NAMES, "n4")
        self.members = {name: Member(name, at) for name, at in zip(names, free_addresses(len(names)), strict=True)}
        self.disks = {name: SimDisk(self.dice) for name in self.members}

    async def start(self, name: str) -> None:
        self.machines[name] = Words()
        config = LogConfig(
            cluster="contract",
            name=name,
            members=tuple(self.members[member] for member in dict.fromkeys((*NAMES, name))),
            security=Security(secret=b"a secret of the contract"),
            timing=self.TIMING,
            snapshot_entries=SNAPSHOT_EVERY_ENTRIES,
        )
        log = RaftLog(config, self.machines[name], self.disks[name], random.Random(name))
        self.logs[name] = log
        await log.start()

    async def crash(self, name: str) -> None:
        await self.logs.pop(name).stop()
        self.disks[name] = self.disks[name].crash(self.dice)

    async def elect(self) -> None:
        """They do so by themselves."""

    def member(self, name: str) -> Member:
        return self.members[name]


def leads(log: ReplicatedLog) -> bool:
    return log.leadership.role is Role.LEADER


@pytest.fixture(params=[MemoryCluster, RaftCluster])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    cluster: Cluster = request.param()
    try:
        for name in NAMES:
            await cluster.start(name)
        await cluster.leader()
        yield cluster
    finally:
        await cluster.close()


# Proposals -----------------------------------------------------------------------------------------------------


async def test_a_proposal_at_the_leader_is_applied_on_every_node(cluster: Cluster) -> None:
    """Broken on purpose by answering without applying: red."""
    outcome = await cluster.propose(b"one")
    assert isinstance(outcome, Applied)
    assert outcome.result == 1
    for name in NAMES:
        assert await cluster.words(name) == [b"one"]


async def test_a_follower_refuses_a_proposal_and_names_the_leader(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for name in await cluster.followers():
        await cluster.words(name)  # it has heard of its leader by now
        assert await cluster.logs[name].propose(b"no") == Refused(Refusal.NOT_LEADER, leader)
    assert await cluster.words(leader) == []


async def test_concurrent_proposals_share_entries_and_keep_their_order(cluster: Cluster) -> None:
    """Broken on purpose by appending the waiting proposals last first: red."""
    log = cluster.logs[await cluster.leader()]
    before = log.status().last_index
    commands = [b"%d" % number for number in range(500)]
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*(log.propose(command) for command in commands))
    assert [outcome.result for outcome in outcomes if isinstance(outcome, Applied)] == list(range(1, 501))
    assert log.status().last_index - before < 50
    for name in NAMES:
        assert await cluster.words(name) == commands


async def test_a_command_id_is_applied_once_and_its_first_result_repeated(cluster: Cluster) -> None:
    """Broken on purpose by forgetting every id at once (`DEDUPE_WINDOW = 0`): red."""
    first = await cluster.propose(b"one", b"id-1")
    await cluster.applied(b"two")
    again = await cluster.propose(b"one", b"id-1")
    other = await cluster.propose(b"one", b"id-2")
    assert [outcome.result for outcome in (first, again, other) if isinstance(outcome, Applied)] == [1, 1, 3]
    assert await cluster.words("n1") == [b"one", b"two", b"one"]


async def test_one_command_id_proposed_many_times_at_once_is_applied_once(cluster: Cluster) -> None:
    log = cluster.logs[await cluster.leader()]
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*(log.propose(b"one", command_id=b"id") for _ in range(10)))
    assert [outcome.result for outcome in outcomes if isinstance(outcome, Applied)] == [1] * 10
    assert await cluster.words("n1") == [b"one"]


async def test_a_command_id_is_remembered_across_restarts_and_snapshots(cluster: Cluster) -> None:
    """Broken on purpose by restoring a snapshot without its window: red."""
    await cluster.propose(b"first", b"id")
    await cluster.applied(*(b"%d" % number for number in range(2 * SNAPSHOT_EVERY_ENTRIES)))
    for name in NAMES:
        await cluster.crash(name)
    for name in NAMES:
        await cluster.start(name)
    again = await cluster.propose(b"first", b"id")
    assert isinstance(again, Applied)
    assert again.result == 1
    assert (await cluster.words("n1")).count(b"first") == 1


async def test_what_is_too_large_is_refused_and_the_largest_is_not(cluster: Cluster) -> None:
    largest, longest = b"x" * COMMAND_BYTES_MAX, b"i" * COMMAND_ID_BYTES_MAX
    assert await cluster.propose(largest + b"x") == Refused(Refusal.TOO_LARGE)
    assert await cluster.propose(b"x", longest + b"i") == Refused(Refusal.TOO_LARGE)
    assert isinstance(await cluster.propose(largest, longest), Applied)
    for name in NAMES:
        assert await cluster.words(name) == [largest]


async def test_a_caller_that_gives_up_harms_nobody(cluster: Cluster) -> None:
    log = cluster.logs[await cluster.leader()]
    impatient = log.propose(b"one")
    patient = log.propose(b"two")
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    async with asyncio.timeout(PATIENCE_S):
        assert isinstance(await patient, Applied)
    assert (await cluster.words("n1")).count(b"one") <= 1


# Reading -------------------------------------------------------------------------------------------------------


async def test_a_barrier_on_any_node_reflects_what_was_acknowledged_before(cluster: Cluster) -> None:
    """Broken on purpose by answering a barrier from the node's own applied index: red."""
    for number in range(20):
        await cluster.applied(b"%d" % number)
        for name in NAMES:
            assert len(await cluster.words(name)) == number + 1


async def test_concurrent_barriers_share_one_round(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for name in NAMES:
        before = cluster.logs[leader].status().last_index
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(*(cluster.logs[name].barrier() for _ in range(100)))
        assert {type(outcome) for outcome in outcomes} == {Applied}
        assert cluster.logs[leader].status().last_index - before <= 2


# Leadership ----------------------------------------------------------------------------------------------------


async def test_terms_only_grow_and_each_has_one_leader(cluster: Cluster) -> None:
    events: dict[str, list[Leadership]] = {name: [] for name in NAMES}
    for name in NAMES:
        cluster.logs[name].subscribe(events[name].append)
    for _ in range(2):
        dead = await cluster.leader()
        await cluster.crash(dead)
        await cluster.leader()
        await cluster.start(dead)
        cluster.logs[dead].subscribe(events[dead].append)
    await cluster.leader()
    for heard in events.values():
        assert [event.term for event in heard] == sorted(event.term for event in heard)
    won = [event for heard in events.values() for event in heard if event.role is Role.LEADER]
    assert len({event.term for event in won}) == len(won) >= 2


async def test_a_node_leads_only_once_everything_acknowledged_is_applied_there(cluster: Cluster) -> None:
    """Broken on purpose by announcing leadership before catching up: red."""
    seen: list[int] = []
    for acknowledged in (10, 20):
        await cluster.applied(*(b"%d" % number for number in range(10)))
        for name in await cluster.followers():
            machine, log = cluster.machines[name], cluster.logs[name]
            log.subscribe(lambda event, m=machine: seen.append(len(m.words)) if event.role is Role.LEADER else None)
        dead = await cluster.leader()
        await cluster.crash(dead)
        await cluster.leader()
        assert seen[-1] >= acknowledged
        await cluster.start(dead)


async def test_a_listener_that_unsubscribed_hears_nothing_more(cluster: Cluster) -> None:
    heard: list[Leadership] = []
    follower = (await cluster.followers())[0]
    unsubscribe = cluster.logs[follower].subscribe(heard.append)
    unsubscribe()
    unsubscribe()  # twice is once
    await cluster.crash(await cluster.leader())
    await cluster.leader()
    assert heard == []


# Deaths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1])
async def test_what_a_dead_leader_owed_is_unknown_and_applied_at_most_once(cluster: Cluster, turns: int) -> None:
    """Whether the entries had left the leader or not, proposing all of them again applies each once.

    Broken on purpose by appending the lost proposals to the log twice: red.
    """
    await cluster.applied(b"before")
    leader = await cluster.leader()
    commands = [b"%d" % number for number in range(50)]
    tasks = [cluster.logs[leader].propose(command, command_id=command) for command in commands]
    for _ in range(turns):
        await asyncio.sleep(0)
    await cluster.crash(leader)
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*tasks)
    assert {type(outcome) for outcome in outcomes} <= {Unknown, Refused}
    survivor = await cluster.leader()
    words = await cluster.words(survivor)
    for command, outcome in zip(commands, outcomes, strict=True):
        assert words.count(command) <= (1 if isinstance(outcome, Unknown) else 0)
    for command in commands:
        assert isinstance(await cluster.propose(command, command), Applied)
    assert sorted(await cluster.words(survivor)) == sorted([b"before", *commands])


async def test_everything_acknowledged_survives_the_crash_of_every_node(cluster: Cluster) -> None:
    """Over several rounds, so that some of it is in snapshots and some is not."""
    expected: list[bytes] = []
    for round_number in range(4):
        words = [b"%d-%d" % (round_number, number) for number in range(15)]
        await cluster.applied(*words)
        expected += words
        for name in NAMES:
            await cluster.crash(name)
        for name in NAMES:
            await cluster.start(name)
        for name in NAMES:
            assert await cluster.words(name) == expected


async def test_a_follower_that_was_away_catches_up_from_a_snapshot(cluster: Cluster) -> None:
    """The entries that it lacks are gone by then. Broken on purpose by ignoring the snapshot: red."""
    away = (await cluster.followers())[0]
    await cluster.applied(b"early")
    await cluster.crash(away)
    words = [b"%d" % number for number in range(4 * SNAPSHOT_EVERY_ENTRIES)]
    await cluster.applied(*words)
    leader = cluster.logs[await cluster.leader()]
    assert leader.status().snapshot_index > SNAPSHOT_EVERY_ENTRIES
    await cluster.start(away)
    assert await cluster.words(away) == [b"early", *words]


async def test_stopping_ends_what_is_in_the_log_as_unknown_and_refuses_the_rest(cluster: Cluster) -> None:
    """Broken on purpose by forgetting the callers on stop: red (they wait for ever)."""
    log = cluster.logs[await cluster.leader()]
    in_log = log.propose(b"in the log")
    await asyncio.sleep(0)  # the node's turn comes first
    waiting = log.propose(b"waiting")
    await log.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert isinstance(await in_log, Unknown)
        assert await waiting in (Refused(Refusal.STOPPED), Refused(Refusal.NOT_LEADER))
        refused = Refused(Refusal.STOPPED)
        assert await log.propose(b"late") == refused
        assert await log.barrier() == refused
        assert await log.remove_member("n3") == refused
        await log.stop()  # twice is once
        await log.stopped()
    assert not leads(log)


async def test_an_exception_in_the_state_machine_ends_the_node_loudly(cluster: Cluster) -> None:
    """The command is the same everywhere, so every node ends; none skips it, none applies it twice.

    Broken on purpose by catching the exception and going on with the next command: red.
    """
    await cluster.applied(b"good")
    leader = await cluster.leader()
    log = cluster.logs[leader]
    with capture_logs() as lines:
        poisoned = log.propose(Words.POISON)
        behind = log.propose(b"behind")
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await poisoned, Unknown)
            assert not isinstance(await behind, Applied)
            assert await log.propose(b"late") == Refused(Refusal.STOPPED)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(log.stopped(), PATIENCE_S)
    assert cluster.machines[leader].words == [b"good"]
    assert ("critical", leader) in {(line["log_level"], line["node"]) for line in lines}


# Membership ----------------------------------------------------------------------------------------------------


async def test_a_new_member_takes_part_and_a_removed_one_no_longer_counts(cluster: Cluster) -> None:
    await cluster.applied(*(b"%d" % number for number in range(10)))
    leader = await cluster.leader()
    async with asyncio.timeout(PATIENCE_S):
        await cluster.start("n4")
        assert isinstance(await cluster.logs[leader].add_member(cluster.member("n4")), Applied)
    assert len(await cluster.words("n4")) == 10
    assert {member.name for member in cluster.logs["n4"].status().members} == {*NAMES, "n4"}

    gone = next(name for name in NAMES if name != leader)
    async with asyncio.timeout(PATIENCE_S):
        assert isinstance(await cluster.logs[leader].remove_member(gone), Applied)
    assert gone not in {member.name for member in cluster.logs[leader].status().members}
    await cluster.crash(gone)
    await cluster.applied(b"without it")
    await cluster.crash(leader)  # two of three are left
    await cluster.applied(b"with the new one")
    assert (await cluster.words("n4"))[-2:] == [b"without it", b"with the new one"]


async def test_a_change_of_members_that_cannot_be_made_is_denied(cluster: Cluster) -> None:
    leader = await cluster.leader()
    follower = (await cluster.followers())[0]
    await cluster.words(follower)
    async with asyncio.timeout(PATIENCE_S):
        for outcome in (
            await cluster.logs[leader].remove_member(leader),
            await cluster.logs[leader].remove_member("stranger"),
            await cluster.logs[leader].add_member(Member(follower, "elsewhere:1")),
        ):
            assert isinstance(outcome, Refused)
            assert outcome.reason is Refusal.DENIED
        refused = Refused(Refusal.NOT_LEADER, leader)
        assert await cluster.logs[follower].remove_member(follower) == refused
        assert await cluster.logs[follower].add_member(cluster.member("n4")) == refused
    assert {member.name for member in cluster.logs[leader].status().members} == set(NAMES)


async def test_one_change_of_members_is_made_at_a_time(cluster: Cluster) -> None:
    """Majorities of memberships that differ by two need not overlap (Ongaro's thesis, section 4.1)."""
    log = cluster.logs[await cluster.leader()]
    async with asyncio.timeout(PATIENCE_S):
        first, second = await asyncio.gather(
            log.add_member(cluster.member("n4")), log.add_member(Member("n5", "127.0.0.1:1"))
        )
        assert isinstance(first, Applied)
        assert isinstance(second, Refused)
        assert second.reason is Refusal.DENIED
        assert isinstance(await log.remove_member("n4"), Applied)
