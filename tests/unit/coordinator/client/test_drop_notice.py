"""Notices that an operator gives up, through the SDK, the API and the driver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coordinator.client import Branch, Client
from coordinator.errors import Contradiction, Invalid, NotFound
from coordinator.ledger.records import Notice, Phase, TransactionRecord
from tests.support.application import Application
from tests.support.cluster import Cluster, cluster, recorded

BRANCHES = [Branch("bank-a", "debit"), Branch("bank-b", "credit")]
URL = "http://shop/hook"


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def made(application: Application) -> AsyncIterator[Cluster]:
    async with cluster(serve=True, notifier=application) as made:
        yield made


def has_ended(record: TransactionRecord) -> bool:
    return record.ended


async def test_a_notice_that_nobody_takes_is_given_up_for_good_at_every_replica(
    made: Cluster, client: Client, application: Application
) -> None:
    """Who and why stand in the record, the same request again is harmless, and another one is told so."""
    application.away = True
    await client.commit(BRANCHES, gid="g", notify=URL)
    await recorded(made.replicas["n3"], "g", has_ended)
    await made.lead("n3")
    for _ in range(2):
        view = await client.drop_notice("g", operator="ann", reason="the shop is closed")
        assert (view.notify, view.notified, view.notice_dropped) == (
            URL,
            Notice.NONE,
            "dropped by ann: the shop is closed",
        )
    with pytest.raises(Contradiction, match="was dropped by ann: the shop is closed"):
        await client.drop_notice("g", operator="bob", reason="other")
    record = await recorded(made.replicas["n1"], "g", lambda record: record.finished)
    assert record.phase is Phase.COMMITTED
    assert made.replicas["n3"].ledger.unfinished() == ()


async def test_only_what_an_application_is_still_to_be_told_is_given_up(
    made: Cluster, client: Client, application: Application
) -> None:
    with pytest.raises(NotFound):
        await client.drop_notice("g", operator="ann", reason="x")
    await client.commit(BRANCHES, gid="g")
    await recorded(made.replicas["n1"], "g", has_ended)
    with pytest.raises(Contradiction, match="without `notify`"):
        await client.drop_notice("g", operator="ann", reason="x")
    await client.commit(BRANCHES, gid="h", notify=URL)
    await recorded(made.replicas["n1"], "h", lambda record: record.finished)
    with pytest.raises(Contradiction, match="has been told"):
        await client.drop_notice("h", operator="ann", reason="x")
    await client.start("unheard-of", gid="w", notify=URL)
    with pytest.raises(Contradiction, match="undecided"):
        await client.drop_notice("w", operator="ann", reason="x")
    with pytest.raises(Invalid, match="reason"):
        await client.drop_notice("w", operator="ann", reason="")
