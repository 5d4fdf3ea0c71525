"""The leader drives every unfinished transaction; the next leader goes on where it stopped."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.driver import Driver
from coordinator.driver.replica import Tunables
from coordinator.errors import NotLeader, Overloaded
from coordinator.ledger.commands import BY_VOTES, Begin, encode
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase
from coordinator.wire import ResolveRequest
from participant.ids import BranchKey
from participant.wire import BranchState, Verb
from tests.support.cluster import WAIT_S, cluster, recorded, request

BOTH = ("bank-a", "bank-b")


async def test_an_undecided_transaction_is_continued_by_the_next_leader_and_commits() -> None:
    """Goal: a leader change aborts nothing. The votes of the old leader are lost with it, so they are asked for
    again. Red when `Supervisor._leadership_changed` takes up nothing."""
    async with cluster() as made:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        begun = asyncio.ensure_future(made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0))
        await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.PREPARING)
        await made.clerks["bank-b"].arrived(Verb.PREPARE)
        await made.crash("n1")
        gid, record = await begun
        assert gid == "g"
        assert record is not None
        assert record.decision is None  # the caller hears *deciding*, never an abort
        made.clerks["bank-b"].release(Verb.PREPARE)
        await made.lead("n2")
        done = await recorded(made.replicas["n2"], "g", lambda record: record.finished)
        assert (done.phase, done.decided_by) == (Phase.COMMITTED, BY_VOTES)
        assert {clerk.asked[Verb.PREPARE] for clerk in made.clerks.values()} == {2}
        assert {state for clerk in made.clerks.values() for state in clerk.states.values()} == {BranchState.COMMITTED}


async def test_a_decided_transaction_is_finished_by_the_next_leader() -> None:
    async with cluster() as made:
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 5.0)
        await made.clerks["bank-b"].arrived(Verb.COMMIT)
        await made.crash("n1")
        made.clerks["bank-b"].release(Verb.COMMIT)
        await made.lead("n3")
        done = await recorded(made.replicas["n3"], "g", lambda record: record.finished)
        assert done.phase is Phase.COMMITTED
        assert made.clerks["bank-b"].states[BranchKey("g", "b2")] is BranchState.COMMITTED


async def test_a_deposed_leader_drives_nothing_and_refuses_new_transactions() -> None:
    async with cluster() as made:
        made.clerks["bank-a"].hold(Verb.PREPARE)
        waiting = asyncio.ensure_future(made.replicas["n1"].transactions.begin(request(*BOTH, gid="g"), 600.0))
        await made.clerks["bank-a"].arrived(Verb.PREPARE)
        assert made.replicas["n1"].supervisor.in_flight == 1
        await made.lead("n2")
        async with asyncio.timeout(WAIT_S):  # released by the loss, not by time
            _, record = await waiting
        assert record is None or record.decision is None
        assert (made.replicas["n1"].supervisor.open, made.replicas["n1"].supervisor.in_flight) == (0, 0)
        with pytest.raises(NotLeader) as refused:
            await made.replicas["n1"].transactions.begin(request(*BOTH), 5.0)
        assert refused.value.leader == "n2"
        made.clerks["bank-a"].release(Verb.PREPARE)


@pytest.mark.parametrize("applied", [True, False])
async def test_a_begin_whose_answer_is_lost_is_proposed_again_and_begins_once(applied: bool) -> None:
    """Goal: unknown is neither yes nor no; the record tells, and a repeat is harmless."""
    async with cluster() as made:
        made.group.lose_next_answer(applied=applied)
        leader = made.replicas["n1"]
        _, record = await leader.transactions.begin(request(*BOTH, gid="g"), 5.0)
        assert record is not None
        assert record.decision is Decision.COMMIT
        assert len(leader.ledger) == 1


async def test_a_deadline_aborts_what_a_silent_participant_holds_up() -> None:
    async with cluster(tunables=Tunables(call_timeout_s=0.05, ride_along_s=0.0)) as made:
        made.clerks["bank-b"].away = True
        leader = made.replicas["n1"]
        _, record = await leader.transactions.begin(request(*BOTH, gid="g", deadline_ms=150), 5.0)
        assert record is not None
        assert (record.decision, record.decided_by) == (Decision.ABORT, "deadline")
        made.clerks["bank-b"].away = False
        await recorded(leader, "g", lambda record: record.finished)
        assert made.clerks["bank-a"].states[BranchKey("g", "b1")] is BranchState.ABORTED


async def test_in_flight_counts_the_undecided_and_open_the_unfinished_and_both_limits_refuse() -> None:
    async with cluster(admission=Admission(in_flight_max=1, open_max=2)) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-a"].hold(Verb.COMMIT)
        await leader.transactions.begin(request(*BOTH, gid="decided"), 5.0)
        assert (leader.supervisor.in_flight, leader.supervisor.open) == (0, 1)
        made.clerks["bank-b"].hold(Verb.PREPARE)
        undecided = asyncio.ensure_future(leader.transactions.begin(request(*BOTH, gid="undecided"), 5.0))
        await made.clerks["bank-b"].arrived(Verb.PREPARE)
        with pytest.raises(Overloaded, match="in_flight_max"):
            await leader.transactions.begin(request(*BOTH), 5.0)
        made.clerks["bank-b"].release(Verb.PREPARE)
        await undecided
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
        _, poisoned = await leader.transactions.begin(request(*BOTH, gid="poison"), 0.05)
        assert poisoned is None
        _, record = await leader.transactions.begin(request(*BOTH, gid="fine"), 5.0)
        assert record is not None
        assert (leader.supervisor.broken, leader.supervisor.in_flight) == (1, 0)


async def test_what_failed_here_is_taken_up_again_when_an_operator_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a way out that needs no other leader. Red when `_changed` never starts a driver for a broken gid."""
    advance = Driver._advance

    def broken_while_undecided(driver: Driver) -> None:
        record = leader.ledger.get(driver.gid)
        if record is not None and record.decision is None:
            raise ZeroDivisionError
        advance(driver)

    async with cluster() as made:
        leader = made.replicas["n1"]
        monkeypatch.setattr(Driver, "_advance", broken_while_undecided)
        await leader.transactions.begin(request(*BOTH, gid="g"), 0.0)
        await recorded(leader, "g", lambda record: record.phase is Phase.PREPARING)
        await asyncio.sleep(0)
        assert leader.supervisor.broken == 1
        resolution = ResolveRequest(decision=Decision.ABORT, operator="ada", reason="broken")
        await leader.transactions.resolve("g", resolution)
        assert leader.supervisor.in_flight == 0
        done = await recorded(leader, "g", lambda record: record.finished)
        assert done.phase is Phase.ABORTED
        assert leader.supervisor.broken == 0
