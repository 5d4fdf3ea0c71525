"""Messages that were set aside, and what an operator makes of them, through the SDK, the API and the driver."""

from __future__ import annotations

import pytest

from coordinator.client import Client, DeadAfter, Retry
from coordinator.errors import Contradiction, NotFound
from coordinator.ledger.records import TransactionRecord
from coordinator.protocols.letters import dead_letters
from coordinator.protocols.stuck import Kind
from participant.ids import BranchKey
from participant.wire import BranchState
from tests.support.cluster import Cluster, recorded

RETRY = Retry(base_ms=10, cap_ms=10)


def has_dead_letter(record: TransactionRecord) -> bool:
    return bool(dead_letters(record))


async def send(client: Client, gid: str, dead_after: DeadAfter, order_key: str | None = None) -> None:
    message = client.message()
    message.when("bank-a", "do")
    message.send("bank-b", "add", name="news", retry=RETRY, dead_after=dead_after, order_key=order_key)
    await message.run(gid=gid)


async def test_a_message_that_is_refused_too_often_is_set_aside_listed_and_delivered_again(
    made: Cluster, client: Client
) -> None:
    made.clerks["bank-b"].refuse("no such customer")
    await send(client, "m", DeadAfter(attempts_max=2))
    await recorded(made.replicas["n1"], "m", has_dead_letter)
    (listed,) = [view async for view in client.transactions(dead=True)]
    assert (listed.gid, listed.stuck) == ("m", "branch news at bank-b was set aside: no such customer")
    await made.replicas["n1"].watch.look()
    assert made.replicas["n1"].watch.counts[Kind.DEAD] == 1
    assert len(made.clerks["bank-b"].states) == 2
    made.clerks["bank-b"].refuse("", times=0)
    view = await client.redeliver("m", operator="ann", reason="the customer is there now")
    assert view.branches[1].step is not None
    assert view.branches[1].step.word == "redelivered by ann: the customer is there now"
    assert (await client.settled("m")).phase == "committed"
    assert made.clerks["bank-b"].states[BranchKey("m", "news:3")] is BranchState.COMMITTED
    assert [view async for view in client.transactions(dead=True)] == []


async def test_a_message_that_is_given_up_is_never_delivered(made: Cluster, client: Client) -> None:
    made.clerks["bank-b"].refuse("no")
    await send(client, "m", DeadAfter(attempts_max=1))
    await recorded(made.replicas["n1"], "m", has_dead_letter)
    await made.lead("n3")
    await client.drop("m", operator="ann", reason="obsolete", branches=["news"])
    view = await client.settled("m")
    assert view.branches[1].step is not None
    assert (view.branches[1].step.dead, view.branches[1].step.word) == (None, "dropped by ann: obsolete")
    assert BranchState.COMMITTED not in made.clerks["bank-b"].states.values()


async def test_a_message_to_somebody_who_is_away_is_set_aside_when_it_is_old_and_is_delivered_once(
    made: Cluster, client: Client
) -> None:
    """Nobody knows whether the last call has come about: so it is the same attempt that is made again."""
    made.clerks["bank-b"].away = True
    await send(client, "m", DeadAfter(age_max_ms=100))
    record = await recorded(made.replicas["n1"], "m", has_dead_letter)
    assert record.branches[1].step is not None
    assert record.branches[1].step.settling == 1
    view = await client.record("m")
    assert view.stuck is not None
    assert view.stuck.endswith("not delivered within 100 ms: bank-b is away")
    made.clerks["bank-b"].away = False
    await client.redeliver("m", operator="ann", reason="it is back")
    await client.settled("m")
    assert list(made.clerks["bank-b"].states) == [BranchKey("m", "news")]


async def test_what_is_set_aside_holds_up_nobody(made: Cluster, client: Client) -> None:
    made.clerks["bank-b"].refuse("no", times=1)
    await send(client, "m1", DeadAfter(attempts_max=1), order_key="k")
    await send(client, "m2", DeadAfter(), order_key="k")
    await client.settled("m2")
    assert (await client.record("m1")).phase == "committing"


async def test_only_dead_letters_are_delivered_again_or_dropped(made: Cluster, client: Client) -> None:
    with pytest.raises(NotFound):
        await client.redeliver("nobody", operator="ann", reason="x")
    await send(client, "m", DeadAfter(attempts_max=1))
    await client.settled("m")
    with pytest.raises(Contradiction, match="has no dead letters"):
        await client.drop("m", operator="ann", reason="x")
    made.clerks["bank-b"].refuse("no")
    await send(client, "n", DeadAfter(attempts_max=1))
    await recorded(made.replicas["n1"], "n", has_dead_letter)
    with pytest.raises(Contradiction, match="has no dead letters s1"):
        await client.drop("n", operator="ann", reason="x", branches=["s1"])


async def test_by_default_a_message_is_tried_for_ever(made: Cluster, client: Client) -> None:
    made.clerks["bank-b"].refuse("no", times=8)
    message = client.message()
    message.when("bank-a", "do")
    message.send("bank-b", "add", name="news", retry=RETRY)
    await message.run(gid="m")
    await recorded(
        made.replicas["n1"], "m", lambda record: (s := record.branches[1].step) is not None and s.settling > 5
    )
    assert not [view async for view in client.transactions(dead=True)]
