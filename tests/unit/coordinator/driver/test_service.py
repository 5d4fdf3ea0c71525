"""What callers, participants and operators hear: never anything that could still turn.

`test_readers.py` tells who may answer a question about a transaction whose outcome may have been told before the record
holds it.
"""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.replica import Tunables
from coordinator.driver.waiters import Known
from coordinator.errors import Contradiction, GidReused, NoLeader, NotFound, NotLeader, Overloaded, Undetermined
from coordinator.ledger.records import Decision, Phase
from coordinator.wire import InquiryRequest, ResolveRequest
from participant.wire import Verb
from tests.support.cluster import WAIT_S, Cluster, cluster, recorded, request

BOTH = ("bank-a", "bank-b")
on_both_paths = pytest.mark.parametrize("prevent", [False, True], ids=["classic", "staged"])
INQUIRY = InquiryRequest(participant="bank-a", branch="b1")


def resolution(decision: Decision) -> ResolveRequest:
    return ResolveRequest(decision=decision, operator="ada", reason="the phone rang")


async def undecided(made: Cluster, gid: str = "g") -> None:
    """Leave `gid` undecided: bank-b holds its vote."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    await made.replicas["n1"].transactions.begin(request(*BOTH, gid=gid), 0.0)
    await recorded(made.replicas["n1"], gid, lambda record: record.phase is Phase.PREPARING)


@on_both_paths
async def test_the_same_request_again_gets_the_same_answer_and_does_nothing_again(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        leader = made.replicas["n1"]
        first = await leader.transactions.begin(request(*BOTH, gid="g"), 5.0)
        await recorded(leader, "g", lambda record: record.finished)
        second = await leader.transactions.begin(request(*BOTH, gid="g", deadline_ms=500), 5.0)
        assert first == second == Known("g", Decision.COMMIT, "votes")
        assert {clerk.asked[Verb.PREPARE] for clerk in made.clerks.values()} == {1}


@on_both_paths
async def test_the_same_request_at_the_same_time_attaches_to_the_first(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        leader = made.replicas["n1"]
        answers = await asyncio.gather(*(leader.transactions.begin(request(*BOTH, gid="g"), 5.0) for _ in range(5)))
        assert {known.decision for known in answers} == {Decision.COMMIT}
        assert {clerk.asked[Verb.PREPARE] for clerk in made.clerks.values()} == {1}


@on_both_paths
async def test_the_same_gid_with_another_body_is_refused_before_and_after_the_record(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-b"].hold(Verb.PREPARE)
        first = asyncio.ensure_future(leader.transactions.begin(request(*BOTH, gid="g"), 5.0))
        await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):  # at once, not when the first is decided
            with pytest.raises(GidReused):
                await leader.transactions.begin(request(*BOTH, gid="g", body=2), 600.0)
        made.clerks["bank-b"].release(Verb.PREPARE)
        await first
        with pytest.raises(GidReused):
            await leader.transactions.begin(request(*BOTH, gid="g", body=2), 5.0)


@on_both_paths
async def test_where_nobody_more_may_wait_a_begun_transaction_is_told_as_deciding(prevent: bool) -> None:
    """Goal: *overloaded* says that nothing was begun, so it must never be the answer to what is under way.
    Red when `begin` lets the refusal of a place to wait through."""
    async with cluster(prevent=prevent, admission=Admission(waiters_max=0)) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-b"].hold(Verb.PREPARE)
        for _ in ("begun", "attached"):
            assert await leader.transactions.begin(request(*BOTH, gid="g"), 5.0) == Known("g")
        assert leader.supervisor.open == 1
        made.clerks["bank-b"].release(Verb.PREPARE)
        await recorded(leader, "g", lambda record: record.finished)
        await undecided(made, "looked-at")
        with pytest.raises(Overloaded, match="waiters_max"):
            await leader.transactions.outcome("looked-at", 5.0)
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_looking_at_an_unknown_gid_changes_nothing() -> None:
    async with cluster() as made:
        replica = made.replicas["n2"]
        for look in (replica.transactions.transaction("g"), replica.transactions.outcome("g", 5.0)):
            with pytest.raises(NotFound):
                await look
        assert len(made.replicas["n1"].ledger) == 0


@on_both_paths
async def test_an_inquiry_about_an_unknown_gid_aborts_it_for_ever(prevent: bool) -> None:
    """Goal: presumed abort stays true. The late begin of the same gid hears *aborted*, and nothing is prepared.
    Red when `inquire` answers without proposing."""
    async with cluster(prevent=prevent) as made:
        leader = made.replicas["n1"]
        told = await leader.transactions.inquire("g", INQUIRY)
        assert told is not None
        assert told.decision is Decision.ABORT
        known = await leader.transactions.begin(request(*BOTH, gid="g"), 5.0)
        assert (known.decision, known.by) == (Decision.ABORT, "inquiry")
        assert not any(clerk.states for clerk in made.clerks.values())


@on_both_paths
async def test_an_inquiry_about_a_recorded_gid_is_answered_by_any_replica(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        await made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0)
        await recorded(made.replicas["n1"], "g", lambda record: record.decision is not None)
        told = await made.replicas["n3"].transactions.inquire("g", INQUIRY)
        assert told is not None
        assert told.decision is Decision.COMMIT
        with pytest.raises(NotLeader):
            await made.replicas["n3"].transactions.inquire("unheard-of", INQUIRY)


@on_both_paths
async def test_an_inquiry_leaves_an_undecided_transaction_to_its_driver(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        await undecided(made)
        told = await made.replicas["n1"].transactions.inquire("g", INQUIRY)
        assert told is not None
        assert told.decision is None
        made.clerks["bank-b"].release(Verb.PREPARE)
        done = await recorded(made.replicas["n1"], "g", lambda record: record.finished)
        assert done.phase is Phase.COMMITTED


@on_both_paths
async def test_a_branch_that_is_none_of_the_transaction_is_to_be_rolled_back(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        await made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0)
        stray = InquiryRequest(participant="bank-a", branch="stray")
        assert await made.replicas["n1"].transactions.inquire("g", stray) is None


async def test_a_participant_that_asks_under_another_name_is_told_nothing() -> None:
    async with cluster() as made:
        await made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0)
        with pytest.raises(Contradiction, match="belongs to bank-a"):
            await made.replicas["n1"].transactions.inquire("g", InquiryRequest(participant="bank-b", branch="b1"))


async def test_an_outcome_is_waited_for_at_a_replica_that_does_not_lead() -> None:
    async with cluster(prevent=False) as made:
        await undecided(made)
        waiting = asyncio.ensure_future(made.replicas["n2"].transactions.outcome("g", 5.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        made.clerks["bank-b"].release(Verb.PREPARE)
        assert (await waiting).decision is Decision.COMMIT


async def test_an_operator_aborts_what_is_undecided_and_the_record_says_who_and_why() -> None:
    async with cluster(prevent=False) as made:
        await undecided(made)
        leader = made.replicas["n1"]
        record = await leader.transactions.resolve("g", resolution(Decision.ABORT))
        assert (record.decided_by, record.reason) == ("operator ada", "the phone rang")
        again = await leader.transactions.resolve("g", resolution(Decision.ABORT))
        assert again.decision is Decision.ABORT
        made.clerks["bank-b"].release(Verb.PREPARE)
        done = await recorded(leader, "g", lambda record: record.finished)
        assert done.phase is Phase.ABORTED


@on_both_paths
async def test_an_operator_cannot_contradict_the_record_nor_commit_without_the_votes(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        leader = made.replicas["n1"]
        await leader.transactions.begin(request(*BOTH, gid="committed"), 5.0)
        await recorded(leader, "committed", lambda record: record.decision is not None)
        with pytest.raises(Contradiction, match="was decided before: commit, by votes"):
            await leader.transactions.resolve("committed", resolution(Decision.ABORT))
        await undecided(made)
        with pytest.raises(Contradiction, match="only the votes"):
            await leader.transactions.resolve("g", resolution(Decision.COMMIT))
        with pytest.raises(NotFound):
            await leader.transactions.resolve("unheard-of", resolution(Decision.ABORT))
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_an_operator_can_let_the_deadline_of_a_staged_transaction_come() -> None:
    """Red when the ledger is asked directly: it refuses, since a commit could be implied already."""
    async with cluster() as made:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        leader = made.replicas["n1"]
        await leader.transactions.begin(request(*BOTH, gid="g"), 0.0)
        await recorded(leader, "g", lambda record: record.phase is Phase.PREPARING)
        record = await leader.transactions.resolve("g", resolution(Decision.ABORT))
        assert (record.decision, record.decided_by, record.reason) == (
            Decision.ABORT,
            "deadline set by ada",
            "the phone rang",
        )
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_an_operator_waits_for_the_answer_of_a_branch_that_may_have_committed_by_itself() -> None:
    """Red when the deadline of a one-phase transaction aborts it without asking: its commit is under way."""
    async with cluster() as made:
        made.clerks["bank-b"].one_phase = True
        made.clerks["bank-b"].hold(Verb.COMMIT)
        leader = made.replicas["n1"]
        await leader.transactions.begin(request("bank-b", gid="g"), 0.0)
        await recorded(leader, "g", lambda record: record.phase is Phase.PREPARING)
        await made.clerks["bank-b"].arrived(Verb.COMMIT)
        made.clerks["bank-b"].hold(Verb.PREVENT)
        resolving = asyncio.ensure_future(leader.transactions.resolve("g", resolution(Decision.ABORT)))
        await made.clerks["bank-b"].arrived(Verb.PREVENT)
        made.clerks["bank-b"].release(Verb.COMMIT)
        with pytest.raises(Contradiction, match="decided before: commit, by votes"):
            await resolving
        made.clerks["bank-b"].release(Verb.PREVENT)


@pytest.mark.parametrize("applied", [True, False])
async def test_a_resolution_whose_fate_is_unknown_is_told_as_such(applied: bool) -> None:
    async with cluster(prevent=False) as made:
        await undecided(made)
        made.group.lose_next_answer(applied=applied)
        with pytest.raises(Undetermined):
            await made.replicas["n1"].transactions.resolve("g", resolution(Decision.ABORT))
        made.clerks["bank-b"].release(Verb.PREPARE)
        done = await recorded(made.replicas["n1"], "g", lambda record: record.finished)
        assert (done.phase is Phase.ABORTED) is applied


async def test_without_a_leader_nothing_is_read_and_nothing_is_waited_for() -> None:
    async with cluster(tunables=Tunables(propose_timeout_s=0.05)) as made:
        await made.crash("n1")
        with pytest.raises(NoLeader):
            await made.replicas["n2"].transactions.outcome("g", 5.0)


async def test_without_a_majority_a_read_is_undetermined_and_does_not_hang() -> None:
    async with cluster(tunables=Tunables(propose_timeout_s=0.05)) as made:
        await made.crash("n2")
        await made.crash("n3")
        with pytest.raises((Undetermined, NoLeader)):
            await made.replicas["n1"].transactions.transaction("g")


async def test_a_generated_gid_is_a_uuid_of_version_7_that_starts_with_the_time() -> None:
    async with cluster() as made:
        gid = (await made.replicas["n1"].transactions.begin(request(*BOTH), 5.0)).gid
        assert gid[:13] == "018bcfe5-6800"
        assert gid[14] == "7"
