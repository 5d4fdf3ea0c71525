"""Many transactions in one request: each is begun, decided and answered for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import msgpack
import pytest
from structlog.testing import capture_logs

from coordinator.http.arrays import Answers
from coordinator.ledger.records import Phase
from coordinator.wire import (
    LEADER_HEADER,
    MSGPACK_SEQ,
    TRANSACTIONS_MAX,
    Outcome,
    OutcomeView,
    TransactionRequest,
    parse,
)
from participant.wire import Verb
from tests.support.cluster import ADMISSION, Cluster, cluster, recorded

PATH = "/v1/transactions"


def transaction(gid: str, *participants: str) -> dict[str, Any]:
    named = participants or ("bank-a", "bank-b")
    return {"gid": gid, "branches": [{"participant": name, "action": "do", "body": 1} for name in named]}


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def all_of(
    made: Cluster, session: aiohttp.ClientSession, values: list[Any], path: str = PATH
) -> list[tuple[int, Any]]:
    async with session.post(made.urls["n1"] + path, json=values) as response:
        assert response.status == 200
        return [(answer["status"], answer["body"]) for answer in await response.json()]


async def test_each_is_answered_as_if_it_had_come_alone_in_the_order_of_the_request(
    made: Cluster, session: aiohttp.ClientSession
) -> None:
    """Broken on purpose by letting the first error answer the whole request: red."""
    values = [
        transaction("g1"),
        {"gid": "g2"},
        transaction("g3", "nobody"),
        7,
        transaction("g4"),
        transaction("g1", "bank-a"),
    ]
    answers = await all_of(made, session, values)
    assert [status for status, _ in answers] == [200, 422, 422, 422, 200, 409]
    assert [body.get("outcome") or body["code"] for _, body in answers] == [
        "committed",
        "invalid",
        "invalid",
        "invalid",
        "committed",
        "gid-reused",
    ]
    assert answers[2][1]["errors"] == [{"field": "branches.0.participant", "detail": "'nobody' is not configured"}]
    assert answers[2][1]["request_id"]


async def test_each_that_may_come_again_is_told_when(session: aiohttp.ClientSession) -> None:
    """There is one header for all of them. Red without `retry_after_s` in the problem."""
    async with cluster(serve=True, admission=replace(ADMISSION, in_flight_max=0)) as full:
        answers = await all_of(full, session, [transaction("g1"), transaction("g2")])
    assert [(status, body["code"], body["retry_after_s"]) for status, body in answers] == [(503, "overloaded", 1.0)] * 2


async def test_a_stream_tells_each_outcome_when_it_is_decided(made: Cluster, session: aiohttp.ClientSession) -> None:
    """Broken on purpose by writing all answers at the end: red (it waits for ever)."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    values = [transaction("slow"), transaction("quick", "bank-a")]
    headers = {"Accept": MSGPACK_SEQ}
    async with session.post(made.urls["n1"] + PATH, json=values, headers=headers) as response:
        assert (response.status, response.content_type) == (200, MSGPACK_SEQ)
        unpacker = msgpack.Unpacker()
        unpacker.feed(await response.content.readany())
        [[position, status, body]] = list(unpacker)
        assert (position, status, body["gid"], body["outcome"]) == (1, 200, "quick", "committed")
        made.clerks["bank-b"].release(Verb.PREPARE)
        unpacker.feed(await response.content.read())
        [[position, status, body]] = list(unpacker)
        assert (position, status, body["gid"], body["outcome"]) == (0, 200, "slow", "committed")


async def test_what_is_not_decided_in_time_is_deciding(made: Cluster, session: aiohttp.ClientSession) -> None:
    made.clerks["bank-b"].hold(Verb.PREPARE)
    values = [transaction("slow"), transaction("quick", "bank-a")]
    answers = await all_of(made, session, values, f"{PATH}?wait_ms=200")
    assert [(status, body["outcome"]) for status, body in answers] == [(202, "deciding"), (200, "committed")]
    assert answers[0][1]["handle"] == f"{PATH}/slow"


async def test_the_same_transaction_twice_in_one_request_is_one(made: Cluster, session: aiohttp.ClientSession) -> None:
    answers = await all_of(made, session, [transaction("g"), transaction("g")])
    assert [body["outcome"] for _, body in answers] == ["committed", "committed"]
    assert made.clerks["bank-a"].asked[Verb.PREPARE] == 1


@pytest.mark.parametrize("count", [0, TRANSACTIONS_MAX + 1])
async def test_too_few_or_too_many_are_refused_as_a_whole(
    made: Cluster, session: aiohttp.ClientSession, count: int
) -> None:
    values = [transaction(f"g{number}") for number in range(count)]
    async with session.post(made.urls["n1"] + PATH, json=values) as response:
        assert response.status == 422
        assert f"holds {count} transactions; 1 to {TRANSACTIONS_MAX}" in (await response.json())["detail"]
    assert not len(made.replicas["n1"].ledger)


async def test_who_does_not_lead_points_the_way_for_all_of_them(made: Cluster, session: aiohttp.ClientSession) -> None:
    async with session.post(made.urls["n2"] + PATH, json=[transaction("g")], allow_redirects=False) as response:
        assert (response.status, response.headers[LEADER_HEADER]) == (307, "n1")


async def test_a_caller_that_goes_away_takes_nothing_back_and_leaves_nobody_waiting(
    made: Cluster, session: aiohttp.ClientSession
) -> None:
    """Broken on purpose by letting the error of the lost connection pass the border: red (it is logged as ours)."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    headers = {"Accept": MSGPACK_SEQ}
    response = await session.post(made.urls["n1"] + PATH, json=[transaction("g")], headers=headers)
    await made.clerks["bank-b"].arrived(Verb.PREPARE)
    response.close()
    with capture_logs() as logs:
        made.clerks["bank-b"].release(Verb.PREPARE)
        async with asyncio.timeout(5):
            await made.replicas["n1"].waiters.decided("g", 5)
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    assert len(made.replicas["n1"].waiters) == 0


async def test_a_repeat_waits_for_what_a_new_leader_is_about_to_find_out(made: Cluster) -> None:
    """A staged record that was taken over may have been told; alone, such a request waits for the votes. Red when what
    is not known at once is refused at once."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    await made.replicas["n1"].transactions.begin(parse(TransactionRequest, transaction("g")), 0.0)
    await made.clerks["bank-b"].arrived(Verb.PREPARE)
    await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.PREPARING)
    await made.lead("n2")
    await made.clerks["bank-b"].next_call(Verb.PREPARE)
    answers = Answers(1, PATH, "r")
    answers.expect(0, await made.replicas["n2"].transactions.start(parse(TransactionRequest, transaction("g"))))
    assert answers.missing == 1
    made.clerks["bank-b"].release(Verb.PREPARE)
    [(_, status, view)] = await answers.some(asyncio.get_running_loop().time() + 5)
    assert isinstance(view, OutcomeView)
    assert (status, view.outcome) == (200, Outcome.COMMITTED)
