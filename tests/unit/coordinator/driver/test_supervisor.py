"""The leader drives every unfinished transaction; the next leader goes on where it stopped."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.driver import Driver
from coordinator.driver.replica import Replica, Tunables
from coordinator.driver.supervisor import TAKEN_UP_AT_ONCE_MAX
from coordinator.driver.waiters import Known
from coordinator.errors import NotLeader, Overloaded, Undetermined
from coordinator.ledger.commands import BY_VOTES, Begin, encode
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase
from coordinator.wire import ResolveRequest
from participant.ids import BranchKey
from participant.wire import BranchState, Verb
from tests.support.cluster import WAIT_S, Cluster, cluster, recorded, request
from tests.support.virtual import virtually

BOTH = ("bank-a", "bank-b")
on_both_paths = pytest.mark.parametrize("prevent", [False, True], ids=["classic", "staged"])


async def nobody_knows(heard: asyncio.Future[Known], *, staged: bool) -> None:
    """The caller hears *deciding*, or to ask again where an outcome may have been told; never an abort."""
    if staged:
        with pytest.raises(Undetermined):
            await heard
    else:
        assert await heard == Known("g")


@on_both_paths
async def test_an_undecided_transaction_is_continued_by_the_next_leader_and_commits(prevent: bool) -> None:
    """Goal: a leader change aborts nothing. The votes of the old leader are lost with it, so they are asked for
    again. Red when `Supervisor._leadership_changed` takes up nothing."""
    async with cluster(prevent=prevent) as made:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        begun = asyncio.ensure_future(made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0))
        await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.PREPARING)
        await made.clerks["bank-b"].arrived(Verb.PREPARE)
        await made.crash("n1")
        await nobody_knows(begun, staged=prevent)
        made.clerks["bank-b"].release(Verb.PREPARE)
        await made.lead("n2")
        done = await recorded(made.replicas["n2"], "g", lambda record: record.finished)
        assert (done.phase, done.decided_by) == (Phase.COMMITTED, BY_VOTES)
        assert {clerk.asked[Verb.PREPARE] for clerk in made.clerks.values()} == {2}
        assert {state for clerk in made.clerks.values() for state in clerk.states.values()} == {BranchState.COMMITTED}


@on_both_paths
async def test_a_decided_transaction_is_finished_by_the_next_leader(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0)
        await made.clerks["bank-b"].arrived(Verb.COMMIT)
        await made.crash("n1")
        made.clerks["bank-b"].release(Verb.COMMIT)
        await made.lead("n3")
        done = await recorded(made.replicas["n3"], "g", lambda record: record.finished)
        assert done.phase is Phase.COMMITTED
        assert made.clerks["bank-b"].states[BranchKey("g", "b2")] is BranchState.COMMITTED


@on_both_paths
async def test_a_deposed_leader_drives_nothing_and_refuses_new_transactions(prevent: bool) -> None:
    async with cluster(prevent=prevent) as made:
        made.clerks["bank-a"].hold(Verb.PREPARE)
        waiting = asyncio.ensure_future(made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 600.0))
        await made.clerks["bank-a"].arrived(Verb.PREPARE)
        assert made.replicas["n1"].supervisor.in_flight == 1
        await made.lead("n2")
        async with asyncio.timeout(WAIT_S):  # released by the loss, not by time
            await nobody_knows(waiting, staged=prevent)
        assert (made.replicas["n1"].supervisor.open, made.replicas["n1"].supervisor.in_flight) == (0, 0)
        with pytest.raises(NotLeader) as refused:
            await made.replicas["n1"].transactions.begin(request(*BOTH), 5.0)
        assert refused.value.leader == "n2"
        made.clerks["bank-a"].release(Verb.PREPARE)


@on_both_paths
@pytest.mark.parametrize("applied", [True, False])
async def test_a_begin_whose_answer_is_lost_is_proposed_again_and_begins_once(applied: bool, prevent: bool) -> None:
    """Goal: unknown is neither yes nor no; the record tells, and a repeat is harmless."""
    async with cluster(prevent=prevent) as made:
        made.group.lose_next_answer(applied=applied)
        leader = made.replicas["n1"]
        known = await leader.transactions.begin(request(*BOTH, gid="g"), 5.0)
        assert known.decision is Decision.COMMIT
        assert len(leader.ledger) == 1


@on_both_paths
async def test_a_deadline_aborts_what_a_silent_participant_holds_up(prevent: bool) -> None:
    async with cluster(prevent=prevent, tunables=Tunables(call_timeout_s=0.05, ride_along_s=0.0)) as made:
        made.clerks["bank-b"].away = True
        leader = made.replicas["n1"]
        known = await leader.transactions.begin(request(*BOTH, gid="g", deadline_ms=150), 5.0)
        assert (known.decision, known.by) == (Decision.ABORT, "deadline")
        made.clerks["bank-b"].away = False
        await recorded(leader, "g", lambda record: record.finished)
        assert made.clerks["bank-a"].states[BranchKey("g", "b1")] is BranchState.ABORTED


@on_both_paths
async def test_in_flight_counts_the_undecided_and_open_the_unfinished_and_both_limits_refuse(prevent: bool) -> None:
    async with cluster(prevent=prevent, admission=Admission(in_flight_max=1, open_max=2)) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-a"].hold(Verb.COMMIT)
        await leader.transactions.begin(request(*BOTH, gid="decided"), 5.0)
        await recorded(leader, "decided", lambda record: record.decision is not None)
        assert (leader.supervisor.in_flight, leader.supervisor.open) == (0, 1)
        made.clerks["bank-b"].hold(Verb.PREPARE)
        undecided = asyncio.ensure_future(leader.transactions.begin(request(*BOTH, gid="undecided"), 5.0))
        await made.clerks["bank-b"].arrived(Verb.PREPARE)
        with pytest.raises(Overloaded, match="in_flight_max"):
            await leader.transactions.begin(request(*BOTH), 5.0)
        made.clerks["bank-b"].release(Verb.PREPARE)
        await undecided
        await recorded(leader, "undecided", lambda record: record.decision is not None)
        assert (leader.supervisor.in_flight, leader.supervisor.open) == (0, 2)
        with pytest.raises(Overloaded, match="open_max"):
            await leader.transactions.begin(request(*BOTH), 5.0)
        made.clerks["bank-a"].release(Verb.COMMIT)
        await recorded(leader, "undecided", lambda record: record.finished)


async def test_a_record_that_appears_without_a_driver_gets_one() -> None:
    """Goal: whoever put it into the log, the leader of its term drives it."""
    async with cluster() as made:
        leader = made.replicas["n1"]
        branches = (BranchRecord("b1", "bank-a", "do", b"\x01"), BranchRecord("b2", "bank-b", "do", b"\x01"))
        await leader.log.propose(encode(Begin("g", b"d" * 16, Path.CLASSIC, branches, 10_000, 1)))
        done = await recorded(leader, "g", lambda record: record.finished)
        assert done.phase is Phase.COMMITTED


async def test_one_failing_driver_stops_no_other_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a mistake of our own in one transaction is loud, bounded, and leaves the replica serving."""
    advance = Driver._advance

    def broken(driver: Driver) -> None:
        if driver.gid == "poison":
            raise ZeroDivisionError
        advance(driver)

    monkeypatch.setattr(Driver, "_advance", broken)
    async with cluster() as made:
        leader = made.replicas["n1"]
        assert await leader.transactions.begin(request(*BOTH, gid="poison"), 0.05) == Known("poison")
        known = await leader.transactions.begin(request(*BOTH, gid="fine"), 5.0)
        assert known.decision is Decision.COMMIT
        await recorded(leader, "fine", lambda record: record.decision is not None)
        assert (leader.supervisor.broken, leader.supervisor.in_flight) == (1, 0)


async def test_what_failed_here_is_taken_up_again_when_an_operator_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a way out that needs no other leader. Red when `_changed` never starts a driver for a broken gid."""
    advance = Driver._advance

    def broken_while_undecided(driver: Driver) -> None:
        record = leader.ledger.get(driver.gid)
        if record is not None and record.decision is None:
            raise ZeroDivisionError
        advance(driver)

    async with cluster(prevent=False) as made:
        leader = made.replicas["n1"]
        monkeypatch.setattr(Driver, "_advance", broken_while_undecided)
        await leader.transactions.begin(request(*BOTH, gid="g"), 0.0)
        await recorded(leader, "g", lambda record: record.phase is Phase.PREPARING)
        async with asyncio.timeout(WAIT_S):
            while not leader.supervisor.broken:  # noqa: ASYNC110  # some turns of the loop
                await asyncio.sleep(0)
        resolution = ResolveRequest(decision=Decision.ABORT, operator="ada", reason="broken")
        await leader.transactions.resolve("g", resolution)
        assert leader.supervisor.in_flight == 0
        done = await recorded(leader, "g", lambda record: record.finished)
        assert done.phase is Phase.ABORTED
        assert leader.supervisor.broken == 0


# A staged transaction that is taken over


async def orphaned(made: Cluster) -> Replica:
    """`g` was begun by n1 with a deadline of 10 s; bank-a voted yes, bank-b holds its vote; n1 dies, n2 leads."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    await made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 0.0)
    await made.clerks["bank-b"].arrived(Verb.PREPARE)
    await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.PREPARING)
    await asyncio.sleep(8.0)
    await made.crash("n1")
    return await made.lead("n2")


def test_the_time_that_an_earlier_leader_took_is_not_held_against_a_staged_transaction() -> None:
    """Goal: nothing is aborted because of the change. Red when the deadline counts from the begin of the record."""

    async def main() -> None:
        async with cluster() as made:
            leader = await orphaned(made)
            await asyncio.sleep(8.0)
            made.clerks["bank-b"].release(Verb.PREPARE)
            done = await recorded(leader, "g", lambda record: record.finished)
            assert (done.phase, done.decided_by) == (Phase.COMMITTED, BY_VOTES)
            assert {clerk.asked[Verb.PREVENT] for clerk in made.clerks.values()} == {0}

    virtually(main())


def test_an_unreachable_participant_blocks_a_staged_transaction_that_was_taken_over_and_nothing_aborts_it() -> None:
    """Goal: its vote may have been heard, and the commit told. It has voted, in fact, and its prevention says so.
    Red when a successor aborts for lateness."""

    async def main() -> None:
        async with cluster() as made:
            bank = made.clerks["bank-b"]
            leader = await orphaned(made)
            bank.states[BranchKey("g", "b2")] = BranchState.PREPARED  # its answer was on the way to n1
            bank.away = True
            await asyncio.sleep(3_600.0)
            record = leader.ledger.get("g")
            assert record is not None
            assert record.phase is Phase.PREPARING
            assert made.clerks["bank-a"].asked[Verb.PREVENT] == 0, "its vote is known again"
            bank.away = False
            done = await recorded(leader, "g", lambda record: record.finished)
            assert (done.phase, done.decided_by) == (Phase.COMMITTED, BY_VOTES)
            assert bank.asked[Verb.PREVENT] == 1

    virtually(main())


def test_who_had_not_voted_when_it_was_prevented_aborts_a_staged_transaction_that_was_taken_over() -> None:
    async def main() -> None:
        async with cluster() as made:
            bank = made.clerks["bank-b"]
            leader = await orphaned(made)
            await asyncio.sleep(10.0)
            done = await recorded(leader, "g", lambda record: record.decision is not None)
            assert (done.decision, done.decided_by) == (Decision.ABORT, "deadline")
            assert bank.asked[Verb.PREVENT] == 1
            bank.release(Verb.PREPARE)  # the prepares come late
            await recorded(leader, "g", lambda record: record.finished)
            await asyncio.sleep(1.0)
            states = {state for clerk in made.clerks.values() for state in clerk.states.values()}
            assert states == {BranchState.ABORTED}

    virtually(main())


async def test_very_many_records_are_taken_over_a_few_at_a_time_and_undecided_ones_first() -> None:
    """Goal: heartbeats leave in between; with 60,000 in one turn of the loop, each new leader lost its office before it
    was done. Red when all are started at once."""
    async with cluster() as made:
        count = 2 * TAKEN_UP_AT_ONCE_MAX
        made.clerks["bank-a"].hold(Verb.COMMIT)
        for number in range(count):
            await made.replicas["n1"].transactions.begin(request(*BOTH, gid=f"g{number}"), 5.0)
        made.clerks["bank-a"].hold(Verb.PREPARE)
        await made.replicas["n1"].transactions.begin(request(*BOTH, gid="undecided"), 0.0)
        second = made.replicas["n2"]
        await recorded(second, "undecided", lambda record: record.phase is Phase.PREPARING)
        await recorded(second, f"g{count - 1}", lambda record: record.decision is not None)
        await made.lead("n2")
        async with asyncio.timeout(WAIT_S):
            while not second.supervisor.leading:  # noqa: ASYNC110  # each turn of the loop is looked at
                await asyncio.sleep(0)
        assert len(second.supervisor._drivers) == TAKEN_UP_AT_ONCE_MAX
        assert "undecided" in second.supervisor._drivers
        assert second.supervisor.open == count + 1
        made.clerks["bank-a"].release(Verb.PREPARE)
        made.clerks["bank-a"].release(Verb.COMMIT)
        for gid in ("undecided", "g0", f"g{count - 1}"):
            assert (await recorded(second, gid, lambda record: record.finished)).phase is Phase.COMMITTED
