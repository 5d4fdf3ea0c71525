"""Arrays over real sockets: the stream of answers, and a lane of the coordinator against a participant of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from structlog.testing import capture_logs

from coordinator.participants.http import HttpParticipants
from participant import stream as stream_module
from participant.bank import bank_on_sqlite
from participant.ids import BranchKey
from participant.kit import SHUTDOWN_TIMEOUT_S
from participant.service import ParticipantService
from participant.wire import STREAM_PATH, STREAM_PROTOCOL, Answer, BranchState, Operation, Verb

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
    async def stream(self) -> AsyncIterator[Stream]:
        """A connection that stays."""
        async with self.session.ws_connect(STREAM_PATH, protocols=(STREAM_PROTOCOL,)) as socket:
            yield Stream(socket)


class Stream:
    """A caller's end."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def ask(self, number: object, *operations: Operation | dict[str, Any]) -> None:
        forms = [each.to_map() if isinstance(each, Operation) else each for each in operations]
        await self.socket.send_bytes(msgpack.packb([number, forms]))

    async def heard(self) -> list[Any]:
        """The next message."""
        async with asyncio.timeout(5):
            message: list[Any] = msgpack.unpackb(await self.socket.receive_bytes())
        return message


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    participant = bank_on_sqlite("bank-a", tmp_path / "bank.db")
    async with participant.serving() as serving, aiohttp.ClientSession(serving.url) as session:
        for account in ACCOUNTS:
            body = {"account": account, "balance": 100}
            await serving.service.perform(Operation(Verb.COMMIT, BranchKey(account, "b"), "open", body, one_phase=True))
        yield Bank(serving.service, serving.url, session)


async def test_answers_that_are_true_together_come_together(bank: Bank) -> None:
    async with bank.stream() as stream:
        await stream.ask(1, debit("g1", "alice"), debit("g2", "bob", 1_000))
        number, answers = await stream.heard()
    assert number == 1
    assert sorted(answers) == [[0, {"state": "prepared"}], [1, {"state": "aborted", "reason": "insufficient funds"}]]


async def test_one_malformed_operation_never_fails_the_others(bank: Bank) -> None:
    answers: dict[int, Any] = {}
    async with bank.stream() as stream:
        await stream.ask(1, debit("g1", "alice"), {"verb": "fly"}, debit("g2", "bob"))
        while len(answers) < 3:
            answers.update((await stream.heard())[1])
    assert answers[0] == answers[2] == {"state": "prepared"}
    assert answers[1]["state"] == "unknown"
    assert "operations[1].verb" in answers[1]["reason"]


async def test_an_answer_waits_neither_for_those_before_it_nor_for_arrays_before_its_own(bank: Bank) -> None:
    """Seen red with the answers in the order of the operations."""
    await bank.service.perform(debit("holder", "alice"))
    async with bank.stream() as stream:
        await stream.ask(1, debit("waits", "alice"), debit("free", "bob"))
        assert await stream.heard() == [1, [[1, {"state": "prepared"}]]]
        await stream.ask(2, commit("holder"))
        assert sorted([await stream.heard(), await stream.heard()]) == [
            [1, [[0, {"state": "prepared"}]]],
            [2, [[0, {"state": "committed"}]]],
        ]


async def test_an_array_is_answered_with_nothing_when_all_of_it_waits(bank: Bank) -> None:
    """Seen red: nothing was said before the first answer, so that a lane kept the commit of `holder` back."""
    await bank.service.perform(debit("holder", "alice"))
    async with bank.stream() as stream:
        await stream.ask(1, debit("w1", "alice"), debit("w2", "alice"))
        assert await stream.heard() == [1, []]
        await bank.service.perform(commit("holder"))
        assert await stream.heard() == [1, [[0, {"state": "prepared"}]]]
        await bank.service.perform(commit("w1"))
        assert await stream.heard() == [1, [[1, {"state": "prepared"}]]]


async def test_an_array_that_is_too_long_is_refused_alone(bank: Bank) -> None:
    async with bank.stream() as stream:
        await stream.ask(1, *[commit("g")] * 257)
        number, why = await stream.heard()
        assert (number, why) == (1, "operations: at most 256, not 257")
        await stream.ask(2, debit("g1", "alice"))
        assert await stream.heard() == [2, [[0, {"state": "prepared"}]]]


@pytest.mark.parametrize("message", [b"\xc1", msgpack.packb(7), msgpack.packb([True, []]), msgpack.packb([1, {}])])
async def test_what_is_no_array_ends_the_connection_with_the_reason(bank: Bank, message: bytes) -> None:
    async with bank.stream() as stream:
        await stream.socket.send_bytes(message)
        closed = await stream.socket.receive()
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert str(closed.extra).startswith("message: ")


async def test_a_request_that_is_no_websocket_is_a_problem(bank: Bank) -> None:
    async with bank.session.get(STREAM_PATH) as response:
        assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_a_page_in_a_browser_has_no_stream(bank: Bank) -> None:
    """Goal: no web page commits at a participant that its reader's machine can reach. Red without the check."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await bank.session.ws_connect(STREAM_PATH, origin="https://shop.example")
    assert refused.value.status == 403


async def test_a_websocket_of_another_protocol_has_no_stream(bank: Bank) -> None:
    """Goal: who speaks something else is told so, and not misunderstood. Seen red without the check."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await bank.session.ws_connect(STREAM_PATH, protocols=("chat.v2",))
    assert refused.value.status == 400


async def test_many_arrays_that_wait_do_not_keep_out_the_commit_that_frees_their_row(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one that may wait is refused; what frees a row is not. Seen red when it was refused as well, and when no
    more was read from the connection."""
    monkeypatch.setattr(stream_module, "ARRAYS_OPEN_MAX", 3)
    await bank.service.perform(debit("holder", "alice"))
    async with bank.stream() as stream:
        for number in range(3):
            await stream.ask(number, debit(f"w{number}", "alice"))
            assert await stream.heard() == [number, []]
        await stream.ask(3, debit("w3", "alice"))
        assert await stream.heard() == [3, "3 arrays are open already"]
        await stream.ask(4, commit("holder"))
        heard = [await stream.heard(), await stream.heard()]
        assert [4, [[0, {"state": "committed"}]]] in heard
        assert [0, [[0, {"state": "prepared"}]]] in heard
        await stream.ask(5, commit("w0"))
        assert [5, [[0, {"state": "committed"}]]] in [await stream.heard(), await stream.heard()]


async def test_a_caller_that_is_silent_for_too_long_has_gone(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what a coordinator holds whose machine has lost its power is freed; here before waits end, with the real
    heartbeat later. Seen red without a heartbeat."""
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.1)
    await bank.service.perform(debit("a-holder", "alice"))
    async with bank.session.ws_connect(STREAM_PATH, protocols=(STREAM_PROTOCOL,), autoping=False) as socket:
        await Stream(socket).ask(1, debit("waits", "alice"))
        await asyncio.sleep(0.7)  # longer than deadlock_wait_s
        outcome = await bank.service.perform(Operation(Verb.OUTCOME, BranchKey("waits", "b")))
    assert outcome.state is BranchState.UNKNOWN


async def test_a_wait_ends_without_a_vote_when_who_asked_has_gone(bank: Bank) -> None:
    """Goal: a dead leader, who frees no rows either, costs no transaction its yes. Seen red without `is_awaited` in the
    engine: the repeat heard *aborted*, `conflict: …`."""
    with capture_logs() as logs:
        await bank.service.perform(debit("a-holder", "alice"))
        async with bank.stream() as stream:
            await stream.ask(1, debit("waits", "alice"), debit("free", "bob"))
            await stream.heard()
        await asyncio.sleep(0.7)  # longer than deadlock_wait_s
        outcome = await bank.service.perform(Operation(Verb.OUTCOME, BranchKey("waits", "b")))
        assert outcome.state is BranchState.UNKNOWN
        waiting = asyncio.ensure_future(bank.service.perform(debit("waits", "alice")))
        await asyncio.sleep(0)
        await bank.service.perform(commit("a-holder"))
        assert (await waiting).state is BranchState.PREPARED
    assert [log for log in logs if log["log_level"] in ("warning", "error")] == []


async def test_a_stop_waits_for_nobody_who_does_not_read(tmp_path: Path) -> None:
    """Seen red without a limit for each goodbye: with a full buffer between them it never ended."""
    participant = bank_on_sqlite("bank-a", tmp_path / "bank.db")
    async with aiohttp.ClientSession() as session:
        async with participant.serving() as serving:
            socket = await session.ws_connect(serving.url + STREAM_PATH, protocols=(STREAM_PROTOCOL,))
            deaf: Any = socket
            deaf._conn.transport.pause_reading()
            malformed = msgpack.packb([1, [{"verb": "fly" * 30}] * 250])
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while True:
                        await socket.send_bytes(malformed)
            began = time.perf_counter()
        assert time.perf_counter() - began < SHUTDOWN_TIMEOUT_S
        deaf._conn.transport.abort()


async def test_a_stop_does_not_wait_for_a_stream(tmp_path: Path) -> None:
    """Seen red without the closing on shutdown: it took SHUTDOWN_TIMEOUT_S."""
    participant = bank_on_sqlite("bank-a", tmp_path / "bank.db")
    async with aiohttp.ClientSession() as session:
        async with participant.serving() as serving:
            socket = await session.ws_connect(serving.url + STREAM_PATH, protocols=(STREAM_PROTOCOL,))
            began = time.perf_counter()
        assert time.perf_counter() - began < SHUTDOWN_TIMEOUT_S / 2
        assert (await socket.receive()).data == aiohttp.WSCloseCode.GOING_AWAY


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
