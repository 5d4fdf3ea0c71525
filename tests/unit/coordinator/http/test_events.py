"""Server-sent events of a served cluster: what is told, where, how it is taken up again, and how it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from coordinator.driver.admission import Admission
from coordinator.http import events
from coordinator.ledger.records import Phase
from coordinator.wire import BranchRequest, TransactionRequest
from coordinator.wire_steps import StepRequest
from participant.wire import Verb
from tests.support.cluster import Cluster, cluster, recorded, request

GID = "g"
PATH = f"/v1/transactions/{GID}/events"


class Listened:
    """A stream that is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        """The fields of the next block; a comment has no name. Empty at the end."""
        fields = {}
        while line := (await self.response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        return fields

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The next event: its id and its data."""
        while "data" not in (block := await self.block()):
            assert block, "the stream has ended"
        return block["id"], json.loads(block["data"])

    async def phases(self) -> list[str]:
        """Of all events up to the end."""
        phases = []
        while block := await self.block():
            if "data" in block:
                phases.append(json.loads(block["data"])["phase"])
        return phases


@asynccontextmanager
async def listening(made: Cluster, at: str = "n1", **headers: str) -> AsyncIterator[Listened]:
    async with aiohttp.ClientSession() as session:
        path = made.urls[at] + PATH
        async with session.get(path, headers={key.replace("_", "-"): value for key, value in headers.items()}) as got:
            yield Listened(got)


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True, prevent=False) as running:
        yield running


async def begun(made: Cluster) -> None:
    """Undecided: bank-b is asked to prepare, and does not answer."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    await made.replicas["n1"].transactions.begin(request("bank-a", "bank-b", gid=GID), 0.0)
    for replica in made.replicas.values():
        await recorded(replica, GID, lambda record: record.phase is Phase.PREPARING)


@pytest.mark.parametrize("at", ["n1", "n2"])
async def test_a_transaction_is_heard_at_any_replica_from_where_it_is_to_its_end(made: Cluster, at: str) -> None:
    await begun(made)
    async with listening(made, at) as stream:
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        assert await stream.block() == {"retry": str(events.COME_BACK_MS)}
        first_id, first = await stream.event()
        assert (first["gid"], first["phase"], first["outcome"]) == (GID, "preparing", "deciding")
        assert int(first_id) == first["revision"]
        made.clerks["bank-b"].release(Verb.PREPARE)
        phases = await stream.phases()
    assert phases[0] == "committing"
    assert phases[-1] == "committed"


async def test_a_step_that_has_come_further_is_an_event(made: Cluster) -> None:
    for clerk in made.clerks.values():
        clerk.one_phase = clerk.prevent = True
    made.clerks["bank-a"].refuse("not now", times=1)
    made.clerks["bank-b"].hold(Verb.COMMIT)
    steps = [
        {"mode": "saga", "undo": "undo", "retry": {"attempts_max": 2, "base_ms": 1, "cap_ms": 1}},
        {"mode": "saga", "undo": "undo", "after": ["b1"]},
    ]
    branches = [
        BranchRequest(participant=name, action="do", step=StepRequest.model_validate(step))
        for name, step in zip(made.clerks, steps, strict=True)
    ]
    leader = made.replicas["n1"]
    await leader.transactions.begin(TransactionRequest(gid=GID, branches=branches), 0.0)
    await recorded(leader, GID, lambda record: record.phase is Phase.PREPARING)
    async with listening(made) as stream:
        attempts = set()
        while 2 not in attempts:
            attempts.add((await stream.event())[1]["branches"][0]["step"]["attempt"])
        made.clerks["bank-b"].release(Verb.COMMIT)
        assert (await stream.phases())[-1] == "committed"


async def test_a_listener_that_comes_back_hears_what_has_changed_since(made: Cluster) -> None:
    """Goal: `Last-Event-ID` counts at another replica, too; and whoever knows the end is told not to come back."""
    await begun(made)
    async with listening(made) as stream:
        last, _ = await stream.event()
    made.clerks["bank-b"].release(Verb.PREPARE)
    for replica in made.replicas.values():
        await recorded(replica, GID, lambda record: record.finished)
    async with listening(made, "n3", Last_Event_ID=last) as stream:
        end, record = await stream.event()
        assert (record["phase"], await stream.phases()) == ("committed", [])
    async with listening(made, "n2", Last_Event_ID=end) as stream:
        assert (stream.response.status, await stream.response.read()) == (204, b"")


async def test_nobody_is_told_of_what_is_not_there_or_misspelt(made: Cluster) -> None:
    async with listening(made) as stream:
        assert (stream.response.status, (await stream.response.json())["code"]) == (404, "not-found")
    await begun(made)
    for text in ("x", "-1", "9" * 19, "٣"):
        async with listening(made, Last_Event_ID=text) as stream:
            problem = await stream.response.json()
            assert (stream.response.status, problem["errors"][0]["field"]) == (422, "Last-Event-ID")
    made.clerks["bank-b"].release(Verb.PREPARE)


async def test_an_outcome_that_may_have_been_told_is_heard_from_the_leader() -> None:
    async with cluster(serve=True, prevent=True) as made:
        await begun(made)
        async with (
            aiohttp.ClientSession() as session,
            session.get(made.urls["n2"] + PATH, allow_redirects=False) as got,
        ):
            assert (got.status, got.headers["Location"]) == (307, made.urls["n1"] + PATH)
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_too_many_listeners_are_refused_by_name() -> None:
    async with cluster(serve=True, prevent=False, admission=Admission(listeners_max=1)) as made:
        await begun(made)
        async with listening(made) as first:
            await first.event()
            async with listening(made) as second:
                problem = await second.response.json()
                assert (second.response.status, problem["code"]) == (503, "overloaded")
                assert "listeners_max" in problem["detail"]
            made.clerks["bank-b"].release(Verb.PREPARE)
            assert (await first.phases())[-1] == "committed"
        assert made.replicas["n1"].waiters.listening == 0


async def test_a_silent_stream_says_that_it_is_there_and_ends_for_a_while(
    made: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(events, "STREAM_MAX_S", 0.05)
    await begun(made)
    async with listening(made) as stream:
        assert await stream.block() == {"retry": str(events.COME_BACK_MS)}
        await stream.event()
        assert await stream.block() == {"": "still here"}
        assert await stream.phases() == []
    made.clerks["bank-b"].release(Verb.PREPARE)


async def test_a_leader_that_leads_no_more_sends_its_listeners_away(made: Cluster) -> None:
    await begun(made)
    async with listening(made) as stream:
        await stream.event()
        await made.lead("n2")
        assert await stream.phases() == []
    made.clerks["bank-b"].release(Verb.PREPARE)
