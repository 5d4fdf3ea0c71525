"""Over a stream an answer is an answer, everything else is `CallFailed`, and no array is another one's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import msgpack
import pytest
import uvloop
from aiohttp import WSMessageTypeError, web

from coordinator.participants import lane
from coordinator.participants.http import ANSWER_BYTES_MAX, HttpParticipants
from coordinator.ports import CallFailed
from participant.ids import BranchKey
from participant.wire import STREAM_PATH, STREAM_PROTOCOL, Answer, BranchState, Operation, Verb
from tests.support.impostor import Impostor, impostor

YES = {"state": "prepared"}
Script = Callable[[web.WebSocketResponse], Awaitable[None]]


class Bank(Impostor):
    """Has a stream, whose every connection is served by `script`, or refused with `status`. `opened`: how many.
    `protocols`: what it speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.script: Script = _echo
        self.opened = 0
        self.status = 101
        self.protocols: tuple[str, ...] = (STREAM_PROTOCOL,)
        self.document: dict[str, Any] = {"name": "bank-a", "arrays": True, "stream": True}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/capabilities":
            return web.Response(body=msgpack.packb(self.document), content_type="application/msgpack")
        if request.path != STREAM_PATH:
            return await super().answer(request)
        if self.scripts:
            return await self.scripts[0](request)
        if self.status != 101:
            return web.Response(status=self.status)
        self.opened += 1
        socket = web.WebSocketResponse(protocols=self.protocols)
        await socket.prepare(request)
        with suppress(WSMessageTypeError):  # the coordinator has gone
            await self.script(socket)
        return socket


async def heard(socket: web.WebSocketResponse) -> tuple[int, list[dict[str, Any]]]:
    """The next array."""
    number, operations = msgpack.unpackb(await socket.receive_bytes())
    return number, operations


async def say(socket: web.WebSocketResponse, number: object, *answers: object) -> None:
    await socket.send_bytes(msgpack.packb([number, list(answers)]))


async def _echo(socket: web.WebSocketResponse) -> None:
    while True:
        number, operations = await heard(socket)
        await say(socket, number, *([index, YES] for index in range(len(operations))))


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    made = Bank()
    async with impostor(made):
        yield made


@asynccontextmanager
async def calling(bank: Bank, timeout_s: float = 5.0) -> AsyncIterator[HttpParticipants]:
    made = HttpParticipants({"bank-a": bank.url}, timeout_s=timeout_s, refresh_s=60.0)
    await made.start()
    try:
        await _introduced(made)
        yield made
    finally:
        await made.stop()


async def _introduced(participants: HttpParticipants) -> None:
    """When it has read the document, however short its patience."""
    while True:
        with suppress(CallFailed):
            await participants.capabilities("bank-a")
            return
        await asyncio.sleep(0.05)


def operations(count: int) -> list[Operation]:
    return [Operation(Verb.PREPARE, BranchKey(f"g{i}", "b1"), "debit", {"n": i}) for i in range(count)]


async def told(futures: list[asyncio.Future[Answer]]) -> list[str]:
    """What came of each."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, Answer | CallFailed) for result in results)
    return [result.state.value if isinstance(result, Answer) else "unknown" for result in results]


async def test_arrays_travel_over_one_connection_that_stays(bank: Bank) -> None:
    async with calling(bank) as participants:
        for _ in range(5):
            assert await told([participants.call("bank-a", each) for each in operations(3)]) == ["prepared"] * 3
    assert bank.opened == 1
    assert bank.seen == [], "no request besides"


async def test_operations_arrive_as_the_contract_says(bank: Bank) -> None:
    asked: list[dict[str, Any]] = []

    async def script(socket: web.WebSocketResponse) -> None:
        number, listed = await heard(socket)
        asked.extend(listed)
        await say(socket, number, [1, {"state": "aborted", "reason": "no money"}], [0, YES])

    bank.script = script
    async with calling(bank) as participants:
        futures = [participants.call("bank-a", each) for each in operations(2)]
        assert await asyncio.gather(*futures) == [Answer(BranchState.PREPARED), Answer(BranchState.ABORTED, "no money")]
    assert asked == [each.to_map() for each in operations(2)]


async def test_a_straggler_delays_nobody(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those beside it, nor those behind it. Red if the lane is not told that an answer has begun."""
    monkeypatch.setattr(lane, "PATIENCE_S", 60.0)
    row_is_free = asyncio.Event()

    async def script(socket: web.WebSocketResponse) -> None:
        first, _ = await heard(socket)
        await say(socket, first, [0, YES])
        second, _ = await heard(socket)
        await say(socket, second, [0, {"state": "committed"}])
        await row_is_free.wait()
        await say(socket, first, [1, YES])

    bank.script = script
    async with calling(bank) as participants:
        quick, slow = (participants.call("bank-a", each) for each in operations(2))
        assert (await quick).state is BranchState.PREPARED
        async with asyncio.timeout(5):
            committed = await participants.call("bank-a", Operation(Verb.COMMIT, BranchKey("g", "b1")))
        assert committed.state is BranchState.COMMITTED
        assert not slow.done()
        row_is_free.set()
        assert (await slow).state is BranchState.PREPARED


@pytest.mark.parametrize(
    "answers",
    [
        [[1]],
        [[1, YES, YES]],
        [{"1": YES}],
        [7],
        [[0, YES]],
        [[2, YES]],
        [[-1, YES]],
        [["1", YES]],
    ],
)
async def test_answers_that_make_no_sense_are_one_arrays_trouble(bank: Bank, answers: list[object]) -> None:
    """What was answered before counts, and the connection goes on."""

    async def script(socket: web.WebSocketResponse) -> None:
        number, _ = await heard(socket)
        await say(socket, number, [0, YES])
        await say(socket, number, *answers)
        await _echo(socket)

    bank.script = script
    async with calling(bank) as participants:
        assert await told([participants.call("bank-a", each) for each in operations(2)]) == ["prepared", "unknown"]
        assert await told([participants.call("bank-a", each) for each in operations(1)]) == ["prepared"]
    assert bank.opened == 1


@pytest.mark.parametrize(
    "message",
    [b"\xc1", msgpack.packb(7), msgpack.packb(["1", []]), msgpack.packb([1]), b"x" * (ANSWER_BYTES_MAX + 1), "text"],
)
async def test_what_is_no_message_ends_the_connection_and_the_next_is_opened(bank: Bank, message: bytes | str) -> None:
    """What was answered before counts; the rest is unknown."""

    async def script(socket: web.WebSocketResponse) -> None:
        if bank.opened > 1:
            await _echo(socket)
        number, _ = await heard(socket)
        await say(socket, number, [0, YES])
        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
        await socket.receive()

    bank.script = script
    async with calling(bank) as participants:
        assert await told([participants.call("bank-a", each) for each in operations(2)]) == ["prepared", "unknown"]
        assert await told([participants.call("bank-a", each) for each in operations(1)]) == ["prepared"]
    assert bank.opened == 2


async def test_an_array_may_be_refused_alone(bank: Bank) -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        number, _ = await heard(socket)
        await socket.send_bytes(msgpack.packb([number, "too many operations"]))
        await _echo(socket)

    bank.script = script
    async with calling(bank) as participants:
        with pytest.raises(CallFailed, match="too many operations") as refused:
            await participants.call("bank-a", operations(1)[0])
        assert refused.value.heard
        assert await told([participants.call("bank-a", each) for each in operations(1)]) == ["prepared"]


async def test_a_lost_connection_leaves_everything_on_it_unknown(bank: Bank) -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await heard(socket)
        await socket.close()

    bank.script = script
    async with calling(bank) as participants:
        assert await told([participants.call("bank-a", each) for each in operations(2)]) == ["unknown"] * 2


async def test_an_array_that_nobody_waits_for_is_given_up(bank: Bank) -> None:
    """Goal: what is never answered holds no place in the lane for ever. Seen red without `_give_up`: the hundred and
    first caller was not sent."""
    asked = 0

    async def script(socket: web.WebSocketResponse) -> None:
        nonlocal asked
        while True:
            await heard(socket)
            asked += 1

    bank.script = script
    async with calling(bank, timeout_s=0.2) as participants:
        async with asyncio.timeout(30):
            while asked < 300:  # more than a lane may have open
                future = participants.call("bank-a", operations(1)[0])
                await asyncio.sleep(0.005)
                future.cancel()


@pytest.mark.parametrize(("status", "is_heard"), [(404, True), (503, False)])
async def test_a_participant_without_the_stream_it_spoke_of_is_asked_again_what_it_can(
    bank: Bank, status: int, is_heard: bool
) -> None:
    """Goal: another version in its place is understood before the document is old. Red without `doubt`."""
    async with calling(bank) as participants:
        bank.document, bank.status = {"name": "bank-a"}, status
        with pytest.raises(CallFailed, match=str(status)) as refused:
            await participants.call("bank-a", operations(1)[0])
        assert refused.value.heard is is_heard
        participants._documents.last("bank-a")
        reading = participants._documents._known["bank-a"].reading
        assert reading is not None
        assert not (await reading).stream


@pytest.mark.filterwarnings("ignore:Client protocols")
async def test_a_stream_of_another_protocol_that_goes_on_talking_is_left(bank: Bank) -> None:
    """Seen red without a limit for the goodbye: nobody could connect any more, also when it had been put right."""

    async def chatter(socket: web.WebSocketResponse) -> None:
        while bank.opened == 1:
            await socket.send_str("tick")
            await asyncio.sleep(0.05)
        await _echo(socket)

    bank.script, bank.protocols = chatter, ()
    async with calling(bank, timeout_s=0.3) as participants, asyncio.timeout(15):
        first = participants.call("bank-a", operations(1)[0])
        await asyncio.sleep(0.1)
        bank.protocols = (STREAM_PROTOCOL,)
        assert await told([first]) == ["unknown"]
        while await told([participants.call("bank-a", operations(1)[0])]) != ["prepared"]:
            pass


@pytest.mark.filterwarnings("ignore:Client protocols")
async def test_a_stream_of_another_protocol_is_none(bank: Bank) -> None:
    """Seen red without the check: what was said in it was taken for answers."""
    bank.protocols = ()
    async with calling(bank) as participants:
        with pytest.raises(CallFailed, match="does not speak") as refused:
            await participants.call("bank-a", operations(1)[0])
        assert refused.value.heard


async def test_a_stream_is_where_the_configuration_says(bank: Bank) -> None:
    """Seen red without the trace: the other server had the operations."""
    async with impostor(Bank()) as other:

        async def elsewhere(_: web.BaseRequest) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(other.url + STREAM_PATH)

        bank.then(elsewhere)
        async with calling(bank) as participants:
            with pytest.raises(CallFailed, match="redirects, with status 307"):
                await participants.call("bank-a", operations(1)[0])
        assert isinstance(other, Bank)
        assert other.opened == 0


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_participant_that_reads_nothing_holds_no_place_for_ever(
    loops: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Seen red without the end of the connection under those who wait for room in its buffer: nothing was sent any
    more, to a participant that had long been back. On uvloop also seen red with the socket that the transport has."""

    async def deaf(bank: Bank, socket: web.WebSocketResponse) -> None:
        if bank.opened > 1:
            await _echo(socket)
        writer: Any = socket._writer
        writer.transport.pause_reading()
        await asyncio.sleep(60)

    async def call() -> None:
        async with impostor(Bank()) as bank, calling(bank, timeout_s=0.4) as participants:
            bank.script = partial(deaf, bank)
            large = [operation._replace(body="x" * 60_000) for operation in operations(128)]
            waiting = [participants.call("bank-a", operation) for operation in large]
            async with asyncio.timeout(20):
                assert "unknown" in await told(waiting)
                while await told([participants.call("bank-a", operations(1)[0])]) != ["prepared"]:
                    pass
            await asyncio.sleep(0)
            made: Any = participants
            assert not made._lanes["bank-a"]._open

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(call())


async def test_the_end_of_one_connection_is_not_that_of_the_next(bank: Bank) -> None:
    """Goal: what is asked over a new connection is not failed while the old one is still being left."""
    first_is_asked, first_may_end = asyncio.Event(), asyncio.Event()

    async def script(socket: web.WebSocketResponse) -> None:
        number, _ = await heard(socket)
        if bank.opened == 1:
            first_is_asked.set()
            await first_may_end.wait()
        else:
            first_may_end.set()
            await asyncio.sleep(0.05)
            await say(socket, number, [0, YES])

    bank.script = script
    async with calling(bank) as participants:
        lost = participants.call("bank-a", operations(1)[0])
        await first_is_asked.wait()
        made: Any = participants
        made._streams["bank-a"]._connection._socket._handle_ping_pong_exception(OSError("no pong"))
        assert await told([participants.call("bank-a", operations(1)[0])]) == ["prepared"]
        assert await told([lost]) == ["unknown"]


async def test_who_has_gone_connects_to_nobody(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a participant that does not answer is not dialled once for each request that waited. Seen red without the
    check, with a dozen attempts one after the other."""
    attempts = 0

    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(60)
        return web.Response()

    monkeypatch.setattr(lane, "PATIENCE_S", 0.001)
    bank.then(silent)
    async with calling(bank, timeout_s=0.2) as participants:
        waiting = []
        for operation in operations(12):
            waiting.append(participants.call("bank-a", operation))
            await asyncio.sleep(0.005)
        for future in waiting[1:]:
            future.cancel()
        assert await told(waiting[:1]) == ["unknown"]
        await asyncio.sleep(0.5)
    assert attempts == 1
