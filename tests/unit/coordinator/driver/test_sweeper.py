"""Retention: the same gid gets the same answer until it is swept, on every replica at once."""

from __future__ import annotations

from coordinator.driver.replica import Tunables
from participant.wire import Verb
from tests.support.cluster import cluster, recorded, request

TUNABLES = Tunables(ride_along_s=0.0, retention_s=60.0)


async def test_what_is_past_its_retention_is_forgotten_everywhere_and_nothing_else() -> None:
    async with cluster(tunables=TUNABLES) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await leader.transactions.begin(request("bank-b", "bank-a", gid="unfinished"), 5.0)
        await leader.transactions.begin(request("bank-a", gid="old"), 5.0)
        await recorded(leader, "old", lambda record: record.finished)
        made.now_ms += 61_000
        await leader.transactions.begin(request("bank-a", gid="young"), 5.0)
        await recorded(leader, "young", lambda record: record.finished)
        assert await leader.sweeper.sweep() == 1
        await made.replicas["n2"].log.barrier()
        for replica in made.replicas.values():
            assert replica.ledger.get("old") is None
            assert replica.ledger.get("young") is not None
            assert replica.ledger.get("unfinished") is not None
        made.clerks["bank-b"].release(Verb.COMMIT)


async def test_a_replica_that_does_not_lead_sweeps_nothing() -> None:
    async with cluster(tunables=TUNABLES) as made:
        await made.replicas["n1"].transactions.begin(request("bank-a", gid="old"), 5.0)
        await recorded(made.replicas["n2"], "old", lambda record: record.finished)
        made.now_ms += 61_000
        assert await made.replicas["n2"].sweeper.sweep() == 0
        assert made.replicas["n2"].ledger.get("old") is not None
