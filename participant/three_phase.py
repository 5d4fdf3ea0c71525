"""A participant's part in transactions in three phases: what `participant.termination` decides is done here.

Owns: the note of each branch (its peers, its register, the proof of its end), and the termination with its peers. Must
never do: end a branch without a proof, or change a register but by `termination.moved`.

The note is there before the branch votes yes, and its end is in it before the branch is brought to it. So whoever is
asked can say at any moment, also after a restart, what it has promised, and what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from structlog import get_logger

from participant.errors import ResourceBusy, WireError
from participant.ids import BranchKey
from participant.notes import NoteKeeper
from participant.proof import Proof, Seal, Source
from participant.resource import ResourceManager
from participant.termination import (
    BALLOT_JUMP_MAX,
    BALLOT_NUMBER_MAX,
    Ask,
    Ballot,
    Ending,
    Heard,
    Leaning,
    Peer,
    Silence,
    after_canvass,
    after_leaning,
    moved,
    next_ballot,
    on_silence,
)
from participant.three_phase_note import Note
from participant.wire import Answer, BranchState, Operation, Verb
from participant.wire_three_phase import Terms

__all__ = ["CHANGES_MAX", "Peers", "ThreePhase"]

BY_PEERS = "its participants have ended it, because no coordinator spoke"
CHANGES_MAX = 20  # attempts to write a note that others write, too; then whoever asks is to come again

_LOG = get_logger(__name__)
_T = TypeVar("_T")

_ASKS = {Verb.CANVASS: Ask.CANVASS, Verb.PRECOMMIT: Ask.PRECOMMIT, Verb.PREABORT: Ask.PREABORT}
_VERBS = {Leaning.PRECOMMITTED: Verb.PRECOMMIT, Leaning.PREABORTED: Verb.PREABORT}
_ENDINGS = {BranchState.COMMITTED: Ending.COMMIT, BranchState.ABORTED: Ending.ABORT}
_ENDS = {Ending.COMMIT: Verb.COMMIT, Ending.ABORT: Verb.ABORT}
_VOTED_YES = (BranchState.PREPARED, BranchState.READ_ONLY)


class Peers(Protocol):
    """Reaching the other participants of a transaction. Implementation: `participant.peers`."""

    async def ask(self, peer: Peer, operation: Operation) -> Answer | None:
        """Its answer; None if there was none in time, or none that could be understood."""


class ThreePhase:
    """For one resource manager that keeps notes. `patience_s`: how long no replica may have answered before its peers
    are asked. Every method may raise what the resource manager raises.
    """

    def __init__(self, name: str, resource: ResourceManager, seal: Seal, peers: Peers, patience_s: float) -> None:
        """`name`: the participant's. Raises TypeError for a resource manager that keeps no notes."""
        if not isinstance(resource, NoteKeeper):
            raise TypeError(f"{type(resource).__name__} keeps no notes: it can take no part in three phases")
        self.key_id = seal.key_id
        self._name = name
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
                if terms.participant != self._name:
                    raise WireError("three_phase.participant", f"is {terms.participant!r}; this is {self._name!r}")
                return await self._ask(key, _ASKS[operation.verb], terms.ballot)
            case Verb.COMMIT | Verb.ABORT:
                return await self._obey(key, operation.verb, terms.proof)
        raise WireError("three_phase", f"does not go with {operation.verb}")

    # What the coordinators and the peers ask for

    async def _prepare(self, key: BranchKey, terms: Terms, prepare: Callable[[], Awaitable[Answer]]) -> Answer:
        if not _names(terms.peers, key.branch, self._name):
            raise WireError("three_phase.peers", f"must name {key.branch!r}, the branch itself, at {self._name!r}, too")
        is_new = await self._notes.swap_note(key, None, Note(terms.peers, terms.policy).pack())
        if not is_new and await self._notes.note(key) is None:
            raise ResourceBusy(f"the note of branch {key} could not be written; come again")
        answer = await prepare()
        if not answer.retry and answer.state is BranchState.ABORTED:
            return _explained(answer, await self._close(key, self._own_proof(key, Ending.ABORT)))
        if not answer.retry and answer.state is BranchState.READ_ONLY:
            await self._close(key, None)
            return await self._resource.outcome(key)  # it may have been aborted meanwhile
        return answer

    async def _ask(self, key: BranchKey, ask: Ask, ballot: Ballot) -> Answer:
        """Ask its register. To be canvassed keeps a branch from voting yes that has not: it will answer ABORTED. What a
        note says that it has promised stands, even if the branch itself is forgotten.
        """
        data = await self._notes.note(key)
        note = None if data is None else Note.unpack(data)
        is_bound = note is not None and note.is_bound
        about = "its peers are ending the transaction, and it had not voted"
        asked = (
            self._resource.prevent(key, about) if ask is Ask.CANVASS and not is_bound else self._resource.outcome(key)
        )
        branch: Answer = await asked
        if branch.retry:
            return branch
        if note is not None and branch.state is BranchState.ABORTED:
            note = note._replace(proof=await self._close(key, self._own_proof(key, Ending.ABORT)))
        elif note is not None and (branch.state in _VOTED_YES or (is_bound and branch.state is BranchState.UNKNOWN)):
            note = await self._move(key, data, ask, ballot, is_finished=branch.state is not BranchState.PREPARED)
        return await self._said(key, note)

    async def _said(self, key: BranchKey, note: Note | None) -> Answer:
        """What its note says, with what is true of the branch, which is asked last: it may have ended meanwhile."""
        branch = await self._resource.outcome(key)
        noted = None if note is None else note.proof
        ending = _ENDINGS.get(branch.state) or (None if noted is None else noted.ending)
        if ending is None:
            if note is None or not (branch.state in _VOTED_YES or note.is_bound):
                return branch._replace(reason="it has not voted in three phases")
            return branch._replace(three_phase=Terms(register=note.register))
        is_good = noted is not None and self._seal.holds(key.gid, noted)  # not if the secret has been changed
        proof = noted if is_good else self._own_proof(key, ending)
        return _explained(branch, noted)._replace(three_phase=Terms(proof=proof))

    async def _move(
        self, key: BranchKey, data: bytes | None, ask: Ask, ballot: Ballot, *, is_finished: bool
    ) -> Note | None:
        """Its note as it is then, with the register moved, or as before because it has promised otherwise. `data`: the
        note as it was read last. Raises ResourceBusy; WireError for a ballot that is too far ahead.
        """
        for _ in range(CHANGES_MAX):
            if data is None:
                return None
            note = Note.unpack(data)
            if ballot.number > note.register.promised.number + BALLOT_JUMP_MAX:
                raise WireError("three_phase.ballot", f"is more than {BALLOT_JUMP_MAX:,} above what is promised")
            register = moved(note.register, ask, ballot)
            if note.proof is not None or register is None or register == note.register:
                return note
            changed = note._replace(register=register)
            if await self._notes.swap_note(key, data, changed.pack(), is_finished=is_finished):
                return changed
            data = await self._notes.note(key)
        raise ResourceBusy(f"the note of branch {key} is being written by others; come again")

    async def _obey(self, key: BranchKey, verb: Verb, proof: Proof | None) -> Answer:
        """End the branch as its proof says; without one that holds, ignore it."""
        branch: Answer
        branch, note = await asyncio.gather(self._resource.outcome(key), self._note(key))
        if proof is None or not self._holds(key, note, proof) or _ENDS[proof.ending] is not verb:
            _LOG.error("proof.refused", gid=key.gid, branch=key.branch, verb=verb.value, state=branch.state)
            return branch._replace(reason=f"{verb} is ignored: its proof does not hold", retry=True)
        if note is not None and note.proof is not None and _ENDINGS.get(branch.state) is proof.ending:
            return _explained(branch, note.proof)  # a repeat
        return await self._end(key, proof)

    async def end_unproven(self, key: BranchKey, verb: Verb) -> Answer:
        """A commit or an abort without terms, which ends a branch in two phases only: one that has no note."""
        if await self._notes.note(key) is not None:
            return await self._obey(key, verb, None)
        return await (self._resource.commit(key) if verb is Verb.COMMIT else self._resource.abort(key))

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
        if ballot.number > BALLOT_NUMBER_MAX:
            return None
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
            step = after_canvass(ballot, count, self._heard(key, note, answers))
            return step if isinstance(step, Ending) else None

        own = await self._ask(key, Ask.CANVASS, ballot)
        answers, ending = await self._ballot(key, note, Verb.CANVASS, ballot, own, canvassed)
        await self._promise_highest(key, ballot, answers)
        step = after_canvass(ballot, count, self._heard(key, note, answers))
        if isinstance(step, Leaning):

            def agreed(answers: list[Answer]) -> Ending | None:
                return after_leaning(ballot, step, count, self._heard(key, note, answers))

            own = await self._ask(key, _ASKS[_VERBS[step]], ballot)
            register = None if own.three_phase is None else own.three_phase.register
            if register is None or (register.leaning, register.accepted) != (step, ballot):
                return None  # another process, or a higher ballot, was quicker
            answers, ending = await self._ballot(key, note, _VERBS[step], ballot, own, agreed)
            await self._promise_highest(key, ballot, answers)
        if ending is None:
            return None
        known = (answer.three_phase.proof for answer in answers if answer.three_phase is not None)
        told = next((proof for proof in known if proof is not None and self._holds(key, note, proof)), None)
        return told or self._seal.sign(key.gid, ending, Source.QUORUM, *ballot)

    async def _promise_highest(self, key: BranchKey, ballot: Ballot, answers: Iterable[Answer]) -> None:
        """Who hears of a higher ballot promises it, so that its own next one is higher still."""
        terms = [answer.three_phase for answer in answers if answer.three_phase is not None]
        highest = max((each.register.promised for each in terms if each.register is not None), default=ballot)
        if highest > ballot:
            number = min(highest.number, ballot.number + BALLOT_JUMP_MAX)  # who is farther behind, follows in steps
            await self._ask(key, Ask.CANVASS, highest._replace(number=number))

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
            self._peers.ask(peer, Operation(verb, BranchKey(key.gid, peer.branch), three_phase=_meant_for(peer, terms)))
            for peer in note.peers
            if peer.branch != key.branch
        ]

    def _heard(self, key: BranchKey, note: Note, answers: Iterable[Answer]) -> list[Heard]:
        """What of it counts: a decision only with its proof."""
        heard: list[Heard] = []
        for answer in answers:
            terms = answer.three_phase or Terms()
            if terms.proof is not None:
                if self._holds(key, note, terms.proof):
                    heard.append(terms.proof.ending)
            elif terms.register is not None:
                heard.append(terms.register)
        return heard

    def _holds(self, key: BranchKey, note: Note | None, proof: Proof) -> bool:
        """Whether it is signed, and, if a branch has signed it for itself, by one of this transaction."""
        peers = () if note is None else note.peers
        is_known = proof.source is not Source.BRANCH or _names(peers, proof.branch, proof.participant)
        holds = is_known and self._seal.holds(key.gid, proof)
        if not holds:
            _LOG.error("proof.invalid", gid=key.gid, branch=key.branch, ending=proof.ending.value)
        return holds

    # The note

    async def _note(self, key: BranchKey) -> Note | None:
        data = await self._notes.note(key)
        return None if data is None else Note.unpack(data)

    def _own_proof(self, key: BranchKey, ending: Ending) -> Proof:
        return self._seal.sign_own(key.gid, ending, key.branch, self._name)

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


def _names(peers: Iterable[Peer], branch: str, participant: str) -> bool:
    return any((peer.branch, peer.participant) == (branch, participant) for peer in peers)


def _meant_for(peer: Peer, terms: Terms) -> Terms:
    return terms if terms.ballot is None else terms._replace(participant=peer.participant)


def _explained(answer: Answer, proof: Proof | None) -> Answer:
    """With the reason that only the note knows."""
    by_peers = proof is not None and proof.ending is Ending.ABORT and proof.source is Source.QUORUM
    return answer._replace(reason=BY_PEERS) if by_peers else answer
