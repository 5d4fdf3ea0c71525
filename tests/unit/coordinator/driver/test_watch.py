"""The leader tells people of what stays open: once, and again only when something else is wrong with it."""

from __future__ import annotations

import aiohttp
from structlog.testing import capture_logs

from coordinator.client import Client
from coordinator.driver.replica import Replica, Tunables
from coordinator.driver.watch import NAMED_MAX
from coordinator.protocols.stuck import Kind, Thresholds
from participant.wire import Verb
from tests.support.cluster import cluster, recorded, request

TUNABLES = Tunables(ride_along_s=0.0, alarms=Thresholds(late_ms=60_000))


async def _looked(replica: Replica) -> list[tuple[str, object]]:
    with capture_logs() as lines:
        await replica.watch.look()
    return [(line["event"], line.get("gid", line.get("more"))) for line in lines]


async def test_who_leads_names_a_stuck_transaction_once_and_counts_it_until_it_has_ended() -> None:
    """Seen red with a watch that forgets what it has said."""
    async with cluster(tunables=TUNABLES) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await leader.transactions.begin(request("bank-b", "bank-a", gid="slow"), 5.0)
        await recorded(leader, "slow", lambda record: record.decision is not None)
        assert await _looked(leader) == []
        made.now_ms += 60_000
        assert await _looked(leader) == [("transaction.stuck", "slow")]
        assert await _looked(leader) == []
        assert leader.watch.counts == {Kind.LATE: 1}
        assert await _looked(made.replicas["n2"]) == []
        assert made.replicas["n2"].watch.counts == {}
        made.clerks["bank-b"].release(Verb.COMMIT)
        await recorded(leader, "slow", lambda record: record.finished)
        assert await _looked(leader) == []
        assert leader.watch.counts == {}


async def test_of_very_many_it_names_some_and_says_how_many_more_there_are() -> None:
    async with cluster(tunables=TUNABLES) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-b"].hold(Verb.COMMIT)
        for number in range(NAMED_MAX + 2):
            await leader.transactions.begin(request("bank-b", "bank-a", gid=f"g{number}"), 5.0)
        for number in range(NAMED_MAX + 2):
            await recorded(leader, f"g{number}", lambda record: record.decision is not None)
        made.now_ms += 60_000
        said = await _looked(leader)
        assert [event for event, _ in said] == ["transaction.stuck"] * NAMED_MAX + ["transactions.stuck"]
        assert said[-1][1] == 2
        made.clerks["bank-b"].release(Verb.COMMIT)


async def test_any_replica_lists_the_stuck_ones_with_why_and_the_leader_has_them_in_its_metrics() -> None:
    """Seen red with a query that lets every record through."""
    async with cluster(tunables=TUNABLES, serve=True) as made, Client(list(made.urls.values())) as client:
        leader = made.replicas["n1"]
        await leader.transactions.begin(request("bank-a", gid="quick"), 5.0)
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await leader.transactions.begin(request("bank-b", "bank-a", gid="slow"), 5.0)
        await recorded(leader, "slow", lambda record: record.decision is not None)
        assert [view.gid async for view in client.transactions(stuck=True)] == []
        made.now_ms += 90_000
        found = [(view.gid, view.stuck) async for view in client.transactions(stuck=True)]
        assert found == [("slow", (await client.record("slow")).stuck)]
        assert (found[0][1] or "").startswith("decided 90 s ago, and not confirmed by b1 at bank-b")
        assert (await client.record("quick")).stuck is None
        await leader.watch.look()
        async with aiohttp.ClientSession() as session, session.get(f"{made.urls['n1']}/metrics") as response:
            lines = (await response.text()).splitlines()
        assert 'commitd_stuck_transactions{kind="late"} 1.0' in lines
        assert 'commitd_stuck_transactions{kind="refused"} 0.0' in lines
        made.clerks["bank-b"].release(Verb.COMMIT)
