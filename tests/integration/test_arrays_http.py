"""Arrays over real sockets: the sequence of answers, and a lane of the coordinator against a participant of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from structlog.testing import capture_logs

from coordinator.participants.http import HttpParticipants
from participant.bank import bank_on_sqlite
from participant.ids import BranchKey
from participant.service import ParticipantService
from participant.wire import Answer, BranchState, Operation, Verb

SEQ = "application/msgpack-seq"
ACCOUNTS = ("alice", "bob", "eve")


def debit(gid: str, account: str, amount: int = 1) -> Operation:
    return Operation(Verb.PREPARE, BranchKey(gid, "b"), "debit", {"account": account, "amount": amount})


def commit(gid: str) -> Operation:
    return Operation(Verb.COMMIT, BranchKey(gid, "b"))


class Bank:
    """A bank that serves, and a session to it."""

    def __init__(self, service: ParticipantService, url: str, session: aiohttp.ClientSession) -> None:
        self.service = service
        self.url = url
        self.session = session

    @asynccontextmanager
    async def array(self, *operations: Operation | dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to an array, as soon as it has begun."""
        forms = [each.to_map() if isinstance(each, Operation) else each for each in operations]
        headers = {"Content-Type": "application/msgpack", "Accept": f"{SEQ}, application/msgpack"}
        data = msgpack.packb({"operations": forms})
        async with self.session.post("/v1/branches", data=data, headers=headers) as response:
            yield response


def unpacked(data: bytes) -> list[Any]:
    """The objects of a whole sequence."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return list(unpacker)


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    participant = bank_on_sqlite("bank-a", tmp_path / "bank.db")
    async with participant.serving() as serving, aiohttp.ClientSession(serving.url) as session:
        for account in ACCOUNTS:
            body = {"account": account, "balance": 100}
            await serving.service.perform(Operation(Verb.COMMIT, BranchKey(account, "b"), "open", body, one_phase=True))
        yield Bank(serving.service, serving.url, session)


async def test_answers_that_are_true_together_come_whole_and_with_their_length(bank: Bank) -> None:
    """One write, not one for each."""
    async with bank.array(debit("g1", "alice"), debit("g2", "bob", 1_000)) as response:
        assert response.content_type == SEQ
        assert response.content_length is not None
        answers = dict(unpacked(await response.read()))
    assert answers == {0: {"state": "prepared"}, 1: {"state": "aborted", "reason": "insufficient funds"}}


async def test_one_malformed_operation_never_fails_the_others(bank: Bank) -> None:
    async with bank.array(debit("g1", "alice"), {"verb": "fly"}, debit("g2", "bob")) as response:
        answers = dict(unpacked(await response.read()))
    assert answers[0] == answers[2] == {"state": "prepared"}
    assert answers[1]["state"] == "unknown"
    assert "operations[1].verb" in answers[1]["reason"]


async def test_an_answer_does_not_wait_for_the_ones_before_it(bank: Bank) -> None:
    """Seen red with the answers in the order of the operations."""
    await bank.service.perform(debit("holder", "alice"))
    async with bank.array(debit("waits", "alice"), debit("free", "bob")) as response:
        assert unpacked(await response.content.readany()) == [[1, {"state": "prepared"}]]
        await bank.service.perform(commit("holder"))
        assert unpacked(await response.content.read()) == [[0, {"state": "prepared"}]]


async def test_the_response_begins_when_all_wait(bank: Bank) -> None:
    """Seen red: no response before the first answer, so that a lane kept the commit of `holder` back."""
    await bank.service.perform(debit("holder", "alice"))
    async with bank.array(debit("w1", "alice"), debit("w2", "alice")) as response:
        assert response.content_type == SEQ
        await bank.service.perform(commit("holder"))
        assert unpacked(await response.content.readany()) == [[0, {"state": "prepared"}]]
        await bank.service.perform(commit("w1"))
        assert unpacked(await response.content.read()) == [[1, {"state": "prepared"}]]


async def test_what_cannot_be_an_array_is_a_problem_as_ever(bank: Bank) -> None:
    async with bank.array(*[commit("g")] * 257) as response:
        assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_an_empty_array_has_an_empty_sequence(bank: Bank) -> None:
    async with bank.array() as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_whoever_leaves_in_the_middle_disturbs_nobody(bank: Bank) -> None:
    """Red without the handling of ConnectionError: an error with a traceback for each."""
    with capture_logs() as logs:
        await bank.service.perform(debit("holder", "alice"))
        async with bank.array(debit("waits", "alice"), debit("free", "bob")) as response:
            await response.content.readany()
            response.close()
        await bank.service.perform(commit("holder"))
        waited = await bank.service.perform(debit("waits", "alice"))
    assert waited.state is BranchState.PREPARED
    assert [log for log in logs if log["log_level"] in ("warning", "error")] == []


@asynccontextmanager
async def calling(bank: Bank) -> AsyncIterator[HttpParticipants]:
    participants = HttpParticipants({"bank-a": bank.url})
    await participants.start()
    try:
        await participants.capabilities("bank-a")
        yield participants
    finally:
        await participants.stop()


async def test_a_lane_brings_every_answer_to_who_asked(bank: Bank) -> None:
    async with calling(bank) as participants:
        asked = [debit(f"g{i}", ACCOUNTS[i % 3], 1 if i < 3 else 1_000) for i in range(300)]
        for i, answer in enumerate(await asyncio.gather(*(participants.call("bank-a", each) for each in asked[:3]))):
            assert answer == Answer(BranchState.PREPARED), i
        committed = await asyncio.gather(*(participants.call("bank-a", commit(f"g{i}")) for i in range(3)))
        assert {answer.state for answer in committed} == {BranchState.COMMITTED}
        refused = await asyncio.gather(*(participants.call("bank-a", each) for each in asked[3:]))
        assert {answer.reason for answer in refused} == {"insufficient funds"}


async def test_a_prepare_that_waits_does_not_keep_back_the_commit_that_frees_its_row(bank: Bank) -> None:
    """Goal: hot rows go from hand to hand. Red with a request that waits for the end of the one before it: the prepare
    votes no, after seconds."""
    async with calling(bank) as participants:
        await participants.call("bank-a", debit("holder", "alice"))
        began = time.perf_counter()
        waiting = participants.call("bank-a", debit("waits", "alice"))
        await asyncio.sleep(0.001)  # it leaves alone
        answers = await asyncio.gather(participants.call("bank-a", commit("holder")), waiting)
        assert [answer.state for answer in answers] == [BranchState.COMMITTED, BranchState.PREPARED]
        assert time.perf_counter() - began < 1.0
