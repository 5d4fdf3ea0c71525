"""A participant's part in three phases, over a real store, with its peers in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog

from coordinator.simulation.disk import SimDisk
from participant.errors import ResourceFailed, WireError
from participant.ids import BranchKey
from participant.proof import Proof, Seal, Source
from participant.rm.memory import Memory, Transaction
from participant.service import ParticipantService
from participant.termination import COORDINATORS, Ballot, Ending, Leaning, Peer, Policy, Register
from participant.three_phase import Note, ThreePhase
from participant.wire import Answer, BranchState, Operation, Verb
from participant.wire_three_phase import Terms

SECRET = b"a secret of the cluster"
SEAL = Seal(SECRET)
NAMES = ("a", "b", "c")
PEERS = tuple(Peer(name, f"bank-{name}", f"local://{name}") for name in NAMES)
PATIENCE_S = 5.0
GID = "t"


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body, 1)


async def look(tx: Transaction, body: Any) -> None:
    await tx.get(body)


class Net:
    """Peers that are called directly. Who is `away` answers nobody."""

    def __init__(self) -> None:
        self.services: dict[str, ParticipantService] = {}
        self.away: set[str] = set()
        self.late: set[str] = set()  # who does what it is asked, and answers too late
        self.asked: list[tuple[str, Verb]] = []

    async def ask(self, peer: Peer, operation: Operation) -> Answer | None:
        self.asked.append((peer.branch, operation.verb))
        if peer.branch in self.away:
            return None
        form = operation.to_map()
        answer = await self.services[peer.branch].perform(Operation.from_map(form, "operation"))
        return None if peer.branch in self.late else answer


class Banks:
    """Three participants, each with a disk of its own."""

    def __init__(self, net: Net, seals: dict[str, Seal]) -> None:
        self.net = net
        self.resources: dict[str, Memory] = {}
        self.parts: dict[str, ThreePhase] = {}
        self._disks = {name: SimDisk() for name in NAMES}
        self._seals = seals

    async def start(self, name: str) -> None:
        resource = self.resources[name] = Memory(self._disks[name])
        await resource.open()
        part = self.parts[name] = ThreePhase(resource, self._seals.get(name, SEAL), self.net, PATIENCE_S)
        actions = {"put": put, "look": look}
        self.net.services[name] = ParticipantService(f"bank-{name}", resource, actions, three_phase=part)

    async def restart(self, name: str) -> None:
        await self.resources[name].close()
        await self.start(name)

    async def ask(self, name: str, verb: Verb, terms: Terms | None = None, action: str | None = None) -> Answer:
        operation = Operation(verb, BranchKey(GID, name), action, name if action else None, three_phase=terms)
        return await self.net.services[name].perform(operation)

    async def prepare(self, *names: str, policy: Policy = Policy.QUORUM, action: str = "put") -> None:
        for name in names:
            await self.ask(name, Verb.PREPARE, Terms(PEERS, policy), action)

    async def precommit(self, *names: str) -> None:
        for name in names:
            await self.ask(name, Verb.PRECOMMIT, Terms(ballot=COORDINATORS))

    async def silent(self, name: str, *, is_deciding: bool = False, silent_s: float = PATIENCE_S) -> Answer | None:
        return await self.parts[name].silent(BranchKey(GID, name), is_deciding=is_deciding, silent_s=silent_s)

    async def states(self) -> list[str]:
        return [(await self.resources[name].outcome(BranchKey(GID, name))).state.value for name in NAMES]

    async def note(self, name: str) -> Note:
        data = await self.resources[name].note(BranchKey(GID, name))
        assert data is not None
        return Note.unpack(data)


@pytest.fixture
async def banks(request: pytest.FixtureRequest) -> AsyncIterator[Banks]:
    made = Banks(Net(), getattr(request, "param", {}))
    async with AsyncExitStack() as stack:
        for name in NAMES:
            await made.start(name)
            stack.push_async_callback(lambda each=name: made.resources[each].close())
        yield made


# What the coordinators ask for


async def test_the_phases(banks: Banks) -> None:
    answer = await banks.ask("a", Verb.PREPARE, Terms(PEERS), "put")
    assert answer == Answer(BranchState.PREPARED)
    answer = await banks.ask("a", Verb.PRECOMMIT, Terms(ballot=COORDINATORS))
    assert answer.state is BranchState.PREPARED
    assert answer.three_phase == Terms(register=Register(Leaning.PRECOMMITTED, COORDINATORS, COORDINATORS))
    proof = SEAL.sign(GID, Ending.COMMIT, Source.LOG, 3, 9)
    assert (await banks.ask("a", Verb.COMMIT, Terms(proof=proof))).state is BranchState.COMMITTED
    assert (await banks.note("a")).proof == proof


async def test_its_note_is_there_before_it_votes(banks: Banks) -> None:
    """Seen red with the note written after the vote: a crash in between would leave a yes without peers."""
    seen: list[Any] = []

    async def vote() -> Answer:
        seen.append(await banks.resources["a"].note(BranchKey(GID, "a")))
        return Answer(BranchState.PREPARED)

    operation = Operation(Verb.PREPARE, BranchKey(GID, "a"), three_phase=Terms(PEERS))
    await banks.parts["a"].perform(operation, vote)
    assert Note.unpack(seen[0]).peers == PEERS


async def test_what_it_has_promised_survives_a_restart(banks: Banks) -> None:
    await banks.prepare("a")
    await banks.precommit("a")
    await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(3, 2)))
    await banks.restart("a")
    register = Register(Leaning.PRECOMMITTED, Ballot(3, 2), COORDINATORS)
    assert (await banks.note("a")).register == register
    late = await banks.ask("a", Verb.PREABORT, Terms(ballot=Ballot(2, 3)))
    assert late.three_phase == Terms(register=register), "refused"


@pytest.mark.parametrize(
    "proof",
    [
        None,
        Seal(b"a secret of somebody else").sign(GID, Ending.COMMIT, Source.LOG, 3, 9),
        SEAL.sign("another", Ending.COMMIT, Source.LOG, 3, 9),
        SEAL.sign(GID, Ending.ABORT, Source.LOG, 3, 9),
    ],
    ids=["none", "another secret", "another transaction", "the contrary"],
)
async def test_a_decision_without_a_proof_that_holds_is_ignored_and_logged(banks: Banks, proof: Proof | None) -> None:
    await banks.prepare("a")
    with structlog.testing.capture_logs() as logs:
        answer = await banks.ask("a", Verb.COMMIT, Terms(proof=proof))
    assert answer.state is BranchState.PREPARED
    assert answer.retry
    assert "proof.refused" in [line["event"] for line in logs]
    assert (await banks.note("a")).proof is None


async def test_a_no_is_an_end_that_peers_are_told_with_a_proof(banks: Banks) -> None:
    answer = await banks.ask("a", Verb.PREPARE, Terms(PEERS), "steal")
    assert answer.state is BranchState.ABORTED
    told = await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(1, 2)))
    assert told.three_phase is not None
    assert told.three_phase.proof == SEAL.sign(GID, Ending.ABORT, Source.BRANCH)


async def test_it_must_be_among_its_peers(banks: Banks) -> None:
    with pytest.raises(WireError, match="must name 'a'"):
        await banks.ask("a", Verb.PREPARE, Terms(PEERS[1:]), "put")


async def test_a_branch_in_two_phases_gives_no_promise(banks: Banks) -> None:
    await banks.ask("a", Verb.PREPARE, None, "put")
    answer = await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(1, 2)))
    assert (answer.state, answer.three_phase) == (BranchState.PREPARED, None)


async def test_a_service_without_the_secret_takes_no_part(banks: Banks) -> None:
    service = ParticipantService("bank", banks.resources["a"], {"put": put})
    assert service.capabilities().three_phase == ""
    assert banks.net.services["a"].capabilities().three_phase == SEAL.key_id
    with pytest.raises(WireError, match="no proof_secret"):
        await service.perform(Operation(Verb.CANVASS, BranchKey(GID, "a"), three_phase=Terms(ballot=Ballot(1, 1))))


async def test_a_resource_manager_without_notes_takes_no_part(banks: Banks) -> None:
    with pytest.raises(TypeError, match="keeps no notes"):
        ThreePhase(object(), SEAL, banks.net, PATIENCE_S)  # type: ignore[arg-type]


# Without the coordinators


async def test_a_majority_that_has_only_voted_aborts(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    answer = await banks.silent("b")
    assert answer is not None
    assert answer.state is BranchState.ABORTED
    assert await banks.states() == ["aborted"] * 3, "and the others are told"


async def test_a_majority_with_one_that_has_precommitted_commits(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    await banks.precommit("a")
    banks.net.away = {"c"}
    await banks.silent("b")
    assert await banks.states() == ["committed", "committed", "prepared"]
    proof = (await banks.note("a")).proof
    assert proof == SEAL.sign(GID, Ending.COMMIT, Source.QUORUM, 1, 2)


async def test_a_minority_ends_nothing_and_goes_on_when_it_can(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    await banks.precommit("a")
    banks.net.away = {"b", "c"}
    assert await banks.silent("a") is None
    assert await banks.states() == ["prepared"] * 3
    banks.net.away = {"b"}
    await banks.silent("a", is_deciding=True)
    assert await banks.states() == ["committed", "prepared", "committed"], "though the coordinators are back"


async def test_a_peer_that_answers_too_late_is_in_time_when_it_is_asked_again(banks: Banks) -> None:
    """Because it is asked in the same ballot: what it has promised, it has promised."""
    await banks.prepare(*NAMES)
    banks.net.away, banks.net.late = {"c"}, {"b"}
    assert await banks.silent("a") is None
    await banks.restart("a")
    banks.net.late = set()
    await banks.silent("a")
    assert await banks.states() == ["aborted", "aborted", "prepared"]
    assert (await banks.note("b")).register == Register(Leaning.PREABORTED, Ballot(1, 1), Ballot(1, 1))


async def test_who_is_outbid_takes_a_higher_ballot_the_next_time(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    await banks.ask("b", Verb.CANVASS, Terms(ballot=Ballot(7, 2)))
    banks.net.away = {"c"}
    assert await banks.silent("a") is None
    assert (await banks.note("a")).register.promised == Ballot(7, 2)
    assert await banks.silent("a") is None
    assert (await banks.note("b")).register.accepted is None, "it gives the other one time"
    banks.parts["a"]._patience_s = 0.0
    await banks.silent("a")
    assert (await banks.note("b")).register.accepted == Ballot(8, 1)


async def test_two_processes_of_one_participant_propose_one_thing(banks: Banks) -> None:
    """They share its ballot. The one has heard of nobody who leans, and the other then of one that does."""
    await banks.prepare(*NAMES)
    await banks.precommit("c")
    banks.net.away, banks.net.late = {"c"}, set()
    canvassed = await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(1, 1)))
    assert canvassed.three_phase is not None
    await banks.ask("a", Verb.PREABORT, Terms(ballot=Ballot(1, 1)))  # the one has proposed, and died
    banks.net.away = {"b"}
    await banks.silent("a")
    assert await banks.states() == ["aborted", "prepared", "aborted"], "the other proposes the same"


async def test_it_waits_for_its_patience_and_while_the_coordinators_decide(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    assert await banks.silent("a", silent_s=PATIENCE_S - 1) is None
    assert await banks.silent("a", is_deciding=True, silent_s=0) is None
    assert banks.net.asked == []


async def test_a_peer_that_knows_hands_over_the_coordinators_proof(banks: Banks) -> None:
    """The log's term and index travel on; a majority is not needed."""
    await banks.prepare(*NAMES)
    proof = SEAL.sign(GID, Ending.COMMIT, Source.LOG, 3, 9)
    await banks.ask("c", Verb.COMMIT, Terms(proof=proof))
    banks.net.away = {"b"}
    await banks.silent("a")
    assert (await banks.note("a")).proof == proof
    assert await banks.states() == ["committed", "prepared", "committed"]


@pytest.mark.parametrize("banks", [{"c": Seal(b"a secret of somebody else")}], indirect=True)
async def test_a_peer_whose_proof_does_not_hold_is_not_believed(banks: Banks) -> None:
    """Seen red with the proof not checked: the two others then abort, because c says so."""
    await banks.prepare(*NAMES)
    await banks.precommit("a", "b")
    await banks.resources["c"].abort(BranchKey(GID, "c"))
    with structlog.testing.capture_logs() as logs:
        await banks.silent("a")
    assert await banks.states() == ["committed", "committed", "aborted"]
    assert "proof.invalid" in [line["event"] for line in logs]


async def test_a_peer_that_has_not_voted_never_will(banks: Banks) -> None:
    await banks.prepare("a", "b")
    banks.net.away = {"b"}
    await banks.silent("a")
    await banks.prepare("c")
    assert await banks.states() == ["aborted", "prepared", "aborted"]


async def test_a_participant_that_wrote_nothing_has_a_say(banks: Banks) -> None:
    await banks.prepare("a", "b")
    await banks.prepare("c", action="look")
    banks.net.away = {"b"}
    await banks.silent("a")
    assert await banks.states() == ["aborted", "prepared", "aborted"]


async def test_a_coordinator_that_comes_back_is_told(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    await banks.silent("a")
    answer = await banks.ask("b", Verb.PRECOMMIT, Terms(ballot=COORDINATORS))
    assert answer.state is BranchState.ABORTED


async def test_what_was_agreed_is_done_after_a_crash(banks: Banks) -> None:
    """The proof is in the note, and the branch is prepared still."""
    await banks.prepare(*NAMES)
    key = BranchKey(GID, "a")
    data = await banks.resources["a"].note(key)
    assert data is not None
    agreed = Note.unpack(data)._replace(proof=SEAL.sign(GID, Ending.COMMIT, Source.QUORUM, 1, 2))
    await banks.resources["a"].swap_note(key, data, agreed.pack())
    await banks.restart("a")
    await banks.silent("a", is_deciding=True, silent_s=0)
    assert (await banks.states())[0] == "committed"
    assert banks.net.asked == []


async def test_the_first_proof_stands(banks: Banks) -> None:
    await banks.prepare(*NAMES)
    key = BranchKey(GID, "a")
    await banks.parts["a"].abort(key)
    answer = await banks.parts["a"].commit(key)
    assert answer.state is BranchState.ABORTED
    proof = (await banks.note("a")).proof
    assert proof is not None
    assert proof.ending is Ending.ABORT


@pytest.mark.parametrize(("precommitted", "ends"), [((), "aborted"), (("a",), "committed")])
async def test_the_textbook_acts_alone_and_says_so_loudly(
    banks: Banks, precommitted: tuple[str, ...], ends: str
) -> None:
    await banks.prepare(*NAMES, policy=Policy.UNSAFE_COMMIT_ON_SILENCE)
    await banks.precommit(*precommitted)
    with structlog.testing.capture_logs() as logs:
        await banks.silent("a")
    assert await banks.states() == [ends, "prepared", "prepared"]
    (line,) = [line for line in logs if line["event"] == "branch.ended_on_silence"]
    assert (line["log_level"], line["is_safe"]) == ("error", False)


async def test_a_branch_in_two_phases_waits_for_ever(banks: Banks) -> None:
    await banks.ask("a", Verb.PREPARE, None, "put")
    assert await banks.silent("a", silent_s=1e6) is None


def test_a_note_that_is_none_is_a_failure() -> None:
    with pytest.raises(ResourceFailed, match="a note holds what is none"):
        Note.unpack(b"\xc1")
    note = Note(PEERS, Policy.UNSAFE_COMMIT_ON_SILENCE, Register(Leaning.PREABORTED, Ballot(2, 1), Ballot(2, 1)))
    assert Note.unpack(note.pack()) == note
