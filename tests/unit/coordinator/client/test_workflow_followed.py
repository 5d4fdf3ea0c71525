"""A workflow is found, followed and told of as any other transaction: by its key, by events, and at a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.client import Client, Tx, Worker, workflow
from coordinator.driver.admission import Admission
from coordinator.driver.intake import digest_of_workflow
from coordinator.errors import GidReused, Invalid, TransactionAborted, Unavailable
from coordinator.ledger.records import Notice, Phase
from tests.support.application import Application
from tests.support.cluster import Cluster, cluster, recorded
from tests.support.desk import Desk

URL = "http://shop/hook"
WISH = {"who": "alice"}


@workflow
async def trip(tx: Tx, wish: Any) -> Any:
    seat = await tx.step("desk", "book", wish, undo="cancel")
    await tx.message("desk", "send", {"seat": seat})
    return seat


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def made(application: Application) -> AsyncIterator[Cluster]:
    async with cluster(serve=True, notifier=application) as made:
        made.clerks["desk"] = Desk("desk")  # type: ignore[assignment]
        yield made


@pytest.fixture
async def client(made: Cluster) -> AsyncIterator[Client]:
    async with Client([made.urls["n2"], made.urls["n1"]], timeout_s=10.0, attempt_timeout_s=1.0) as client:
        yield client


async def test_it_is_found_by_its_key_and_its_application_is_told_of_the_decision_and_of_the_end(
    client: Client, made: Cluster, application: Application
) -> None:
    desk: Any = made.clerks["desk"]
    desk.hold("send")
    async with Worker(client, [trip]):
        run = await client.start(trip, WISH, gid="t", key="order-7", notify=URL)
        assert await run.result() == "book by s1"
        await recorded(made.replicas["n1"], "t", lambda record: record.notified is Notice.DECIDED)
        desk.release("send")
        await recorded(made.replicas["n1"], "t", lambda record: record.finished)
    told = [(each.type, each.data.key, each.data.outcome, each.data.phase) for each in application.taken]
    assert told == [
        ("transaction.decided", "order-7", "committed", "committing"),
        ("transaction.ended", "order-7", "committed", "committed"),
    ]
    (found,) = await client.by_key("order-7")
    assert (found.gid, found.notify, found.notified) == ("t", URL, Notice.ENDED)
    assert found.workflow is not None


async def test_one_that_fails_is_told_of_with_the_reason_by_the_next_leader(
    client: Client, made: Cluster, application: Application
) -> None:
    """Goal: what is owed stands in the record of a workflow, too, and outlives its leader."""
    desk: Any = made.clerks["desk"]
    desk.refuses.add("book")
    application.away = True
    async with Worker(client, [trip]):
        run = await client.start(trip, WISH, gid="t", notify=URL)
        with pytest.raises(TransactionAborted):
            await run.result()
    await recorded(made.replicas["n2"], "t", lambda record: record.ended)
    await application.came(1)
    await made.crash("n1")
    application.away = False
    await recorded(await made.lead("n2"), "t", lambda record: record.finished)
    last = application.taken[-1].data
    assert (last.outcome, last.phase, last.reason) == ("aborted", "aborted", "desk refused book: no book today")


async def test_its_events_go_from_the_beginning_to_the_end(client: Client) -> None:
    await client.start(trip, WISH, gid="t", key="order-7")
    events = client.events("t")
    assert (await anext(events)).phase is Phase.PREPARING
    waiting = asyncio.ensure_future(client.wait("t"))
    async with Worker(client, [trip]):
        seen = [view async for view in events]
    assert (seen[-1].phase, seen[-1].key) == (Phase.COMMITTED, "order-7")
    assert (await waiting).gid == "t"


async def test_the_same_request_is_the_same_key_and_the_same_url(client: Client) -> None:
    """Goal: whoever repeats it under another key or URL is told, as for other transactions."""
    await client.start(trip, WISH, gid="t", key="one", notify=URL)
    await client.start(trip, WISH, gid="t", key="one", notify=URL)
    for key, notify in (("two", URL), ("one", f"{URL}/2"), (None, URL), ("one", None), (None, None)):
        with pytest.raises(GidReused, match="another input, key or notify"):
            await client.start(trip, WISH, gid="t", key=key, notify=notify)


async def test_what_cannot_be_a_key_or_a_url_is_refused_with_its_field(client: Client) -> None:
    with pytest.raises(Invalid, match=r"key: .*one line"):
        await client.start(trip, WISH, gid="t", key="two\nlines")
    with pytest.raises(Invalid, match="notify: is not allowed"):
        await client.start(trip, WISH, gid="t", notify="http://elsewhere/")
    await client.start(trip, WISH, gid="t")


async def test_with_too_many_untold_it_is_refused_only_with_a_url() -> None:
    application = Application()
    application.away = True
    async with cluster(serve=True, notifier=application, admission=Admission(untold_max=1)) as made:
        made.clerks["desk"] = Desk("desk")  # type: ignore[assignment]
        async with Client([made.urls["n1"]], timeout_s=1.0) as client, Worker(client, [trip]):
            await client.start(trip, WISH, gid="t", notify=URL)
            await recorded(made.replicas["n1"], "t", lambda record: record.ended)
            with pytest.raises(Unavailable, match="untold_max"):
                await client.start(trip, WISH, gid="u", notify=URL)
            await client.start(trip, WISH, gid="t", notify=URL)  # which is there
            await client.start(trip, WISH, gid="v", key="order-7")


def test_a_request_without_a_key_has_the_digest_that_it_always_had() -> None:
    """Goal: who repeats a request to a newer coordinator finds what an older one has begun."""
    assert digest_of_workflow("trip", b"\x80").hex() == "4a7be3fbf19db8f64d730840ee6c3d65"
    digests = {digest_of_workflow("trip", b"\x80", *named) for named in ((), ("k",), ("", "k"), ("k", "k"))}
    assert len(digests) == 4
