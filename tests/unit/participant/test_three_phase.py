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
from participant.rm.requests import Forget
from participant.service import ParticipantService
from participant.termination import (
    BALLOT_JUMP_MAX,
    BALLOT_NUMBER_MAX,
    COORDINATORS,
    Ask,
    Ballot,
    Ending,
    Leaning,
    Peer,
    Policy,
    Register,
)
from participant.three_phase import ThreePhase
from participant.three_phase_note import Note
from participant.wire import Answer, BranchState, Operation, Verb
from participant.wire_three_phase import Terms

SECRET = b"a secret of the cluster"
SEAL = Seal(SECRET)
NAMES = ("a", "b", "c")
PEERS = tuple(Peer(name, f"bank-{name}", f"local://{name}") for name in NAMES)
PATIENCE_S = 5.0
GID = "t"
LATER_MS = 2**52


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
        self.seals = seals

    async def start(self, name: str) -> None:
        resource = self.resources[name] = Memory(self._disks[name])
        await resource.open()
        part = self.parts[name] = ThreePhase(f"bank-{name}", resource, self.seals.get(name, SEAL), self.net, PATIENCE_S)
        actions = {"put": put, "look": look}
        self.net.services[name] = ParticipantService(f"bank-{name}", resource, actions, three_phase=part)

    async def restart(self, name: str) -> None:
        await self.resources[name].close()
        await self.start(name)

    async def ask(self, name: str, verb: Verb, terms: Terms | None = None, action: str | None = None) -> Answer:
        if terms is not None and terms.ballot is not None:
            terms = terms._replace(participant=f"bank-{name}")
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

    async def replace(self, name: str, **changes: Any) -> None:
        """Make its note another one."""
        before = await self.note(name)
        assert await self.resources[name].swap_note(
            BranchKey(GID, name), before.pack(), before._replace(**changes).pack()
        )


@pytest.fixture
async def banks(request: pytest.FixtureRequest) -> AsyncIterator[Banks]:
    made = Banks(Net(), dict(getattr(request, "param", {})))
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
    assert told.three_phase.proof == SEAL.sign_own(GID, Ending.ABORT, "a", "bank-a")


async def test_it_must_be_among_its_peers(banks: Banks) -> None:
    renamed = Peer("a", "bank-z", "local://a")
    for peers in (PEERS[1:], (renamed, *PEERS[1:])):
        with pytest.raises(WireError, match="must name 'a', the branch itself, at 'bank-a'"):
            await banks.ask("a", Verb.PREPARE, Terms(peers), "put")


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
        ThreePhase("bank", object(), SEAL, banks.net, PATIENCE_S)  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", [Verb.CANVASS, Verb.PRECOMMIT, Verb.PREABORT])
async def test_who_is_not_meant_refuses_before_it_prevents_anything(banks: Banks, verb: Verb) -> None:
    """Its address was another participant's before. Seen red with the name not compared."""
    terms = Terms(ballot=Ballot(1, 1), participant="bank-b")
    with pytest.raises(WireError, match="is 'bank-b'; this is 'bank-a'"):
        await banks.net.services["a"].perform(Operation(verb, BranchKey(GID, "a"), three_phase=terms))
    assert (await banks.states())[0] == "unknown"


async def test_the_end_of_a_branch_of_no_peer_is_no_end(banks: Banks) -> None:
    """Seen red with any signed end of a branch believed: an abort of what the others have committed."""
    await banks.prepare(*NAMES)
    await banks.precommit(*NAMES)
    terms = Terms(ballot=Ballot(1, 1), participant="bank-c")
    stray = await banks.net.services["c"].perform(Operation(Verb.CANVASS, BranchKey(GID, "z"), three_phase=terms))
    assert stray.state is BranchState.ABORTED
    assert stray.three_phase is not None
    answer = await banks.ask("a", Verb.ABORT, Terms(proof=stray.three_phase.proof))
    assert (answer.state, answer.retry) == (BranchState.PREPARED, True)


async def test_an_end_of_a_peer_is_one(banks: Banks) -> None:
    await banks.prepare("a")
    answer = await banks.ask("a", Verb.ABORT, Terms(proof=SEAL.sign_own(GID, Ending.ABORT, "b", "bank-b")))
    assert answer.state is BranchState.ABORTED


@pytest.mark.parametrize("verb", [Verb.COMMIT, Verb.ABORT])
async def test_without_terms_only_a_branch_in_two_phases_is_ended(banks: Banks, verb: Verb) -> None:
    """Seen red with the note not looked for: no proof was needed then."""
    await banks.prepare("a")
    with structlog.testing.capture_logs() as logs:
        answer = await banks.ask("a", verb)
    assert (answer.state, answer.retry) == (BranchState.PREPARED, True)
    assert [line["event"] for line in logs] == ["proof.refused"]
    await banks.ask("b", Verb.PREPARE, None, "put")
    ends = BranchState.COMMITTED if verb is Verb.COMMIT else BranchState.ABORTED
    assert (await banks.ask("b", verb)).state is ends


async def test_a_promise_outlives_its_branch(banks: Banks) -> None:
    """Seen red with the branch asked first: a canvass then signed an abort against its own note."""
    await banks.prepare("c", action="look")
    await banks.precommit("c")
    note, leans = await banks.note("c"), Register(Leaning.PRECOMMITTED, COORDINATORS, COORDINATORS)
    assert note.register == leans
    await banks.resources["c"]._ask(Forget(LATER_MS, 1))
    await banks.resources["c"].swap_note(BranchKey(GID, "c"), None, note.pack(), is_finished=True)  # not yet forgotten
    assert (await banks.states())[2] == "unknown"
    answer = await banks.ask("c", Verb.CANVASS, Terms(ballot=Ballot(1, 1)))
    assert answer.three_phase == Terms(register=leans._replace(promised=Ballot(1, 1)))
    assert (await banks.states())[2] == "unknown", "and nothing was prevented"


async def test_without_its_note_it_does_not_vote(banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with what came of the write ignored: a database may be too busy for it."""

    async def busy(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(banks.resources["a"], "swap_note", busy)
    answer = await banks.ask("a", Verb.PREPARE, Terms(PEERS), "put")
    assert (answer.state, answer.retry) == (BranchState.UNKNOWN, True)
    assert "could not be written" in answer.reason
    assert (await banks.states())[0] == "unknown"


async def test_a_ballot_far_above_all_others_is_refused(banks: Banks) -> None:
    """Seen red with any ballot promised: after the last one there is none to end the transaction with."""
    await banks.prepare("a")
    with pytest.raises(WireError, match="more than 1,000 above what is promised"):
        await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(BALLOT_JUMP_MAX + 1, 2)))
    await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(BALLOT_JUMP_MAX, 2)))
    assert (await banks.note("a")).register.promised == Ballot(BALLOT_JUMP_MAX, 2)


async def test_after_the_last_ballot_it_waits(banks: Banks) -> None:
    """Seen red with the next one taken: no note with it can be read again."""
    await banks.prepare("a")
    banks.parts["a"]._patience_s = 0.0
    await banks.replace("a", register=Register(promised=Ballot(BALLOT_NUMBER_MAX, 2)))
    assert await banks.silent("a") is None
    assert await banks.silent("a") is None
    assert (await banks.note("a")).register.promised == Ballot(BALLOT_NUMBER_MAX, 2)


async def test_who_is_far_behind_catches_up_in_steps(banks: Banks) -> None:
    """Seen red with the highest ballot taken at once, which is refused as one that is too far ahead."""
    await banks.prepare(*NAMES)
    await banks.replace("b", register=Register(promised=Ballot(1_500, 2)))
    banks.net.away, banks.parts["a"]._patience_s = {"c"}, 0.0
    for _ in range(2):
        await banks.silent("a")
    assert await banks.states() == ["prepared"] * 3
    await banks.silent("a")
    assert await banks.states() == ["aborted", "aborted", "prepared"]


async def test_a_note_that_is_closed_stays_so(banks: Banks) -> None:
    """Seen red with the register of a closed note moved, when the first write had failed: it was open again then."""
    await banks.prepare("a")
    key = BranchKey(GID, "a")
    before = await banks.resources["a"].note(key)
    await banks.parts["a"]._close(key, SEAL.sign(GID, Ending.COMMIT, Source.LOG, 3, 9))
    closed = await banks.note("a")
    await banks.parts["a"]._move(key, before, Ask.PRECOMMIT, COORDINATORS, is_finished=False)
    assert await banks.note("a") == closed


async def test_the_note_of_an_aborted_branch_is_closed_when_it_is_asked(banks: Banks) -> None:
    """It was prevented before it voted. Seen red with the note left open: it was never forgotten."""

    async def busy() -> Answer:
        return Answer(BranchState.UNKNOWN, retry=True)

    operation = Operation(Verb.PREPARE, BranchKey(GID, "a"), three_phase=Terms(PEERS))
    await banks.parts["a"].perform(operation, busy)
    answer = await banks.ask("a", Verb.CANVASS, Terms(ballot=Ballot(1, 2)))
    proof = SEAL.sign_own(GID, Ending.ABORT, "a", "bank-a")
    assert (await banks.note("a")).proof == proof
    assert answer.three_phase == Terms(proof=proof)


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


async def test_when_the_secret_is_changed_an_end_is_signed_anew(banks: Banks) -> None:
    """Seen red with the proof of the note handed on, which nobody believes any more."""
    await banks.prepare(*NAMES)
    for name in "bc":
        await banks.ask(name, Verb.COMMIT, Terms(proof=SEAL.sign(GID, Ending.COMMIT, Source.LOG, 3, 9)))
    banks.seals.update(dict.fromkeys(NAMES, Seal(b"a new secret of the cluster")))
    for name in NAMES:
        await banks.restart(name)
    await banks.silent("a")
    assert await banks.states() == ["committed"] * 3


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
