"""Workers run the code of workflows; whatever happens to them, each step is done once, and all of them or none.

Method: production replicas over a log in memory, served on loopback; workers and participants in this process. A worker
that "dies" says nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from coordinator.client import OWN, Aborted, Client, Committed, Run, Tx, Worker, Workflow, workflow
from coordinator.client.workflow import worker_of
from coordinator.driver import claims
from coordinator.errors import GidReused, Invalid, OutcomeUnknown, StepRefused, TransactionAborted
from coordinator.ledger.records import Decision, Phase
from coordinator.ledger.workflows import StepState
from coordinator.protocols.workflow import answer_of
from tests.support.cluster import WAIT_S, Cluster, cluster, recorded
from tests.support.desk import Desk
from tests.support.shards import sharded


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True) as made:
        made.clerks["desk"] = Desk("desk")  # type: ignore[assignment]
        yield made


@pytest.fixture
def desk(made: Cluster) -> Any:
    return made.clerks["desk"]


@pytest.fixture
async def client(made: Cluster) -> AsyncIterator[Client]:
    async with Client([made.urls["n2"], made.urls["n1"]], timeout_s=10.0, attempt_timeout_s=1.0) as client:
        yield client


@workflow
async def trip(tx: Tx, wish: Any) -> Any:
    seat = await tx.step("desk", "book", {"who": wish["who"]}, undo="cancel", takes={"seat": OWN})
    room = await tx.step("desk", "reserve", {"night": 1}, undo="release")
    await tx.message("desk", "send", {"seat": seat})
    return {"seat": seat, "room": room}


WISH = {"who": "alice"}
TRIP = ["s1 book", "s2 reserve", "s3 send"]


async def begun(client: Client, work: Workflow, given: Any = None, **options: Any) -> Run:
    return await client.start(work, given, gid="t", **options)


async def test_a_worker_has_a_name_of_its_own_which_follows_from_its_dice(client: Client) -> None:
    """A simulation repeats itself exactly. Seen red (the name came from the system's chance, whatever was given)."""
    given = [Worker(client, [trip], chance=Random(seed)).name for seed in (7, 7, 8)]
    assert given[0] == given[1] != given[2]
    assert Worker(client, [trip]).name != Worker(client, [trip]).name


async def test_what_the_code_asks_for_is_done_in_its_order_and_its_return_is_the_result(
    client: Client, desk: Desk
) -> None:
    async with Worker(client, [trip]):
        run = await begun(client, trip, WISH)
        assert await run.result() == {"seat": "book by s1", "room": "reserve by s2"}
        view = await client.settled("t")
    assert desk.done == TRIP
    assert desk.bodies["s3"] == {"seat": "book by s1"}
    assert (view.decided_by, view.phase) == ("workflow", Phase.COMMITTED)
    assert [branch.action for branch in view.branches] == ["book", "reserve", "send"]


async def test_an_exception_undoes_what_was_done_the_last_first(client: Client, desk: Desk) -> None:
    @workflow
    async def fails(tx: Tx, _: Any) -> None:
        await tx.step("desk", "book", {"who": "bob"}, undo="cancel", takes={"seat": OWN})
        await tx.step("desk", "reserve", None, undo="release")
        await tx.message("desk", "send")
        raise ValueError("bob has changed his mind")

    async with Worker(client, [fails]):
        run = await begun(client, fails)
        with pytest.raises(TransactionAborted, match="ValueError: bob has changed his mind"):
            await run.result()
        view = await client.settled("t")
    assert desk.done == ["s1 book", "s2 reserve", "s2:undo release", "s1:undo cancel"]
    assert desk.bodies["s1:undo"] == {"who": "bob", "seat": "book by s1"}
    assert view.decided_by == "workflow"


async def test_a_refused_step_raises_and_the_code_may_try_something_else(client: Client, desk: Desk) -> None:
    """The refused one is not undone, and owes nothing."""
    desk.refuses.add("reserve")

    @workflow
    async def tries(tx: Tx, _: Any) -> str:
        await tx.step("desk", "book", undo="cancel")
        try:
            await tx.step("desk", "reserve", undo="release")
        except StepRefused as refused:
            await tx.step("desk", "camp", undo="leave")
            return refused.reason
        return "unexpected"

    async with Worker(client, [tries]):
        assert await (await begun(client, tries)).result() == "no reserve today"
        view = await client.settled("t")
    assert desk.done == ["s1 book", "s3 camp"]
    steps = [branch.step for branch in view.branches if branch.step is not None]
    assert [step.refused for step in steps] == [None, "no reserve today", None]


async def test_a_refusal_that_nobody_catches_aborts(client: Client, desk: Desk) -> None:
    desk.refuses.add("reserve")
    async with Worker(client, [trip]):
        with pytest.raises(TransactionAborted, match=r"^t was aborted: desk refused reserve: no reserve today$"):
            await (await begun(client, trip, WISH)).result()
        await client.settled("t")
    assert desk.done == ["s1 book", "s1:undo cancel"]


@workflow
async def mixed(tx: Tx, fail: bool) -> Any:
    await tx.prepare("desk", "debit")
    held = await tx.reserve("desk", {"n": 1}, attempt="try", confirm="confirm", cancel="cancel", takes={"it": OWN})
    await tx.step("desk", "book", undo="unbook")
    if fail:
        raise ValueError("no")
    await tx.message("desk", "send")
    return await tx.pivot("desk", "pay", {"for": held})


async def test_all_kinds_of_steps_share_the_decision(client: Client, desk: Desk) -> None:
    async with Worker(client, [mixed]):
        assert await (await begun(client, mixed, False)).result() == "pay by s5"
        view = await client.settled("t")
    assert desk.done[:4] == ["s1 debit", "s2 try", "s3 book", "s5 pay"]
    assert sorted(desk.done[4:]) == ["s2:confirm confirm", "s4 send"]
    assert desk.bodies["s2:confirm"] == {"n": 1, "it": "try by s2"}
    assert [branch.ended for branch in view.branches] == [True] * 5


async def test_all_kinds_of_steps_are_taken_back(client: Client, desk: Desk) -> None:
    async with Worker(client, [mixed]):
        with pytest.raises(TransactionAborted):
            await (await begun(client, mixed, True)).result()
        await client.settled("t")
    assert desk.done == ["s1 debit", "s2 try", "s3 book", "s3:undo unbook", "s2:undo cancel"]


async def test_after_the_pivot_nothing_is_asked_and_nothing_aborts(client: Client, desk: Desk) -> None:
    """What cannot be undone has been done: the transaction commits, though the code has failed, and has no result."""

    @workflow
    async def goes_on(tx: Tx, _: Any) -> None:
        await tx.pivot("desk", "pay")
        await tx.step("desk", "book", undo="cancel")

    async with Worker(client, [goes_on]):
        run = await begun(client, goes_on)
        assert await run.result() is None
        assert await client.wait("t") == Committed("t")
    assert desk.done == ["s1 pay"]


async def test_what_may_not_be_asked_for_fails_the_code_even_if_it_goes_on(client: Client, desk: Desk) -> None:
    @workflow
    async def wrong(tx: Tx, _: Any) -> str:
        try:
            await tx.step("nobody", "book", undo="cancel")
        except Invalid:
            return "it goes on"
        return "unexpected"

    async with Worker(client, [wrong]):
        with pytest.raises(TransactionAborted, match="'nobody' is not configured"):
            await (await begun(client, wrong)).result()
    assert desk.calls == 0


async def test_steps_beside_each_other_are_called_at_once(client: Client, desk: Desk) -> None:
    """Both wait at the desk at the same time."""
    desk.hold("a")
    desk.hold("b")

    @workflow
    async def both(tx: Tx, _: Any) -> Any:
        return await asyncio.gather(tx.step("desk", "a", undo="x"), tx.step("desk", "b", undo="y"))

    async with Worker(client, [both]):
        run = await begun(client, both)
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(desk.arrived("a"), desk.arrived("b"))
        desk.release("b")
        desk.release("a")
        assert await run.result() == ["a by s1", "b by s2"]


async def test_a_step_left_behind_fails_the_code(client: Client, desk: Desk) -> None:
    """The return would commit what nobody knows the end of."""

    @workflow
    async def careless(tx: Tx, _: Any) -> None:
        step = asyncio.ensure_future(tx.step("desk", "a", undo="x"))
        await tx.step("desk", "b", undo="y")
        step.cancel()

    desk.hold("a")
    async with Worker(client, [careless]):
        run = await begun(client, careless)
        await desk.arrived("a")
        assert (await client.wait("t")) == Aborted(
            "t", "steps: not every step is answered; wait for each before the code returns", None
        )
        with pytest.raises(TransactionAborted):
            await run.result()
        await client.settled("t")
        desk.release("a")
    assert desk.done == ["s1 b", "s1:undo y"]


@pytest.mark.parametrize("held", ["book", "reserve"])
async def test_another_worker_goes_on_where_the_first_has_let_go(client: Client, desk: Desk, held: str) -> None:
    desk.hold(held)
    async with Worker(client, [trip]):
        run = await begun(client, trip, WISH)
        await desk.arrived(held)
    desk.release(held)
    async with Worker(client, [trip]):
        assert await run.result() == {"seat": "book by s1", "room": "reserve by s2"}
        await client.settled("t")
    assert desk.done == TRIP


async def test_a_worker_that_says_nothing_any_more_is_replaced(
    made: Cluster, client: Client, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with a lease that never ends."""
    monkeypatch.setattr(claims, "LEASE_S", 0.3)
    desk.hold("reserve")
    async with Client([made.urls["n1"]]) as dying:
        first = Worker(dying, [trip])
        task = asyncio.create_task(first.run())
        run = await begun(client, trip, WISH)
        await desk.arrived("reserve")
        first._client = _Dead()  # type: ignore[assignment]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    desk.release("reserve")
    async with Worker(client, [trip]):
        assert await run.result() == {"seat": "book by s1", "room": "reserve by s2"}
    await client.settled("t")
    assert desk.done == TRIP


class _Dead:
    wait_ms = 0

    def about(self, *_: Any) -> Any:
        raise TimeoutError

    asking_at = about


@pytest.mark.parametrize("held", ["book", "reserve"])
async def test_the_worker_goes_on_with_the_next_leader(made: Cluster, client: Client, desk: Desk, held: str) -> None:
    desk.hold(held)
    async with Worker(client, [trip]):
        run = await begun(client, trip, WISH)
        await desk.arrived(held)
        await made.lead("n3")
        desk.release(held)
        assert await run.result() == {"seat": "book by s1", "room": "reserve by s2"}
        await client.settled("t")
    assert desk.done == TRIP


async def test_two_workers_at_once_do_each_step_once(
    made: Cluster, client: Client, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims keep two apart; without them, the numbers of the steps do."""
    monkeypatch.setattr(claims.Claims, "take", lambda *_: True)
    monkeypatch.setattr(claims.Claims, "is_free", lambda *_: True)
    async with Client([made.urls["n3"]], attempt_timeout_s=1.0) as other, Worker(client, [trip]), Worker(other, [trip]):
        run = await begun(client, trip, WISH)
        assert await run.result() == {"seat": "book by s1", "room": "reserve by s2"}
        await client.settled("t")
    assert desk.done == TRIP


async def test_other_code_than_the_record_s_calls_nothing_and_waits_for_a_person(
    made: Cluster, client: Client, desk: Desk
) -> None:
    """The transaction is stuck, until somebody aborts it or a worker has the right code."""

    @workflow(name="trip")
    async def newer(tx: Tx, wish: Any) -> None:
        await tx.step("desk", "book", {"who": wish["who"], "class": 1}, undo="cancel")

    desk.hold("reserve")
    async with Worker(client, [trip]):
        await begun(client, trip, WISH)
        await desk.arrived("reserve")
    async with Worker(client, [newer]):
        await recorded(made.replicas["n1"], "t", lambda record: bool(record.workflow and record.workflow.diverged))
        stuck = [view async for view in client.transactions(stuck=True)]
    assert desk.calls == 2
    assert [view.gid for view in stuck] == ["t"]
    assert "step 1 was asked for as desk book" in (stuck[0].stuck or "")
    view = await client.resolve("t", Decision.ABORT, operator="ann", reason="the code is gone")
    assert view.outcome == "aborted"
    desk.release("reserve")
    await client.settled("t")
    assert desk.done[-1] == "s1:undo cancel"


async def test_the_right_code_goes_on_after_a_divergence(
    made: Cluster, client: Client, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.driver.workflows.REST_S", 0.1)

    @workflow(name="trip")
    async def shorter(tx: Tx, wish: Any) -> None:
        await tx.step("desk", "book", {"who": wish["who"]}, undo="cancel", takes={"seat": OWN})

    desk.hold("reserve")
    async with Worker(client, [trip]):
        run = await begun(client, trip, WISH)
        await desk.arrived("reserve")
    desk.release("reserve")
    async with Worker(client, [shorter]):
        record = await recorded(
            made.replicas["n1"], "t", lambda found: bool(found.workflow and found.workflow.diverged)
        )
    assert record.workflow is not None
    assert record.workflow.diverged == "it returned after 1 steps; 2 are recorded"
    async with Worker(client, [trip]):
        assert await run.result() == {"seat": "book by s1", "room": "reserve by s2"}
    assert desk.done[:2] == TRIP[:2]


async def test_the_deadline_undoes_what_no_worker_has_ended(client: Client, desk: Desk) -> None:
    await begun(client, trip, WISH, deadline_ms=200)
    ended = await client.wait("t")
    assert ended == Aborted("t", "not done within 200 ms: its code has not returned", None)
    assert desk.calls == 0


async def test_who_is_cancelled_from_outside_stops_and_is_undone(made: Cluster, client: Client, desk: Desk) -> None:
    """The code is told by a cancellation, wherever it waits."""
    told = asyncio.Event()

    @workflow
    async def waits(tx: Tx, _: Any) -> None:
        await tx.step("desk", "book", undo="cancel")
        try:
            await tx.sleep(3_600)
        except asyncio.CancelledError:
            told.set()
            raise

    async with Worker(client, [waits]):
        await begun(client, waits)
        await recorded(made.replicas["n1"], "t", lambda record: answer_of(record, 1).state is StepState.DONE)
        await client.resolve("t", Decision.ABORT, operator="ann", reason="not wanted")
        async with asyncio.timeout(WAIT_S):
            await told.wait()
        await client.settled("t")
    assert desk.done == ["s1 book", "s1:undo cancel"]


async def test_the_same_start_again_finds_the_same_and_another_is_refused(client: Client) -> None:
    await begun(client, trip, WISH)
    await begun(client, trip, WISH)
    with pytest.raises(GidReused):
        await begun(client, trip, {"who": "bob"})
    with pytest.raises(OutcomeUnknown):
        await Run("t", client).result(timeout_s=0.1)


async def test_values_that_json_has_no_word_for_come_as_text(client: Client, desk: Desk) -> None:
    @workflow
    async def gives(tx: Tx, given: Any) -> Any:
        await tx.step("desk", "a", given, undo="b")
        return {"given": given, "bytes": b"\x00\xff"}

    async with Worker(client, [gives]):
        run = await begun(client, gives, {"raw": b"\x00\xff", "n": [1, 2.5, None]})
        assert await run.result() == {"given": {"raw": "AP8=", "n": [1, 2.5, None]}, "bytes": "AP8="}


async def test_a_result_that_cannot_be_recorded_aborts(client: Client, desk: Desk) -> None:
    @workflow
    async def gives(tx: Tx, _: Any) -> Any:
        await tx.step("desk", "a", undo="b")
        return {"big": "x" * 100_000}

    async with Worker(client, [gives]):
        with pytest.raises(TransactionAborted, match="at most 65536 are allowed"):
            await (await begun(client, gives)).result()


@workflow
async def gives_a_set(tx: Tx, _: Any) -> Any:
    await tx.step("desk", "a", undo="b")
    return {1, 2}


@workflow
async def asks_with_a_set(tx: Tx, _: Any) -> Any:
    await tx.step("desk", "a", undo="b")
    with suppress(TypeError):
        await tx.step("desk", "c", {1, 2}, undo="d")
    await tx.step("desk", "e", undo="f")


@pytest.mark.parametrize("work", [gives_a_set, asks_with_a_set], ids=lambda work: work.name)
async def test_what_cannot_be_sent_aborts(client: Client, desk: Desk, work: Workflow) -> None:
    """Seen red: nobody told the coordinators, and the next step waited for one that was never asked for."""
    async with Worker(client, [work]):
        with pytest.raises(TransactionAborted, match="TypeError: can not serialize 'set' object"):
            await (await begun(client, work, deadline_ms=5_000)).result()
        await client.settled("t")
    assert desk.done == ["s1 a", "s1:undo b"]


async def test_a_worker_runs_what_there_is_in_every_shard() -> None:
    """Seen red with a worker that asks one shard only."""
    async with sharded() as made, Client([made.urls[0]["n2"]], timeout_s=5.0, attempt_timeout_s=1.0) as client:
        desk = Desk("desk")
        for shard in made.shards:
            shard.clerks["desk"] = desk  # type: ignore[assignment]
        gids = [next(iter(made.gids(shard))) for shard in (0, 1)]
        async with Worker(client, [trip]):
            runs = [await client.start(trip, WISH, gid=gid) for gid in gids]
            results = await asyncio.gather(*(run.result() for run in runs))
        assert results == [{"seat": "book by s1", "room": "reserve by s2"}] * 2
        assert [made.holders(gid) for gid in gids] == [[0], [1]]


async def test_a_worker_runs_no_more_at_once_than_it_is_told(client: Client, desk: Desk) -> None:
    """The others wait, or another worker runs them. Seen red with room for any number."""
    desk.hold("book")
    async with Worker(client, [trip], at_once_max=1):
        first = await client.start(trip, WISH, gid="t1")
        await desk.arrived("book")
        second = await client.start(trip, WISH, gid="t2")
        async with Worker(client, [trip], at_once_max=1):
            async with asyncio.timeout(WAIT_S):
                while desk.calls < 2:  # noqa: ASYNC110 - the second call is held as the first is
                    await asyncio.sleep(0.01)
            third = await client.start(trip, WISH, gid="t3")
            assert await worker_of(client, "t3") is None
            desk.release("book")
            await asyncio.gather(first.result(), second.result(), third.result())
    assert sorted(desk.done) == sorted(TRIP * 3)


def test_a_worker_without_work_is_refused(client: Client) -> None:
    for workflows, at_once_max in (([], 1), ([trip], 0)):
        with pytest.raises(ValueError, match="a worker needs"):
            Worker(client, workflows, at_once_max=at_once_max)
