"""Promises of a participant that takes part in three phases: its register, its proofs, and that it forgets neither.

Tried as its coordinators ask, in JSON, and its peers, in msgpack. The list of peers names two more, whom nobody can
reach; so the participant comes to no end by itself, unless it asks coordinators. It may take a ballot of its own
meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

from participant.ids import BranchKey
from participant.proof import Proof, Source
from participant.termination import BALLOT_JUMP_MAX, COORDINATORS, Ballot, Ending, Leaning, Peer, Register
from participant.testing.conformance.bench import Bench, Unclear, expect, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import MSGPACK, Exchange
from participant.wire import BranchState, Verb
from participant.wire_three_phase import Terms

__all__ = ["THREE_PHASES"]

# Of the two peers, who have the places 2 and 3. A ballot that the participant takes itself is (…, 1).
FIRST, LOWER, SECOND, THIRD = Ballot(100, 2), Ballot(99, 3), Ballot(200, 3), Ballot(300, 2)
TOO_FAR = Ballot(THIRD.number + 2 * BALLOT_JUMP_MAX, 2)
_PEERS = ("check-peer-2", "check-peer-3")  # their branches
_NOBODY = "check-nobody"
_UNREACHABLE = "http://127.0.0.1:1"


async def a_yes_says_how_it_leans(bench: Bench) -> None:
    key = await _prepared(bench)
    _expect_register(await _ask(bench, key, Verb.CANVASS, FIRST), Leaning.PREPARED, None, "it has only voted")
    again = await _ask(bench, key, Verb.CANVASS, FIRST)
    _expect_register(again, Leaning.PREPARED, None, "it was asked the same before")


async def a_canvass_keeps_out_a_vote_that_was_not_given(bench: Bench) -> None:
    key = bench.branch()
    said = await _ask(bench, key, Verb.CANVASS, FIRST)
    expect_state(said, "it had not voted", BranchState.ABORTED)
    _expect_proof(bench, said, key, Ending.ABORT)
    expect_state(await _prepare(bench, key), "it was canvassed first", BranchState.ABORTED)


async def a_branch_that_has_not_voted_agrees_to_nothing(bench: Bench) -> None:
    for verb in (Verb.PRECOMMIT, Verb.PREABORT):
        key = bench.branch()
        said = await _ask(bench, key, verb, FIRST)
        terms = None if said.answer is None else said.answer.three_phase
        is_bound = terms is not None and terms.register is not None
        expect_state(said, "it has not voted", BranchState.UNKNOWN, BranchState.ABORTED)
        expect(not is_bound, "no register: a branch without a yes has none", said)
        if said.state is BranchState.UNKNOWN:
            bench.expect_yes(await _prepare(bench, key))
            said = await _ask(bench, key, Verb.CANVASS, LOWER)
            _expect_register(said, Leaning.PREPARED, None, "it had not voted, and has promised nothing", promised=LOWER)
            await bench.abort(key)


async def a_precommit_and_a_preabort_are_agreed_to(bench: Bench) -> None:
    for verb, leaning in ((Verb.PRECOMMIT, Leaning.PRECOMMITTED), (Verb.PREABORT, Leaning.PREABORTED)):
        key = await _prepared(bench)
        await _ask(bench, key, Verb.CANVASS, FIRST)
        for _ in range(2):
            _expect_register(await _ask(bench, key, verb, FIRST), leaning, FIRST, "it has promised this ballot")
        await bench.abort(key)


async def a_lower_ballot_than_the_promised_one_changes_nothing(bench: Bench) -> None:
    key = await _prepared(bench)
    await _ask(bench, key, Verb.CANVASS, FIRST)
    for verb in (Verb.CANVASS, Verb.PRECOMMIT, Verb.PREABORT):
        said = await _ask(bench, key, verb, LOWER)
        _expect_register(said, Leaning.PREPARED, None, f"it has promised {list(FIRST)}")
    said = await _ask(bench, key, Verb.PRECOMMIT, COORDINATORS)
    _expect_register(said, Leaning.PREPARED, None, "it has promised a ballot above the coordinators'")


async def in_one_ballot_it_leans_one_way_and_in_a_higher_one_it_may_turn(bench: Bench) -> None:
    key = await _prepared(bench)
    await _ask(bench, key, Verb.PRECOMMIT, FIRST)
    said = await _ask(bench, key, Verb.PREABORT, FIRST)
    _expect_register(said, Leaning.PRECOMMITTED, FIRST, "in this ballot it has agreed to a commit")
    said = await _ask(bench, key, Verb.CANVASS, SECOND)
    _expect_register(said, Leaning.PRECOMMITTED, FIRST, "a canvass turns nobody", promised=SECOND)
    said = await _ask(bench, key, Verb.PREABORT, SECOND)
    _expect_register(said, Leaning.PREABORTED, SECOND, "it was asked in a higher ballot", promised=SECOND)
    said = await _ask(bench, key, Verb.PRECOMMIT, THIRD)
    _expect_register(said, Leaning.PRECOMMITTED, THIRD, "it was asked in a higher ballot", promised=THIRD)


async def the_coordinators_ballot_is_for_a_commit_only(bench: Bench) -> None:
    key = await _prepared(bench)
    said = await _ask(bench, key, Verb.PREABORT, COORDINATORS)
    register = _register_of(said)
    if register is not None and register.promised > COORDINATORS:
        raise Unclear("it has taken a ballot of its own meanwhile: let it wait for longer until it asks its peers")
    _expect_register(said, Leaning.PREPARED, None, "coordinators never ask for it", promised=COORDINATORS)
    said = await _ask(bench, key, Verb.PRECOMMIT, COORDINATORS)
    why = "it has promised no higher ballot"
    _expect_register(said, Leaning.PRECOMMITTED, COORDINATORS, why, promised=COORDINATORS)


async def a_question_that_is_meant_for_another_is_refused(bench: Bench) -> None:
    key = bench.branch()
    bench.end_by_proof(key)
    form = {"three_phase": Terms(ballot=THIRD, participant=_NOBODY).to_map()}
    for _ in range(2):  # before the vote, and after it
        said = await bench.ask(key, Verb.CANVASS, form, MSGPACK)
        expect(said.is_refusal, f"400 to 499: it is no {_NOBODY}", said)
        expect_state(await _prepare(bench, key), "what was refused is not done", BranchState.PREPARED)
    said = await _ask(bench, key, Verb.PRECOMMIT, FIRST)
    _expect_register(said, Leaning.PRECOMMITTED, FIRST, "what was refused has promised nothing")


async def a_ballot_that_is_far_above_the_promised_one_is_refused(bench: Bench) -> None:
    key = await _prepared(bench)
    for verb in (Verb.CANVASS, Verb.PRECOMMIT):
        said = await _ask(bench, key, verb, TOO_FAR)
        expect(said.is_refusal, f"400 to 499: it is more than {BALLOT_JUMP_MAX:,} above what is promised", said)
    said = await _ask(bench, key, Verb.PRECOMMIT, FIRST)
    _expect_register(said, Leaning.PRECOMMITTED, FIRST, "what was refused has promised nothing")


async def peers_without_the_branch_itself_are_refused(bench: Bench) -> None:
    key = bench.branch()
    bench.end_by_proof(key)
    form = bench.call | {"three_phase": Terms(peers=_peers(bench, key)[1:]).to_map()}
    said = await bench.ask(key, Verb.PREPARE, form)
    expect(said.is_refusal, "400 to 499: it is not among the peers", said)
    expect_state(await bench.outcome(key), "what was refused is not done", BranchState.UNKNOWN)


async def nothing_ends_it_without_a_proof_that_holds(bench: Bench) -> None:
    key = await _prepared(bench)
    good = bench.seal.sign(key.gid, Ending.COMMIT, Source.LOG, 1, 1)
    for why, verb, proof in (
        ("there is no proof", Verb.COMMIT, None),
        ("there is no proof", Verb.ABORT, None),
        ("the proof says that it commits", Verb.ABORT, good),
        ("the signature is another one", Verb.COMMIT, replace(good, signature=good.signature[::-1])),
        ("it is signed for another term", Verb.COMMIT, replace(good, term=2)),
        ("it is a proof of another transaction", Verb.COMMIT, bench.seal.sign("another", Ending.COMMIT, Source.LOG)),
        ("no peer has this branch", Verb.COMMIT, bench.seal.sign_own(key.gid, Ending.COMMIT, "another", _NOBODY)),
        ("its peer is another", Verb.COMMIT, bench.seal.sign_own(key.gid, Ending.COMMIT, _PEERS[0], bench.name)),
    ):
        said = await bench.ask_in_vain(key, verb, {} if proof is None else _proven(proof))
        is_ignored = said.answer is not None and said.answer.state is BranchState.PREPARED and said.answer.retry
        expect(is_ignored, f"prepared, with retry: {why}", said)
    expect_state(await bench.outcome(key), "nothing of that has ended it", BranchState.PREPARED)


async def a_proof_ends_it_and_is_handed_on(bench: Bench) -> None:
    for ending, verb, state in _ENDS:
        for signed_by in (_majority, _peer):
            key = await _prepared(bench)
            form = _proven(signed_by(bench, key, ending))
            for _ in range(2):
                expect_state(await bench.ask(key, verb, form, MSGPACK), "the proof holds", state)
            said = await _ask(bench, key, Verb.CANVASS, SECOND)
            expect_state(said, "it has ended so", state)
            _expect_proof(bench, said, key, ending)
            expect_state(await _prepare(bench, key), "a late repeat hears how it ended", state)


async def a_promise_survives_a_crash_right_after_it(bench: Bench) -> None:
    key = await _prepared(bench)
    await _ask(bench, key, Verb.CANVASS, FIRST)
    await bench.restart()
    said = await _ask(bench, key, Verb.PRECOMMIT, LOWER)
    _expect_register(said, Leaning.PREPARED, None, f"it had promised {list(FIRST)} before the crash")
    await _ask(bench, key, Verb.PRECOMMIT, SECOND)
    await bench.restart()
    said = await _ask(bench, key, Verb.CANVASS, FIRST)
    _expect_register(said, Leaning.PRECOMMITTED, SECOND, "it had agreed before the crash", promised=SECOND)


async def its_peers_survive_a_crash_right_after_it(bench: Bench) -> None:
    """A proof that a peer's branch has signed holds only for whoever knows its peers."""
    for ending, verb, state in _ENDS:
        key = await _prepared(bench)
        await bench.restart()
        said = await bench.ask(key, verb, _proven(_peer(bench, key, ending)), MSGPACK)
        expect_state(said, "this branch of its peers has ended so", state)


async def a_proof_survives_a_crash_right_after_it(bench: Bench) -> None:
    for ending, verb, state in _ENDS:
        key = await _prepared(bench)
        proof = bench.seal.sign(key.gid, ending, Source.LOG, 1, 1)
        expect_state(await bench.ask(key, verb, _proven(proof)), "the proof holds", state)
        await bench.restart()
        said = await _ask(bench, key, Verb.CANVASS, FIRST)
        expect_state(said, "it had ended so before the crash", state)
        _expect_proof(bench, said, key, ending)


_ENDS = (
    (Ending.COMMIT, Verb.COMMIT, BranchState.COMMITTED),
    (Ending.ABORT, Verb.ABORT, BranchState.ABORTED),
)


def _peers(bench: Bench, key: BranchKey) -> tuple[Peer, ...]:
    others = (Peer(branch, _NOBODY, _UNREACHABLE) for branch in _PEERS)
    return (Peer(key.branch, bench.name, bench.talk.url), *others)


async def _prepare(bench: Bench, key: BranchKey) -> Exchange:
    bench.end_by_proof(key)
    return await bench.ask(key, Verb.PREPARE, bench.call | {"three_phase": Terms(peers=_peers(bench, key)).to_map()})


async def _prepared(bench: Bench) -> BranchKey:
    """A new branch that is prepared in three phases. Raises Unclear if the participant votes no."""
    key = bench.branch()
    bench.expect_yes(await _prepare(bench, key))
    return key


async def _ask(bench: Bench, key: BranchKey, verb: Verb, ballot: Ballot) -> Exchange:
    """One question of a peer; of the coordinators, if it is their ballot."""
    bench.end_by_proof(key)
    form = {"three_phase": Terms(ballot=ballot, participant=bench.name).to_map()}
    if ballot == COORDINATORS:
        return await bench.ask(key, verb, form)
    said = await bench.ask(key, verb, form, MSGPACK)
    expect(said.status != 200 or said.said_type == MSGPACK, "an answer in msgpack, which peers ask in", said)
    return said


def _majority(bench: Bench, key: BranchKey, ending: Ending) -> Proof:
    """The proof of a decision of the participants."""
    return bench.seal.sign(key.gid, ending, Source.QUORUM, *FIRST)


def _peer(bench: Bench, key: BranchKey, ending: Ending) -> Proof:
    """The proof of a peer, of how its own branch has ended."""
    return bench.seal.sign_own(key.gid, ending, _PEERS[0], _NOBODY)


def _proven(proof: Proof) -> dict[str, object]:
    return {"three_phase": Terms(proof=proof).to_map()}


def _expect_register(
    said: Exchange, leaning: Leaning, accepted: Ballot | None, why: str, *, promised: Ballot = FIRST
) -> None:
    """`expect` a branch that is prepared, with this register; it may have promised more, by itself."""
    register = _register_of(said)
    wanted = Register(leaning, promised, accepted)
    holds = register is not None and register.promised >= promised and register._replace(promised=promised) == wanted
    agreed = "none" if accepted is None else list(accepted)
    expect(holds, f"prepared, leaning {leaning}, accepted {agreed}, promised at least {list(promised)}: {why}", said)


def _register_of(said: Exchange) -> Register | None:
    """That of a branch that is prepared."""
    terms = said.answer.three_phase if said.answer is not None and said.state is BranchState.PREPARED else None
    return None if terms is None else terms.register


def _expect_proof(bench: Bench, said: Exchange, key: BranchKey, ending: Ending) -> None:
    """`expect` a proof of how it ended: one that it was given, or its own."""
    terms = None if said.answer is None else said.answer.three_phase
    proof = None if terms is None else terms.proof
    peers = {(peer.branch, peer.participant) for peer in _peers(bench, key)}
    holds = (
        proof is not None
        and proof.ending is ending
        and (proof.source is not Source.BRANCH or (proof.branch, proof.participant) in peers)
        and bench.seal.holds(key.gid, proof)
    )
    expect(holds, f"a proof of the {ending}, signed for this transaction, and for one of its branches", said)


THREE_PHASES = tuple(
    Promise(check, needs="three_phase")
    for check in (
        a_yes_says_how_it_leans,
        a_canvass_keeps_out_a_vote_that_was_not_given,
        a_branch_that_has_not_voted_agrees_to_nothing,
        a_precommit_and_a_preabort_are_agreed_to,
        a_lower_ballot_than_the_promised_one_changes_nothing,
        in_one_ballot_it_leans_one_way_and_in_a_higher_one_it_may_turn,
        the_coordinators_ballot_is_for_a_commit_only,
        a_question_that_is_meant_for_another_is_refused,
        a_ballot_that_is_far_above_the_promised_one_is_refused,
        peers_without_the_branch_itself_are_refused,
        nothing_ends_it_without_a_proof_that_holds,
        a_proof_ends_it_and_is_handed_on,
        a_promise_survives_a_crash_right_after_it,
        its_peers_survive_a_crash_right_after_it,
        a_proof_survives_a_crash_right_after_it,
    )
)
