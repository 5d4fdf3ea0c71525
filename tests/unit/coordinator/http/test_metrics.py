"""What a replica can be watched by."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cluster import Cluster, cluster


async def _samples(session: aiohttp.ClientSession, url: str) -> dict[tuple[str, ...], float]:
    async with session.get(f"{url}/metrics") as response:
        assert (response.status, response.content_type) == (200, "text/plain")
        families = text_string_to_metric_families(await response.text())
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


async def _commit(session: aiohttp.ClientSession, made: Cluster, gid: str, *participants: str) -> str:
    branches = [{"participant": name, "action": "do"} for name in participants]
    async with session.post(f"{made.urls['n1']}/v1/transactions", json={"gid": gid, "branches": branches}) as response:
        outcome: str = (await response.json())["outcome"]
    return outcome


@pytest.mark.parametrize(("prevent", "path"), [(True, "staged"), (False, "classic")])
async def test_decisions_are_counted_by_path_and_outcome_where_they_are_driven(prevent: bool, path: str) -> None:
    """Seen red with a count of every change of a decided record, by every replica."""
    async with cluster(serve=True, prevent=prevent) as made, aiohttp.ClientSession() as session:
        for number in range(3):
            assert await _commit(session, made, f"g{number}", "bank-a", "bank-b") == "committed"
        seen = [await _samples(session, url) for url in made.urls.values()]
    decided = [value for samples in seen for value in samples.items() if "decided_total" in value[0][0]]
    assert decided == [(("commitd_transactions_decided_total", "commit", path), 3)]
    assert [samples["commitd_leads",] for samples in seen] == [1, 0, 0]
    assert seen[0]["commitd_recorded_transactions",] == 3
    assert seen[0]["commitd_broken_transactions",] == 0
    assert seen[0]["commitd_commit_index",] >= 3
