"""Who may answer a question about a transaction whose outcome may have been told before the record holds it.

Goal: nobody is told anything older than what somebody has heard before. Off the classic path the leader that began a
transaction knows exactly what was told; a replica that does not lead sends readers to the leader; a leader that took
the transaction over waits until it has decided again, and says so when that takes too long.
"""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.service import STAGED_PATIENCE_S
from coordinator.driver.waiters import Known
from coordinator.errors import NotLeader, Undetermined
from coordinator.ledger.records import Decision, Path, Phase, TransactionRecord
from participant.wire import Verb
from tests.support.cluster import Cluster, cluster, recorded, request
from tests.support.virtual import virtually

BOTH = ("bank-a", "bank-b")
COMMITTED = Known("g", Decision.COMMIT, "votes")
LONG_S = 60.0  # of virtual time


def is_preparing(record: TransactionRecord) -> bool:
    return record.phase is Phase.PREPARING


def is_decided(record: TransactionRecord) -> bool:
    return record.decision is not None


async def undecided(made: Cluster, *names: str, held: Verb = Verb.PREPARE) -> None:
    """`g` is begun by n1, and bank-b holds its answer back; every replica knows the record."""
    made.clerks["bank-b"].hold(held)
    leader = made.replicas["n1"]
    await leader.transactions.begin(request(*names, gid="g", deadline_ms=600_000), 0.0)
    for replica in made.replicas.values():
        await recorded(replica, "g", is_preparing)


async def implied(made: Cluster) -> None:
    """`g` is committed, which n1 has told a caller, and the record does not hold it: its proposal was lost."""
    await undecided(made, *BOTH)
    leader = made.replicas["n1"]
    hearing = asyncio.ensure_future(leader.transactions.begin(request(*BOTH, gid="g"), LONG_S))
    made.group.lose_next_answer(applied=False)
    made.clerks["bank-b"].release(Verb.PREPARE)
    assert await hearing == COMMITTED
    record = leader.ledger.get("g")
    assert record is not None
    assert is_preparing(record)


async def taken_over(made: Cluster) -> None:
    """n1 has died with `g` undecided, n2 leads, and bank-b still answers nothing."""
    await undecided(made, *BOTH)
    await made.crash("n1")
    await made.lead("n2")
    await made.clerks["bank-b"].next_call(Verb.PREPARE)


@pytest.mark.parametrize(
    ("names", "held", "path"),
    [(BOTH, Verb.PREPARE, Path.STAGED), (("bank-b",), Verb.COMMIT, Path.ONE_PHASE)],
)
def test_a_replica_that_does_not_lead_sends_readers_to_the_leader(
    names: tuple[str, ...], held: Verb, path: Path
) -> None:
    """Red when `_undecided` answers on every path as on the classic one."""

    async def main() -> None:
        async with cluster() as made:
            made.clerks["bank-b"].one_phase = True
            await undecided(made, *names, held=held)
            follower = made.replicas["n2"]
            record = follower.ledger.get("g")
            assert record is not None
            assert record.path is path
            for ask in (follower.transactions.transaction("g"), follower.transactions.outcome("g", LONG_S)):
                with pytest.raises(NotLeader) as refused:
                    await ask
                assert refused.value.leader == "n1"
            made.clerks["bank-b"].release(held)
            await recorded(follower, "g", is_decided)
            assert await follower.transactions.outcome("g", 0.0) == COMMITTED, "what is recorded is told by all"
            assert is_decided(await follower.transactions.transaction("g"))

    virtually(main())


def test_on_the_classic_path_any_replica_says_that_it_is_undecided() -> None:
    """Nobody hears a decision there before the record holds it."""

    async def main() -> None:
        async with cluster(prevent=False) as made:
            await undecided(made, *BOTH)
            for replica in made.replicas.values():
                assert is_preparing(await replica.transactions.transaction("g"))
                assert await replica.transactions.outcome("g", 0.0) == Known("g")
            made.clerks["bank-b"].release(Verb.PREPARE)
            await recorded(made.replicas["n1"], "g", is_decided)

    virtually(main())


def test_the_leader_that_began_it_knows_exactly_that_nothing_was_told() -> None:
    async def main() -> None:
        async with cluster() as made:
            await undecided(made, *BOTH)
            leader = made.replicas["n1"].transactions
            before = asyncio.get_running_loop().time()
            assert is_preparing(await leader.transaction("g"))
            assert await leader.outcome("g", 0.0) == Known("g")
            assert asyncio.get_running_loop().time() == before, "at once"
            hearing = asyncio.ensure_future(leader.outcome("g", LONG_S))
            await asyncio.sleep(1.0)
            made.clerks["bank-b"].release(Verb.PREPARE)
            assert await hearing == COMMITTED

    virtually(main())


def test_what_was_told_is_never_told_as_undecided_afterwards() -> None:
    """Goal: a caller has heard *committed*, so every later reader does, though the record does not hold it yet.
    Red when `_undecided` does not ask the waiters, and when `known` looks at the record alone."""

    async def main() -> None:
        async with cluster() as made:
            await implied(made)
            leader, follower = made.replicas["n1"].transactions, made.replicas["n2"].transactions
            again = leader.begin(request(*BOTH, gid="g"), 0.0)
            assert await again == COMMITTED, "the same request hears it at once"
            with pytest.raises(NotLeader):
                await follower.outcome("g", 0.0)
            record, outcome = await asyncio.gather(leader.transaction("g"), leader.outcome("g", 0.0))
            assert record.decision is Decision.COMMIT, "the whole record is waited for: its proposal is made again"
            assert outcome == COMMITTED

    virtually(main())


def test_who_took_it_over_waits_for_its_decision_and_tells_it() -> None:
    async def main() -> None:
        async with cluster() as made:
            await taken_over(made)
            reading = asyncio.ensure_future(made.replicas["n2"].transactions.outcome("g", 0.0))
            await asyncio.sleep(STAGED_PATIENCE_S / 2)
            assert not reading.done()
            made.clerks["bank-b"].release(Verb.PREPARE)
            assert await reading == COMMITTED

    virtually(main())


@pytest.mark.parametrize("wait_s", [0.0, LONG_S])
def test_who_took_it_over_does_not_wait_for_ever_and_never_says_that_it_is_undecided(wait_s: float) -> None:
    """Red when `_undecided` asks for the gid's driver instead of for its plan: the driver after a takeover has none."""

    async def main() -> None:
        async with cluster() as made:
            await taken_over(made)
            before = asyncio.get_running_loop().time()
            for ask in ("outcome", "transaction"):
                transactions = made.replicas["n2"].transactions
                asked = transactions.outcome("g", wait_s) if ask == "outcome" else transactions.transaction("g")
                with pytest.raises(Undetermined, match="ask again") as undetermined:
                    await asked
                assert undetermined.value.retry_after_s is not None
            assert asyncio.get_running_loop().time() == pytest.approx(before + 2 * STAGED_PATIENCE_S)
            made.clerks["bank-b"].release(Verb.PREPARE)
            await recorded(made.replicas["n2"], "g", is_decided)
            assert await made.replicas["n2"].transactions.outcome("g", 0.0) == COMMITTED

    virtually(main())


def test_what_an_earlier_leader_has_told_is_decided_again_by_the_next_one() -> None:
    """Goal: the whole point of the path. The caller heard *committed* from the record and the votes; the leader dies
    with its decision, and its successor comes to the same one. Red when a successor aborts what it took over."""

    async def main() -> None:
        async with cluster() as made:
            await implied(made)
            await made.crash("n1")
            leader = await made.lead("n3")
            assert await leader.transactions.outcome("g", 0.0) == COMMITTED
            done = await recorded(leader, "g", lambda record: record.finished)
            assert (done.phase, done.decided_by) == (Phase.COMMITTED, "votes")

    virtually(main())
