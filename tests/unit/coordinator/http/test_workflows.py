"""What a worker in any language says and hears: one run of a workflow, request by request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from coordinator.wire import LEADER_HEADER
from tests.support.cluster import Cluster, cluster, recorded
from tests.support.desk import Desk

BOOK = {"participant": "desk", "action": "book", "body": {"who": "ann"}, "step": {"mode": "saga", "undo": "cancel"}}


class Api:
    """Requests to the leader, unless another replica is named."""

    def __init__(self, made: Cluster, session: aiohttp.ClientSession) -> None:
        self.cluster = made
        self.session = session

    async def ask(self, method: str, path: str, body: Any = None, *, at: str = "n1") -> tuple[int, Any]:
        url = f"{self.cluster.urls[at]}/v1/{path}"
        async with self.session.request(method, url, json=body, allow_redirects=False) as response:
            if response.status == 307:
                return 307, response.headers[LEADER_HEADER]
            return response.status, await response.json(content_type=None)

    async def start(self, **fields: Any) -> tuple[int, Any]:
        return await self.ask("POST", "workflows", {"gid": "t", "workflow": "trip", "input": {"who": "ann"}, **fields})

    async def claim(self, worker: str = "w1", *, running: tuple[str, ...] = (), room: int = 1) -> tuple[int, Any]:
        body = {"worker": worker, "workflows": ["trip"], "running": running, "room": room}
        return await self.ask("POST", "workers", body)

    async def step(self, number: int, call: Any, worker: str = "w1", wait_ms: int = 5_000) -> tuple[int, Any]:
        body = {"worker": worker, "number": number, "call": call}
        return await self.ask("POST", f"workflows/t/steps?wait_ms={wait_ms}", body)

    async def end(self, steps: int, worker: str = "w1", **how: Any) -> tuple[int, Any]:
        return await self.ask("POST", "workflows/t/end?wait_ms=5000", {"worker": worker, "steps": steps, **how})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with cluster(serve=True) as made, aiohttp.ClientSession() as session:
        made.clerks["desk"] = Desk("desk")  # type: ignore[assignment]
        yield Api(made, session)


def done(result: Any, at_ms: int = 1_700_000_000_000) -> dict[str, Any]:
    return {"state": "done", "result": result, "reason": "", "at_ms": at_ms}


async def test_a_run_from_its_beginning_to_its_end(api: Api) -> None:
    status, view = await api.start()
    assert (status, view["outcome"], view["handle"]) == (202, "deciding", "/v1/transactions/t")
    assert await api.ask("GET", "workflows/t") == (200, {"gid": "t", "workflow": "trip", "worker": None})
    offer = {"gid": "t", "workflow": "trip", "input": {"who": "ann"}, "begun_at_ms": 1_700_000_000_000, "steps": 0}
    assert await api.claim() == (200, {"offers": [offer], "lost": []})
    assert await api.ask("GET", "workflows/t") == (200, {"gid": "t", "workflow": "trip", "worker": "w1"})
    assert await api.step(1, BOOK) == (200, done("book by s1"))
    assert await api.step(1, BOOK) == (200, done("book by s1"))
    status, view = await api.end(1, result=[1, None])
    assert (status, view["outcome"]) == (200, "committed")
    assert (await api.end(1, result="other"))[1]["outcome"] == "committed"
    assert (await api.step(1, BOOK))[1]["state"] == "over"
    assert (await api.start())[0] == 200
    async with api.session.get(f"{api.cluster.urls['n2']}/v1/transactions/t") as response:
        shown = await response.json()
    assert shown["workflow"] == {"name": "trip", "result": [1, None], "diverged": None}
    assert shown["branches"][0]["step"]["done"]


async def test_only_the_leader_gives_out_work(api: Api) -> None:
    for path, body in (
        ("workflows", {"workflow": "trip"}),
        ("workers", {"worker": "w", "workflows": ["a"], "running": [], "room": 1}),
    ):
        assert await api.ask("POST", path, body, at="n2") == (307, "n1")


async def test_another_worker_is_told_whose_it_is(api: Api) -> None:
    await api.start()
    await api.claim()
    assert await api.claim("w2") == (200, {"offers": [], "lost": []})
    for status, problem in (await api.step(1, BOOK, "w2"), await api.end(0, "w2")):
        assert (status, problem["code"], problem["detail"]) == (409, "not-claimed", "t is run by w1")
    assert await api.claim("w2", running=("t",)) == (200, {"offers": [], "lost": ["t"]})
    await api.claim(room=0)
    assert (await api.claim("w2"))[1]["offers"][0]["gid"] == "t"


async def test_what_is_decided_is_lost_for_its_worker(api: Api) -> None:
    await api.start()
    await api.claim()
    await api.end(0, failure="no")
    assert (await api.claim(running=("t",)))[1] == {"offers": [], "lost": ["t"]}


async def test_a_step_that_is_asked_for_too_early_waits_for_its_turn(api: Api) -> None:
    await api.start()
    pending = {"state": "pending", "result": None, "reason": "", "at_ms": 0}
    assert await api.step(2, BOOK, wait_ms=0) == (200, pending)
    record = api.cluster.replicas["n1"].ledger.get("t")
    assert record is not None
    assert record.branches == ()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ({**BOOK, "branch": "b"}, "call"),
        ({"participant": "desk", "action": "book"}, "call"),
        ({**BOOK, "step": {"mode": "saga", "undo": "cancel", "after": ["s1"]}}, "call"),
        ({**BOOK, "step": {"mode": "saga"}}, "call.step.undo"),
        ({**BOOK, "step": {"mode": "source"}}, "call.action"),
        ({**BOOK, "participant": "nobody"}, "call.participant"),
        ({**BOOK, "participant": "bank-a"}, "call.participant"),
        ({**BOOK, "body": "x" * 65_536}, "call.body"),
    ],
)
async def test_what_may_not_be_asked_for_is_refused_and_nothing_is_recorded(api: Api, call: Any, field: str) -> None:
    await api.start()
    status, problem = await api.step(1, call)
    assert (status, problem["code"], [wrong["field"] for wrong in problem["errors"]]) == (422, "invalid", [field])
    assert (await api.step(1, BOOK))[1]["state"] == "done"


async def test_all_bodies_together_fit_one_record(api: Api) -> None:
    await api.start()
    large = {**BOOK, "body": {"who": "x" * 60_000}}
    for number in (1, 2, 3):
        assert (await api.step(number, large))[0] == 200
    status, problem = await api.step(4, large)
    assert (status, problem["errors"][0]["field"]) == (422, "call.body")


async def test_another_question_under_the_same_number_is_a_divergence(api: Api) -> None:
    await api.start()
    await api.claim()
    await api.step(1, BOOK)
    status, problem = await api.step(1, {**BOOK, "action": "reserve"})
    why = "step 1 was asked for as desk book (saga, undo cancel), and now as desk reserve (saga, undo cancel)"
    assert (status, problem["code"]) == (409, "not-deterministic")
    assert problem["detail"].startswith(f"t: {why}")
    record = await recorded(
        api.cluster.replicas["n2"], "t", lambda found: bool(found.workflow and found.workflow.diverged)
    )
    assert record.workflow is not None
    assert record.workflow.diverged == why
    assert (await api.claim("w2"))[1]["offers"] == []


async def test_a_return_before_every_answer_is_refused(api: Api) -> None:
    await api.start()
    assert (await api.end(1, result=1))[0] == 422
    assert (await api.end(0, result=1))[1]["outcome"] == "committed"


async def test_what_is_no_workflow_is_told_apart(api: Api) -> None:
    assert (await api.step(1, BOOK))[0] == 404
    url = f"{api.cluster.urls['n1']}/v1/transactions"
    branches = [{"participant": name, "action": "do"} for name in ("bank-a", "bank-b")]
    async with api.session.post(url, json={"gid": "t", "branches": branches}) as response:
        assert response.status == 200
    for status, problem in (await api.step(1, BOOK), await api.end(0), await api.ask("GET", "workflows/t")):
        assert (status, problem["code"]) == (409, "contradiction")
    assert (await api.start())[1]["code"] == "gid-reused"


async def test_a_gid_that_was_aborted_before_it_was_begun_stays_aborted(api: Api) -> None:
    url = f"{api.cluster.urls['n1']}/v1/transactions/t/outcome"
    async with api.session.post(url, json={"participant": "bank-a", "branch": "b"}) as response:
        assert response.status == 200
    status, view = await api.start()
    assert (status, view["outcome"]) == (200, "aborted")
