"""What participants hold of a transaction is asked of them, and silence is no state."""

from __future__ import annotations

import pytest

from coordinator.driver import examination
from coordinator.driver.examination import Held
from coordinator.errors import NotFound
from coordinator.ledger.records import Decision, Phase
from coordinator.wire import ResolveRequest
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Verb
from tests.support.cluster import Cluster, cluster, recorded, request

BOTH = ("bank-a", "bank-b")
ABORT = ResolveRequest(decision=Decision.ABORT, operator="ada", reason="the phone rang")


async def _half_prepared(made: Cluster) -> None:
    """`g` waits for the vote of bank-b."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    leader = made.replicas["n1"]
    await leader.transactions.begin(request(*BOTH, gid="g"), 0.0)
    await recorded(leader, "g", lambda record: record.phase is Phase.PREPARING)
    await made.clerks["bank-b"].arrived(Verb.PREPARE)


async def _held(made: Cluster, replica: str = "n1") -> tuple[Held, ...]:
    return (await made.replicas[replica].transactions.examine("g")).held


async def test_every_replica_can_ask_and_nothing_is_changed() -> None:
    async with cluster() as made:
        await _half_prepared(made)
        for replica in made.replicas:
            held = await _held(made, replica)
            assert [each.answer for each in held] == [Answer(BranchState.PREPARED), Answer(BranchState.UNKNOWN)]
            assert [each.damage for each in held] == ["", ""], "nothing contradicts what is not decided"
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_who_is_away_or_says_nothing_is_named_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "EXAMINATION_TIMEOUT_S", 0.05)
    async with cluster() as made:
        await _half_prepared(made)
        made.clerks["bank-a"].away = True
        made.clerks["bank-b"].hold(Verb.OUTCOME)
        held = await _held(made)
        assert [(each.answer, each.error) for each in held] == [
            (None, "bank-a is away"),
            (None, "no answer within 0.05 s"),
        ]
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_a_branch_that_was_committed_by_hand_is_damage_once_the_abort_is_recorded() -> None:
    async with cluster() as made:
        await _half_prepared(made)
        made.clerks["bank-a"].states[BranchKey("g", "b1")] = BranchState.COMMITTED
        assert [each.damage for each in await _held(made)] == ["", ""]
        await made.replicas["n1"].transactions.resolve("g", ABORT)
        made.clerks["bank-b"].release(Verb.PREPARE)
        await recorded(made.replicas["n1"], "g", lambda record: record.branches[1].ended)
        for replica in made.replicas:
            damage = [each.damage for each in await _held(made, replica)]
            assert damage == ["branch b1 at bank-a says committed, but the transaction is aborted", ""]


async def test_a_branch_that_has_ended_may_have_been_forgotten() -> None:
    """Its participant remembers it for a while; that it says *unknown* later is no damage."""
    async with cluster() as made:
        leader = made.replicas["n1"]
        await leader.transactions.begin(request(*BOTH, gid="g"), 5.0)
        await recorded(leader, "g", lambda record: record.finished)
        made.clerks["bank-a"].states.clear()
        assert [each.damage for each in await _held(made)] == ["", ""]


async def test_a_branch_that_its_participant_has_lost_is_damage() -> None:
    async with cluster() as made:
        leader = made.replicas["n1"]
        made.clerks["bank-a"].hold(Verb.COMMIT)
        await leader.transactions.begin(request(*BOTH, gid="g"), 5.0)
        await recorded(leader, "g", lambda record: record.decision is Decision.COMMIT)
        made.clerks["bank-a"].states.clear()
        assert [each.damage for each in await _held(made)] == [
            "branch b1 at bank-a knows nothing of a branch that it had prepared, but the transaction is committed",
            "",
        ]
        made.clerks["bank-a"].release(Verb.COMMIT)


async def test_what_is_not_recorded_cannot_be_examined() -> None:
    async with cluster() as made:
        with pytest.raises(NotFound):
            await made.replicas["n1"].transactions.examine("g")
