"""Three phases with real processes: the leader is killed in each of them, and then all coordinators.

Method: three coordinators are processes; three participants are in the process of the test, on real journals and real
sockets. One of them, or two, are held at the door of a phase, so that the transaction stands in it while somebody dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from coordinator.client import Branch, Client, CommitProtocol, Committed
from coordinator.errors import Contradiction, GidReused
from coordinator.ledger.records import Decision, Phase
from coordinator.ledger.records import Path as CommitPath
from participant import Participant
from participant.ids import BranchKey
from participant.proof import Source
from participant.recovery import RecoverySettings
from participant.rm.memory import Memory, Transaction
from participant.service import ParticipantService
from participant.termination import Leaning
from participant.three_phase_note import Note
from participant.wire import BranchState
from tests.support.forks import ForkedCluster

NODES = ("n1", "n2", "n3")
BANKS = ("bank-a", "bank-b", "bank-c")
SECRET = "a secret of the cluster"
RECOVERY = RecoverySettings(grace_s=0.3, interval_s=0.2, interval_max_s=0.5, peers_after_s=0.5)
THREE = CommitProtocol.THREE_PHASE
LOOK_S = 0.05
WAIT_S = 20.0


class Doors(Memory):
    """A journal whose doors can be held: to the vote (`prepare`), to *precommitted*, to the end (`commit`)."""

    def __init__(self, where: Path) -> None:
        super().__init__(where)
        self._doors: dict[str, asyncio.Event] = {}

    def hold(self, door: str) -> None:
        self._doors[door] = asyncio.Event()

    def open_all(self) -> None:
        for door in self._doors.values():
            door.set()
        self._doors.clear()

    def prepare(self, key: BranchKey, *args: Any) -> Any:
        return self._through("prepare", lambda: Memory.prepare(self, key, *args))

    def commit(self, key: BranchKey) -> Any:
        return self._through("commit", lambda: Memory.commit(self, key))

    def swap_note(self, key: BranchKey, expected: bytes | None, note: bytes, *, is_finished: bool = False) -> Any:
        leaning = Note.unpack(note).register.leaning
        door = "precommit" if leaning is Leaning.PRECOMMITTED and not is_finished else ""
        return self._through(door, lambda: Memory.swap_note(self, key, expected, note, is_finished=is_finished))

    async def _through(self, door: str, then: Callable[[], Awaitable[Any]]) -> Any:
        if door in self._doors:
            await self._doors[door].wait()
        return await then()


class Stage:
    """A cluster, and its participants."""

    def __init__(self, cluster: ForkedCluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client
        self.doors: dict[str, Doors] = {}
        self.services: dict[str, ParticipantService] = {}

    def begin(self, gid: str, protocol: CommitProtocol = THREE) -> asyncio.Future[Any]:
        branches = [Branch(bank, "put", gid, name=bank) for bank in BANKS]
        return asyncio.ensure_future(self.client.commit(branches, gid=gid, deadline_ms=60_000, protocol=protocol))

    async def until_phase(self, gid: str, phase: Phase) -> None:
        """By the record of whoever leads."""

        async def holds() -> bool:
            return [each.phase async for each in self.client.transactions() if each.gid == gid] == [phase]

        await until(holds)

    async def until_leans(self, gid: str, bank: str, leaning: Leaning) -> None:
        async def holds() -> bool:
            return (await self.note(gid, bank)).register.leaning is leaning

        await until(holds)

    async def note(self, gid: str, bank: str) -> Note:
        data = await self.doors[bank].note(BranchKey(gid, bank))
        assert data is not None
        return Note.unpack(data)

    async def until_everybody_is(self, gid: str, state: BranchState) -> None:
        async def holds() -> bool:
            answers = [await self.doors[bank].outcome(BranchKey(gid, bank)) for bank in BANKS]
            return {answer.state for answer in answers} == {state}

        await until(holds)

    async def kill_leader(self) -> str:
        leader = await self.cluster.leader()
        await self.cluster.processes[leader].kill()
        return leader


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(LOOK_S)


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body, 1)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    cluster = ForkedCluster(tmp_path, NODES, BANKS, proof_secret=SECRET)
    async with AsyncExitStack() as stack:
        client = Client(list(cluster.replicas.values()), timeout_s=30.0, attempt_timeout_s=1.0)
        made = Stage(cluster, client)
        for bank in BANKS:
            del cluster.processes[bank]
            made.doors[bank] = Doors(tmp_path / bank)
            participant = Participant(bank, made.doors[bank], recovery=RECOVERY, proof_secret=SECRET.encode())
            participant.action("put")(put)
            port = URL(cluster.banks[bank]).port or 0
            replicas = list(cluster.replicas.values())
            serving = await stack.enter_async_context(participant.serving(port=port, replicas=replicas))
            made.services[bank] = serving.service
        await stack.enter_async_context(cluster)
        await stack.enter_async_context(client)
        yield made


@pytest.mark.timeout(120)
async def test_the_leader_is_killed_in_each_phase(stage: Stage) -> None:
    """It ends as it should: the next leader goes on from the record."""
    for phase, door, held in (
        (Phase.PREPARING, "prepare", BANKS[2:]),
        (Phase.PRECOMMITTING, "precommit", BANKS[1:]),
        (Phase.COMMITTING, "commit", BANKS[1:]),
    ):
        gid = phase.value
        for bank in held:
            stage.doors[bank].hold(door)
        ended = stage.begin(gid)
        await stage.until_phase(gid, phase)
        killed = await stage.kill_leader()
        for bank in held:
            stage.doors[bank].open_all()
        assert await ended == Committed(gid)
        await stage.until_everybody_is(gid, BranchState.COMMITTED)
        record = await stage.client.settled(gid)
        assert (record.path, record.decided_by) == (CommitPath.THREE_PHASE, "votes")
        proof = (await stage.note(gid, BANKS[0])).proof
        assert proof is not None
        assert proof.source is Source.LOG
        assert proof.term > 0
        await stage.cluster.restart(killed)


@pytest.mark.timeout(120)
async def test_without_coordinators_a_majority_commits_what_one_has_precommitted(stage: Stage) -> None:
    """And the coordinators follow when they are back."""
    for bank in BANKS[1:]:
        stage.doors[bank].hold("precommit")
    ended = stage.begin("t")
    await stage.until_phase("t", Phase.PRECOMMITTING)
    await stage.until_leans("t", BANKS[0], Leaning.PRECOMMITTED)
    await asyncio.gather(*(stage.cluster.processes[node].kill() for node in NODES))
    for bank in BANKS[1:]:
        stage.doors[bank].open_all()
    await stage.until_everybody_is("t", BranchState.COMMITTED)
    proofs = [(await stage.note("t", bank)).proof for bank in BANKS]
    assert {proof.source for proof in proofs if proof is not None} == {Source.QUORUM}
    for node in NODES:
        await stage.cluster.processes[node].start()
    for node in NODES:
        await stage.cluster.ready(node)
    assert await ended == Committed("t")
    assert (await stage.client.settled("t")).phase is Phase.COMMITTED


@pytest.mark.timeout(120)
async def test_without_coordinators_those_who_have_only_voted_abort(stage: Stage) -> None:
    for bank in BANKS[2:]:
        stage.doors[bank].hold("prepare")
    ended = stage.begin("t")
    await stage.until_phase("t", Phase.PREPARING)
    await asyncio.gather(*(stage.cluster.processes[node].kill() for node in NODES))
    await stage.until_everybody_is("t", BranchState.ABORTED)
    for bank in BANKS[2:]:
        stage.doors[bank].open_all()
    for node in NODES:
        await stage.cluster.processes[node].start()
    for node in NODES:
        await stage.cluster.ready(node)
    assert (await ended).gid == "t"
    record = await stage.client.settled("t")
    assert record.phase is Phase.ABORTED


@pytest.mark.timeout(120)
async def test_a_transaction_that_is_precommitting_is_aborted_by_nobody(stage: Stage) -> None:
    for bank in BANKS[1:]:
        stage.doors[bank].hold("precommit")
    ended = stage.begin("t")
    await stage.until_phase("t", Phase.PRECOMMITTING)
    with pytest.raises(Contradiction, match="precommitting"):
        await stage.client.resolve("t", Decision.ABORT, operator="ann", reason="enough")
    for bank in BANKS[1:]:
        stage.doors[bank].open_all()
    assert await ended == Committed("t")


@pytest.mark.timeout(120)
async def test_the_same_gid_in_another_protocol_is_another_request(stage: Stage) -> None:
    """And two phases remain what everybody gets who does not ask."""
    assert await stage.begin("t", CommitProtocol.TWO_PHASE) == Committed("t")
    assert (await stage.client.record("t")).path is CommitPath.STAGED
    with pytest.raises(GidReused):
        await stage.begin("t")
