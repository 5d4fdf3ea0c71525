"""Three phases on a replica: who may take part, what it says to participants beside the verb, and who decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.intake import branches_of, digest_of, path_of
from coordinator.driver.replica import Replica, Tunables
from coordinator.driver.terms import Notary
from coordinator.errors import Contradiction, Invalid
from coordinator.ledger.records import Decision, Mode, Path, Phase
from coordinator.ledger.table import Ledger
from coordinator.participants.http import capabilities_of
from coordinator.participants.local import LocalParticipants
from coordinator.protocols.two_phase import Plan
from coordinator.simulation.disk import SimDisk
from coordinator.wire import BranchRequest, CommitProtocol, ResolveRequest, TransactionRequest
from coordinator.wire_steps import StepRequest
from participant.ids import BranchKey
from participant.proof import Seal, Source
from participant.rm.memory import Memory, Transaction
from participant.service import ParticipantService
from participant.termination import COORDINATORS, Ending, Peer, Policy
from participant.three_phase import ThreePhase
from participant.three_phase_note import Note
from participant.wire import Answer, Capabilities, Operation, Verb
from participant.wire_three_phase import URL_CHARS_MAX, Terms
from raftlog.memory import MemoryLog
from tests.support.cluster import recorded
from tests.support.participants import Clerk

SEAL = Seal(b"a secret of the cluster")
NAMES = ("bank-a", "bank-b", "bank-c")
THREE, UNSAFE = CommitProtocol.THREE_PHASE, CommitProtocol.UNSAFE_COMMIT_ON_SILENCE


class Nobody:
    """No peer can be reached."""

    async def ask(self, peer: Peer, operation: Operation) -> Answer | None:
        return None


class Held(ParticipantService):
    """A participant that keeps requests with this verb until it is let go."""

    held: Verb | None = None
    go: asyncio.Event

    async def perform(self, operation: Operation, call: Any = None) -> Answer:
        if operation.verb is self.held:
            await self.go.wait()
        return await super().perform(operation, call)


class Made:
    def __init__(self, replica: Replica, resources: dict[str, Memory], services: dict[str, Held]) -> None:
        self.replica = replica
        self.resources = resources
        self.services = services

    async def begin(self, protocol: CommitProtocol = THREE, wait_s: float = 5.0) -> Decision | None:
        branches = [BranchRequest(branch=name, participant=name, action="put", body="x") for name in NAMES]
        request = TransactionRequest(gid="t", branches=branches, protocol=protocol)
        return (await self.replica.transactions.begin(request, wait_s)).decision

    async def note(self, name: str) -> Note:
        data = await self.resources[name].note(BranchKey("t", name))
        assert data is not None
        return Note.unpack(data)

    def hold(self, verb: Verb, *names: str) -> None:
        for name in names:
            self.services[name].held, self.services[name].go = verb, asyncio.Event()

    def let_go(self) -> None:
        for service in self.services.values():
            if service.held is not None:
                service.held = None
                service.go.set()


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body, 1)


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    resources, services = {}, {}
    async with AsyncExitStack() as stack:
        for name in NAMES:
            resources[name] = Memory(SimDisk())
            await resources[name].open()
            stack.push_async_callback(resources[name].close)
            part = ThreePhase(name, resources[name], SEAL, Nobody(), 5.0)
            services[name] = Held(name, resources[name], {"put": put}, three_phase=part)
        ledger = Ledger()
        replica = Replica(
            MemoryLog.single(ledger),
            ledger,
            LocalParticipants(services),
            wall_ms=lambda: 1,
            chance=Random(1),
            admission=Admission(),
            tunables=Tunables(ride_along_s=0.0),
            seal=SEAL,
        )
        await replica.start()
        stack.push_async_callback(replica.stop)
        yield Made(replica, resources, services)


async def test_it_commits_and_every_participant_has_the_logs_proof(made: Made) -> None:
    assert await made.begin() is Decision.COMMIT
    record = await recorded(made.replica, "t", lambda record: record.finished)
    assert (record.path, record.decided_by) == (Path.THREE_PHASE, "votes")
    for name in NAMES:
        note = await made.note(name)
        assert note.peers == tuple(Peer(each, each, f"local://{each}") for each in NAMES)
        assert note.policy is Policy.QUORUM
        assert note.proof is not None
        assert SEAL.holds("t", note.proof)
        assert (note.proof.ending, note.proof.source) == (Ending.COMMIT, Source.LOG)
        assert note.proof.term == made.replica.log.leadership.term
        assert 0 < note.proof.index <= made.replica.log.status().applied_index


async def test_a_participant_that_is_silent_in_the_second_phase_keeps_nobody(made: Made) -> None:
    """Seen red with the driver waiting until all calls of the phase are back."""
    made.hold(Verb.PRECOMMIT, "bank-c")
    assert await made.begin() is Decision.COMMIT


async def test_without_a_majority_it_goes_on_asking_and_nobody_aborts_it(made: Made) -> None:
    made.hold(Verb.PRECOMMIT, "bank-b", "bank-c")
    asked = asyncio.ensure_future(made.begin())
    await recorded(made.replica, "t", lambda record: record.phase is Phase.PRECOMMITTING)
    with pytest.raises(Contradiction, match="precommitting: its participants may have committed"):
        await made.replica.transactions.resolve(
            "t", ResolveRequest(decision=Decision.ABORT, operator="ann", reason="enough")
        )
    assert not asked.done()
    made.let_go()
    assert await asked is Decision.COMMIT


async def test_an_operator_aborts_it_before(made: Made) -> None:
    made.hold(Verb.PREPARE, "bank-c")
    asked = asyncio.ensure_future(made.begin())
    await recorded(made.replica, "t", lambda record: record.phase is Phase.PREPARING)
    resolve = ResolveRequest(decision=Decision.ABORT, operator="ann", reason="enough")
    record = await made.replica.transactions.resolve("t", resolve)
    assert record.decision is Decision.ABORT
    assert await asked is Decision.ABORT


async def test_it_follows_participants_that_have_ended_it(made: Made) -> None:
    made.hold(Verb.PRECOMMIT, *NAMES)
    asked = asyncio.ensure_future(made.begin())
    await recorded(made.replica, "t", lambda record: record.phase is Phase.PRECOMMITTING)
    proof = SEAL.sign("t", Ending.ABORT, Source.QUORUM, 1, 2)
    for name in NAMES[:2]:
        await made.services[name].perform(Operation(Verb.ABORT, BranchKey("t", name), three_phase=Terms(proof=proof)))
    made.let_go()
    assert await asked is Decision.ABORT
    record = await recorded(made.replica, "t", lambda record: record.finished)
    assert record.decided_by == "participants"


async def test_the_policy_travels_with_the_vote(made: Made) -> None:
    assert await made.begin(UNSAFE) is Decision.COMMIT
    assert (await made.note("bank-a")).policy is Policy.UNSAFE_COMMIT_ON_SILENCE
    record = await recorded(made.replica, "t", lambda record: record.finished)
    assert record.path is Path.UNSAFE_COMMIT_ON_SILENCE


# Who may take part


class Able(Clerk):
    """Takes part with the secret that has this id."""

    def __init__(self, name: str, key_id: str = SEAL.key_id) -> None:
        super().__init__(name)
        self.key_id = key_id

    def capabilities(self) -> Capabilities:
        return Capabilities(self.name, three_phase=self.key_id)


BANKS = LocalParticipants({"able": Able("able"), "old": Clerk("old"), "stranger": Able("stranger", "other")})


async def path(*requests: BranchRequest, key_id: str = SEAL.key_id) -> Path:
    return await path_of(branches_of(list(requests), BANKS, Random(1)), BANKS, THREE, key_id)


def branch(participant: str, body: object = 1, step: StepRequest | None = None) -> BranchRequest:
    return BranchRequest(participant=participant, action="do", body=body, step=step)


async def test_the_protocol_is_the_path() -> None:
    assert await path(branch("able"), branch("able")) is Path.THREE_PHASE
    assert {CommitProtocol(each.value) for each in Path if each.is_three_phase} == {THREE, UNSAFE}


@pytest.mark.parametrize(
    ("requests", "key_id", "said"),
    [
        ([branch("able")], "", "protocol: this cluster has no cluster.proof_secret"),
        ([branch("able"), branch("old")], SEAL.key_id, "branches.1.participant: old takes no part in three phases"),
        ([branch("stranger")], SEAL.key_id, "branches.0.participant: stranger has another proof_secret"),
        ([branch("able", step=StepRequest(mode=Mode.PIVOT))], SEAL.key_id, "branches.0.step: a transaction of steps"),
        ([branch("able", "x" * (65_536 - URL_CHARS_MAX))], SEAL.key_id, "branches.0.body: beside the list of 1 peers"),
    ],
)
async def test_what_cannot_be_in_three_phases_is_refused_by_its_field(
    requests: list[BranchRequest], key_id: str, said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        await path(*requests, key_id=key_id)


def test_the_protocol_counts_for_the_digest() -> None:
    branches = branches_of([branch("able")], BANKS, Random(1))
    assert len({digest_of(branches, protocol=protocol) for protocol in CommitProtocol}) == 3
    assert digest_of(branches) == digest_of(branches, protocol=CommitProtocol.TWO_PHASE)


def test_a_capability_that_is_not_said_is_none() -> None:
    assert capabilities_of({"name": "bank"}).three_phase == ""
    assert capabilities_of({"name": "bank", "three_phase": True}).three_phase == ""
    assert capabilities_of({"name": "bank", "three_phase": "abc"}).three_phase == "abc"


# The notary


def test_it_signs_what_the_record_holds_and_nothing_else(made: Made) -> None:
    notary = Notary(made.replica.log, BANKS, SEAL)
    plan = Plan("t", b"d", Path.THREE_PHASE, branches_of([branch("able")], BANKS, Random(1)), 1_000)
    assert notary.terms(plan, None, Verb.PREPARE, "able") == Terms((Peer("b1", "able", "local://able"),))
    assert notary.terms(plan, None, Verb.PRECOMMIT, "able") == Terms(ballot=COORDINATORS, participant="able")
    for verb in (Verb.COMMIT, Verb.ABORT):
        with pytest.raises(ValueError, match="is not what its record holds"):
            notary.terms(plan, None, verb, "able")
    two_phase = Plan("t", b"d", Path.STAGED, plan.branches, 1_000)
    assert notary.terms(two_phase, None, Verb.PREPARE, "able") is None


@pytest.mark.parametrize("verb", [Verb.COMMIT, Verb.ABORT])
def test_an_end_that_nobody_can_sign_is_not_sent(made: Made, verb: Verb) -> None:
    """Seen red with no terms for it: a participant then took it for the end of a transaction in two phases."""
    plan = Plan("t", b"d", Path.THREE_PHASE, branches_of([branch("able")], BANKS, Random(1)), 1_000)
    with pytest.raises(ValueError, match="needs a proof"):
        Notary(made.replica.log, BANKS, None).terms(plan, None, verb, "able")
