"""Messages whose sender commits by itself, as the SDK has them prepared and submitted."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.client import Aborted, Client, Committed, Prepared
from coordinator.errors import Contradiction, GidReused, NotFound
from coordinator.wire import InquiryRequest
from participant.ids import BranchKey
from participant.wire import BranchState, Operation, Verb
from tests.support.cluster import Cluster, recorded, request


async def prepared(client: Client, gid: str = "m", deadline_ms: int = 60_000, to: str = "bank-b") -> Prepared:
    message = client.message(deadline_ms=deadline_ms)
    message.source("bank-a", name="order")
    message.send(to, "add")
    return await message.prepare(gid=gid)


async def commit(made: Cluster, gid: str = "m") -> BranchState:
    """The sender's own commit."""
    operation = Operation(Verb.COMMIT, BranchKey(gid, "order"), "do", None, one_phase=True)
    return (await made.clerks["bank-a"].perform(operation)).state


async def test_what_is_prepared_is_recorded_and_nothing_is_sent_before_it_is_submitted(
    made: Cluster, client: Client
) -> None:
    """Seen red with a prepare that does not wait for the record, where the log has lost it at first."""
    made.group.lose_next_answer(applied=False)
    message = await prepared(client)
    assert made.replicas["n1"].ledger.get("m") is not None
    assert await commit(made) is BranchState.COMMITTED
    assert made.clerks["bank-b"].asked[Verb.COMMIT] == 0
    assert await message.submit() == Committed("m")
    await client.settled("m")
    assert made.clerks["bank-b"].asked[Verb.COMMIT] == 1
    assert await message.submit() == Committed("m")


async def test_who_submits_what_it_has_not_committed_never_can(made: Cluster, client: Client) -> None:
    message = await prepared(client)
    ended = await message.submit()
    assert isinstance(ended, Aborted)
    assert ended.branch == "order"
    assert await commit(made) is BranchState.ABORTED
    assert made.clerks["bank-b"].asked[Verb.COMMIT] == 0


async def test_the_coordinators_ask_by_themselves_when_nobody_submits(made: Cluster, client: Client) -> None:
    await prepared(client, deadline_ms=200)
    assert await commit(made) is BranchState.COMMITTED
    assert await client.wait("m") == Committed("m")


async def test_while_the_sender_cannot_be_asked_it_is_not_decided(made: Cluster, client: Client) -> None:
    """Goal: a timeout is never an abort."""
    await prepared(client, deadline_ms=200)
    assert await commit(made) is BranchState.COMMITTED
    made.clerks["bank-a"].away = True
    waiting = asyncio.create_task(client.wait("m"))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    made.clerks["bank-a"].away = False
    assert await waiting == Committed("m")


async def test_to_prepare_again_is_harmless_and_another_message_is_refused(client: Client) -> None:
    assert await prepared(client) == await prepared(client)
    with pytest.raises(GidReused):
        await prepared(client, to="bank-a")


async def test_what_was_aborted_before_it_was_begun_is_not_prepared(made: Cluster, client: Client) -> None:
    """Goal: nobody commits by itself what no coordinator will send."""
    await made.replicas["n1"].transactions.inquire("m", InquiryRequest(participant="bank-a", branch="order"))
    with pytest.raises(Contradiction, match="aborted before it was begun"):
        await prepared(client)


async def test_only_a_message_with_a_source_is_submitted(made: Cluster, client: Client) -> None:
    with pytest.raises(NotFound):
        await client.submit("nobody")
    await made.replicas["n1"].transactions.begin(request("bank-a", gid="plain"), 5.0)
    await recorded(made.replicas["n1"], "plain", lambda record: record.finished)
    with pytest.raises(Contradiction, match="no source"):
        await client.submit("plain")


async def test_a_message_is_run_without_a_source_and_prepared_with_one(client: Client) -> None:
    message = client.message()
    with pytest.raises(ValueError, match="without one, run it"):
        await message.prepare()
    message.source("bank-a")
    with pytest.raises(ValueError, match="prepared, and submitted"):
        await message.run()


async def test_a_delayed_message_is_not_sent_before_its_time(client: Client) -> None:
    """Seen red with a driver that does not wait."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    message = client.message()
    message.when("bank-a", "do")
    message.send("bank-b", "add", not_before_ms=700)
    ended = await message.run()
    await client.settled(ended.gid)
    assert loop.time() - began_at >= 0.7
    branches = (await client.record(ended.gid)).branches
    assert [branch.step and branch.step.not_before_ms for branch in branches] == [0, 700]
