"""A participant's part in transactions in three phases: what `participant.termination` decides is done here.

Owns: the note of each branch (its peers, its register, the proof of its end), and the termination with its peers. Must
never do: end a branch without a proof, or change a register but by `termination.moved`.

The note is there before the branch votes yes, and its end is in it before the branch is brought to it. So whoever is
asked can say at any moment, also after a restart, what it has promised, and what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

import msgpack
from structlog import get_logger

from participant.errors import ResourceBusy, ResourceFailed, WireError
from participant.ids import BranchKey
from participant.notes import NoteKeeper
from participant.proof import Proof, Seal, Source
from participant.resource import ResourceManager
from participant.termination import (
    Ask,
    Ballot,
    Ending,
    Heard,
    Leaning,
    Peer,
    Policy,
    Register,
    Silence,
    after_canvass,
    after_leaning,
    moved,
    next_ballot,
    on_silence,
)
from participant.wire import Answer, BranchState, Operation, Verb
from participant.wire_three_phase import Terms

__all__ = ["CHANGES_MAX", "Note", "Peers", "ThreePhase"]

BY_PEERS = "its participants have ended it, because no coordinator spoke"
CHANGES_MAX = 20  # attempts to write a note that others write, too; then whoever asks is to come again

_LOG = get_logger(__name__)
_T = TypeVar("_T")

_ASKS = {Verb.CANVASS: Ask.CANVASS, Verb.PRECOMMIT: Ask.PRECOMMIT, Verb.PREABORT: Ask.PREABORT}
_VERBS = {Leaning.PRECOMMITTED: Verb.PRECOMMIT, Leaning.PREABORTED: Verb.PREABORT}
_ENDINGS = {BranchState.COMMITTED: Ending.COMMIT, BranchState.ABORTED: Ending.ABORT}
_ENDS = {Ending.COMMIT: Verb.COMMIT, Ending.ABORT: Verb.ABORT}
_VOTED_YES = (BranchState.PREPARED, BranchState.READ_ONLY)


class Note(NamedTuple):
    """What is kept of one branch. `proof`: of its end, once that is known."""

    peers: tuple[Peer, ...]
    policy: Policy
    register: Register = Register()
    proof: Proof | None = None

    def pack(self) -> bytes:
        """As bytes: the wire form of its terms."""
        terms = Terms(self.peers, self.policy, register=self.register, proof=self.proof)
        packed: bytes = msgpack.packb(terms.to_map())
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Note:
        """The inverse of `pack`. Raises ResourceFailed if it is none."""
        try:
            terms = Terms.from_map(msgpack.unpackb(data), "note")
        except (WireError, ValueError, msgpack.UnpackException) as error:
            raise ResourceFailed(f"a note holds what is none: {error}") from error
        return cls(terms.peers, terms.policy, terms.register or Register(), terms.proof)


class Peers(Protocol):
    """Reaching the other participants of a transaction. Implementation: `participant.peers`."""

    async def ask(self, peer: Peer, operation: Operation) -> Answer | None:
        """Its answer; None if there was none in time, or none that could be understood."""


class ThreePhase:
    """For one resource manager that keeps notes. `patience_s`: how long no replica may have answered before its peers
    are asked. Every method may raise what the resource manager raises.
    """

    def __init__(self, resource: ResourceManager, seal: Seal, peers: Peers, patience_s: float) -> None:
        """Raises TypeError for a resource manager that keeps no notes."""
        if not isinstance(resource, NoteKeeper):
            raise TypeError(f"{type(resource).__name__} keeps no notes: it can take no part in three phases")
        self.key_id = seal.key_id
        self._resource = resource
        self._notes: NoteKeeper = resource
        self._seal = seal
        self._peers = peers
        self._patience_s = patience_s
        self._promises: dict[BranchKey, tuple[Ballot, float]] = {}  # of branches in doubt: since when it was seen

    async def perform(self, operation: Operation, prepare: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do an operation that has terms, or is in a ballot. `prepare`: asks the branch for its vote."""
        key, terms = operation.key, operation.three_phase or Terms()
        match operation.verb:
            case Verb.PREPARE:
                return await self._prepare(key, terms, prepare)
            case Verb.CANVASS | Verb.PRECOMMIT | Verb.PREABORT if terms.ballot is not None:
                return await self._ask(key, _ASKS[operation.verb], terms.ballot)
            case Verb.COMMIT | Verb.ABORT:
                return await self._obey(key, operation.verb, terms.proof)
        raise WireError("three_phase", f"does not go with {operation.verb}")

    # What the coordinators and the peers ask for

    async def _prepare(self, key: BranchKey, terms: Terms, prepare: Callable[[], Awaitable[Answer]]) -> Answer:
        if all(peer.branch != key.branch for peer in terms.peers):
            raise WireError("three_phase.peers", f"must name {key.branch!r}, the branch itself, too")
        await self._notes.swap_note(key, None, Note(terms.peers, terms.policy).pack())  # unless it is there
        answer = await prepare()
        if not answer.retry and answer.state is BranchState.ABORTED:
            return _explained(answer, await self._close(key, self._own_proof(key, Ending.ABORT)))
        if not answer.retry and answer.state is BranchState.READ_ONLY:
            await self._close(key, None)
            return await self._resource.outcome(key)  # it may have been aborted meanwhile
        return answer

    async def _ask(self, key: BranchKey, ask: Ask, ballot: Ballot) -> Answer:
        """Ask its register. To be canvassed keeps a branch from voting yes that has not: it will answer ABORTED."""
        about = "its peers are ending the transaction, and it had not voted"
        asked = self._resource.prevent(key, about) if ask is Ask.CANVASS else self._resource.outcome(key)
        branch: Answer
        branch, data = await asyncio.gather(asked, self._notes.note(key))
        note = None if data is None else Note.unpack(data)
        if branch.retry:
            return branch
        if note is not None and note.proof is None and branch.state in _VOTED_YES:
            note = await self._move(key, data, ask, ballot, is_finished=branch.state is BranchState.READ_ONLY)
        return await self._said(key, note)

    async def _said(self, key: BranchKey, note: Note | None) -> Answer:
        """What its note says, with what is true of the branch, which is asked last: it may have ended meanwhile."""
        branch = await self._resource.outcome(key)
        if (ending := _ENDINGS.get(branch.state)) is not None:
            proof = note.proof if note is not None else None
            return _explained(branch, proof)._replace(three_phase=Terms(proof=proof or self._own_proof(key, ending)))
        if note is None or branch.state not in _VOTED_YES:
            return branch._replace(reason="it has not voted in three phases")
        return branch._replace(three_phase=Terms(register=note.register, proof=note.proof))

    async def _move(
        self, key: BranchKey, data: bytes | None, ask: Ask, ballot: Ballot, *, is_finished: bool
    ) -> Note | None:
        """Its note as it is then, with the register moved, or as before because it has promised otherwise. `data`: the
        note as it was read last. Raises ResourceBusy.
        """
        for _ in range(CHANGES_MAX):
            if data is None:
                return None
            note = Note.unpack(data)
            register = moved(note.register, ask, ballot)
            if register is None or register == note.register:
                return note
            changed = note._replace(register=register)
            if await self._notes.swap_note(key, data, changed.pack(), is_finished=is_finished):
                return changed
            data = await self._notes.note(key)
        raise ResourceBusy(f"the note of branch {key} is being written by others; come again")

    async def _obey(self, key: BranchKey, verb: Verb, proof: Proof | None) -> Answer:
        """End the branch as its proof says; without one that holds, ignore it."""
        if proof is None or not self._holds(key, proof) or _ENDS[proof.ending] is not verb:
            answer = await self._resource.outcome(key)
            _LOG.error("proof.refused", gid=key.gid, branch=key.branch, verb=verb.value, state=answer.state)
            return answer._replace(reason=f"{verb} is ignored: its proof does not hold", retry=True)
        branch, note = await asyncio.gather(self._resource.outcome(key), self._note(key))
        if note is not None and note.proof is not None and _ENDINGS.get(branch.state) is proof.ending:
            return _explained(branch, note.proof)  # a repeat
        return await self._end(key, proof)

    async def _end(self, key: BranchKey, proof: Proof) -> Answer:
        """As its proof says, unless there was one before: then as that says."""
        self._promises.pop(key, None)
        stands = await self._close(key, proof) or proof
        return await (self._resource.commit(key) if stands.ending is Ending.COMMIT else self._resource.abort(key))

    # Without the coordinators

    async def in_doubt(self) -> list[BranchKey]:
        """Every prepared branch, oldest first."""
        return await self._resource.in_doubt()

    async def commit(self, key: BranchKey) -> Answer:
        """A replica has said so."""
        return await self._end(key, self._own_proof(key, Ending.COMMIT))

    async def abort(self, key: BranchKey) -> Answer:
        """A replica has said so."""
        return await self._end(key, self._own_proof(key, Ending.ABORT))

    async def silent(self, key: BranchKey, *, is_deciding: bool, silent_s: float) -> Answer | None:
        """No replica knows how the transaction of a prepared branch ended; see `termination.on_silence`.

        Returns: what the branch answers at its end; None if it goes on waiting, or is not in three phases.
        """
        note = await self._note(key)
        if note is None:
            return None
        if note.proof is not None:
            return await self._end(key, note.proof)
        does = on_silence(
            note.policy,
            note.register,
            _place(key, note),
            is_deciding=is_deciding,
            silent_s=silent_s,
            promised_s=self._promised_s(key, note.register.promised),
            patience_s=self._patience_s,
        )
        match does:
            case Silence.WAIT:
                return None
            case Silence.TERMINATE:
                return await self._terminate(key, note)
            case Silence.COMMIT | Silence.ABORT:
                ending = Ending.COMMIT if does is Silence.COMMIT else Ending.ABORT
                _LOG.error(
                    "branch.ended_on_silence", gid=key.gid, branch=key.branch, ending=ending.value, is_safe=False
                )
                return await self._end(key, self._own_proof(key, ending))

    def _promised_s(self, key: BranchKey, promised: Ballot) -> float:
        """For how long the branch has been seen to promise this ballot."""
        now = asyncio.get_running_loop().time()
        ballot, since = self._promises.get(key, (None, now))
        self._promises[key] = promised, since if ballot == promised else now
        return now - self._promises[key][1]

    async def _terminate(self, key: BranchKey, note: Note) -> Answer | None:
        """End the transaction with its peers; None if too few of them can be reached, or others are at it."""
        ballot = next_ballot(note.register, _place(key, note))
        proof = await self._agreed(key, note, ballot)
        _LOG.info(
            "branch.terminates",
            gid=key.gid,
            branch=key.branch,
            ballot=list(ballot),
            ending=None if proof is None else proof.ending.value,
        )
        if proof is None:
            return None
        answer = await self._end(key, proof)
        await asyncio.gather(*self._asks(key, note, _ENDS[proof.ending], Terms(proof=proof)))
        return answer

    async def _agreed(self, key: BranchKey, note: Note, ballot: Ballot) -> Proof | None:
        """The decision of a majority in this ballot, or of whoever knows one."""
        count = len(note.peers)

        def canvassed(answers: list[Answer]) -> Ending | None:
            """Everybody who can be reached is heard: one may lean to a commit."""
            step = after_canvass(ballot, count, self._heard(key, answers))
            return step if isinstance(step, Ending) else None

        own = await self._ask(key, Ask.CANVASS, ballot)
        answers, ending = await self._ballot(key, note, Verb.CANVASS, ballot, own, canvassed)
        await self._promise_highest(key, ballot, answers)
        step = after_canvass(ballot, count, self._heard(key, answers))
        if isinstance(step, Leaning):

            def agreed(answers: list[Answer]) -> Ending | None:
                return after_leaning(ballot, step, count, self._heard(key, answers))

            own = await self._ask(key, _ASKS[_VERBS[step]], ballot)
            register = None if own.three_phase is None else own.three_phase.register
            if register is None or (register.leaning, register.accepted) != (step, ballot):
                return None  # another process, or a higher ballot, was quicker
            answers, ending = await self._ballot(key, note, _VERBS[step], ballot, own, agreed)
            await self._promise_highest(key, ballot, answers)
        if ending is None:
            return None
        known = (answer.three_phase.proof for answer in answers if answer.three_phase is not None)
        told = next((proof for proof in known if proof is not None and self._holds(key, proof)), None)
        return told or self._seal.sign(key.gid, ending, Source.QUORUM, *ballot)

    async def _promise_highest(self, key: BranchKey, ballot: Ballot, answers: Iterable[Answer]) -> None:
        """Who hears of a higher ballot promises it, so that its own next one is higher still."""
        registers = [said for said in self._heard(key, answers) if isinstance(said, Register)]
        highest = max((register.promised for register in registers), default=ballot)
        if highest > ballot:
            await self._ask(key, Ask.CANVASS, highest)

    async def _ballot(
        self,
        key: BranchKey,
        note: Note,
        verb: Verb,
        ballot: Ballot,
        own: Answer,
        conclude: Callable[[list[Answer]], _T | None],
    ) -> tuple[list[Answer], _T | None]:
        """Ask its peers, all at once, until something follows from what they and the branch itself say (`own`, which is
        durable before anybody else is asked); what was said, and what follows.
        """
        answers = [own]
        asked = {asyncio.ensure_future(ask) for ask in self._asks(key, note, verb, Terms(ballot=ballot))}
        try:
            while (step := conclude(answers)) is None and asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                said = [each.result() for each in done]
                answers += [answer for answer in said if answer is not None and not answer.retry]
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return answers, step

    def _asks(self, key: BranchKey, note: Note, verb: Verb, terms: Terms) -> list[Coroutine[Any, Any, Answer | None]]:
        """One question to each of the others."""
        return [
            self._peers.ask(peer, Operation(verb, BranchKey(key.gid, peer.branch), three_phase=terms))
            for peer in note.peers
            if peer.branch != key.branch
        ]

    def _heard(self, key: BranchKey, answers: Iterable[Answer]) -> list[Heard]:
        """What of it counts: a decision only with its proof."""
        heard: list[Heard] = []
        for answer in answers:
            terms = answer.three_phase or Terms()
            if terms.proof is not None:
                if self._holds(key, terms.proof):
                    heard.append(terms.proof.ending)
            elif terms.register is not None:
                heard.append(terms.register)
        return heard

    def _holds(self, key: BranchKey, proof: Proof) -> bool:
        holds = self._seal.holds(key.gid, proof)
        if not holds:
            _LOG.error("proof.invalid", gid=key.gid, branch=key.branch, ending=proof.ending.value)
        return holds

    # The note

    async def _note(self, key: BranchKey) -> Note | None:
        data = await self._notes.note(key)
        return None if data is None else Note.unpack(data)

    def _own_proof(self, key: BranchKey, ending: Ending) -> Proof:
        return self._seal.sign(key.gid, ending, Source.BRANCH)

    async def _close(self, key: BranchKey, proof: Proof | None) -> Proof | None:
        """Keep the proof, and let the note be forgotten in time; the proof that is in it then. The first one stays.

        Raises: ResourceBusy.
        """
        for _ in range(CHANGES_MAX):
            data = await self._notes.note(key)
            if data is None:
                return None
            note = Note.unpack(data)
            closed = note._replace(proof=note.proof or proof).pack()
            if note.proof is not None or await self._notes.swap_note(key, data, closed, is_finished=True):
                return note.proof or proof
        raise ResourceBusy(f"the note of branch {key} is being written by others; come again")


def _place(key: BranchKey, note: Note) -> int:
    return 1 + [peer.branch for peer in note.peers].index(key.branch)


def _explained(answer: Answer, proof: Proof | None) -> Answer:
    """With the reason that only the note knows."""
    by_peers = proof is not None and proof.ending is Ending.ABORT and proof.source is Source.QUORUM
    return answer._replace(reason=BY_PEERS) if by_peers else answer
