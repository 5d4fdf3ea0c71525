"""Over HTTP an answer is an answer, and everything else is `CallFailed`: unknown, and nothing more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgpack
import pytest
from aiohttp import web

from coordinator.participants.http import ANSWER_BYTES_MAX, HttpParticipants
from coordinator.ports import CallFailed
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb
from tests.support.impostor import Impostor, impostor

KEY = BranchKey("g", "b1")
PREPARE = Operation(Verb.PREPARE, KEY, "debit", {"n": 1})
YES = {"state": "prepared"}


class Bank(Impostor):
    """Has capabilities, and says whatever the test wants to everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.document: dict[str, object] = {"name": "bank-a", "arrays": False}
        self.documents_read = 0
        self.in_json = False

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/capabilities":
            self.documents_read += 1
            if self.in_json:
                return web.json_response(self.document)
            return web.Response(body=msgpack.packb(self.document), content_type="application/msgpack")
        return await super().answer(request)


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    made = Bank()
    async with impostor(made):
        yield made


@asynccontextmanager
async def calling(bank: Bank, timeout_s: float) -> AsyncIterator[HttpParticipants]:
    made = HttpParticipants({"bank-a": bank.url, "gone": "http://127.0.0.1:1"}, timeout_s=timeout_s, refresh_s=60.0)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def participants(bank: Bank) -> AsyncIterator[HttpParticipants]:
    async with calling(bank, timeout_s=5.0) as made:
        yield made


def says(bank: Bank, data: bytes, status: int = 200, content_type: str = "application/msgpack") -> None:
    async def script(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=data, status=status, content_type=content_type)

    bank.then(script)


def says_map(bank: Bank, **form: object) -> None:
    says(bank, msgpack.packb(form))


@pytest.mark.parametrize(
    ("operation", "method", "form"),
    [
        (PREPARE, "POST", {"action": "debit", "body": {"n": 1}}),
        (Operation(Verb.PREPARE, KEY), "POST", {}),
        (Operation(Verb.COMMIT, KEY, "a", b"\x00", True), "POST", {"action": "a", "body": b"\x00", "one_phase": True}),
        (Operation(Verb.COMMIT, KEY), "POST", {}),
        (Operation(Verb.ABORT, KEY), "POST", {}),
        (Operation(Verb.PREVENT, KEY), "POST", {}),
        (Operation(Verb.OUTCOME, KEY), "GET", None),
    ],
)  # fmt: skip
async def test_an_operation_travels_as_the_contract_says(
    bank: Bank, participants: HttpParticipants, operation: Operation, method: str, form: object
) -> None:
    says_map(bank, state="prepared")
    assert await participants.call("bank-a", operation) == Answer(BranchState.PREPARED)
    asked, path, body = bank.seen[0]
    assert (asked, path) == (method, f"/v1/branches/g/b1/{operation.verb.value}")
    assert (msgpack.unpackb(body) if body else None) == form


@pytest.mark.parametrize("in_json", [False, True])
async def test_alone_an_operation_names_its_trace_in_the_headers(
    bank: Bank, participants: HttpParticipants, in_json: bool
) -> None:
    """Goal: who knows nothing of it ignores it; and a field could be refused. Red with the field in the body."""
    bank.in_json = in_json
    await participants.capabilities("bank-a")
    headers = []

    async def yes(request: web.BaseRequest) -> web.StreamResponse:
        headers.append((request.headers.get("traceparent"), request.headers.get("tracestate")))
        return web.json_response({"state": "prepared"})

    bank.then(yes, times=2)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await participants.call("bank-a", PREPARE._replace(trace=f"{trace} a=1"))
    await participants.call("bank-a", PREPARE)
    assert headers == [(trace, "a=1"), (None, None)]
    assert b"trace" not in bank.seen[0][2]


async def test_an_answer_comes_back_whole(bank: Bank, participants: HttpParticipants) -> None:
    says_map(bank, state="aborted", reason="no money", retry=True, result=1, from_the_future=2)
    assert await participants.call("bank-a", PREPARE) == Answer(BranchState.ABORTED, "no money", 1, True)


@pytest.mark.parametrize(
    ("data", "status", "content_type"),
    [
        (msgpack.packb({"state": "prepared"}), 500, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}), 404, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}), 307, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}), 200, "text/html"),
        (msgpack.packb({"state": "prepared"}), 200, "application/json"),
        (b"[" * 100_000, 200, "application/json"),
        (msgpack.packb({"state": "ready"}), 200, "application/msgpack"),
        (msgpack.packb({"state": "prepared", "retry": "yes"}), 200, "application/msgpack"),
        (msgpack.packb({}), 200, "application/msgpack"),
        (msgpack.packb(["prepared"]), 200, "application/msgpack"),
        (b"", 200, "application/msgpack"),
        (b"\xc1", 200, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}) * 2, 200, "application/msgpack"),
    ],
)
async def test_what_is_not_an_answer_is_unknown(
    bank: Bank, participants: HttpParticipants, data: bytes, status: int, content_type: str
) -> None:
    """Goal: a 404 of a proxy, or a page of a captive portal, is neither a yes nor a no."""
    says(bank, data, status, content_type)
    with pytest.raises(CallFailed):
        await participants.call("bank-a", PREPARE)


async def test_who_knows_no_msgpack_is_asked_in_json(bank: Bank, participants: HttpParticipants) -> None:
    """Goal: a participant in a language without a msgpack of its own takes part. Seen red: it answered 415."""
    bank.in_json = True
    bank.document |= {"arrays": True, "stream": True, "prevent": True}
    document = await participants.capabilities("bank-a")
    assert document == Capabilities(
        "bank-a", arrays=False, stream=False, prevent=True, one_phase=False, read_only=False, trace=False
    )

    async def yes(request: web.BaseRequest) -> web.StreamResponse:
        assert (request.content_type, request.headers["Accept"]) == ("application/json", "application/json")
        return web.json_response(YES)

    bank.then(yes)
    assert await participants.call("bank-a", PREPARE) == Answer(BranchState.PREPARED)
    assert json.loads(bank.seen[-1][2]) == {"action": "debit", "body": {"n": 1}}
    with pytest.raises(CallFailed, match="bytes in the body") as failed:
        await participants.call("bank-a", PREPARE._replace(body=b"\x00"))
    assert failed.value.heard


async def test_an_answer_without_end_is_cut_off(bank: Bank, participants: HttpParticipants) -> None:
    says_map(bank, state="prepared", result=b"x" * ANSWER_BYTES_MAX)
    with pytest.raises(CallFailed, match="more than"):
        await participants.call("bank-a", PREPARE)


async def test_silence_a_cut_and_nobody_there_are_unknown(bank: Bank, participants: HttpParticipants) -> None:
    silent = asyncio.Event()

    async def wait(_: web.BaseRequest) -> web.StreamResponse:
        await silent.wait()
        return web.Response()

    bank.then(wait)
    async with calling(bank, timeout_s=0.3) as impatient:
        with pytest.raises(CallFailed, match=r"did not answer within 0\.3 s"):
            await impatient.call("bank-a", PREPARE)
    silent.set()
    bank.scripts.clear()
    bank.then_hang_up()
    for name in ("bank-a", "gone", "nobody"):
        with pytest.raises(CallFailed):
            await participants.call(name, PREPARE)


async def test_nobody_is_called_who_is_not_configured(participants: HttpParticipants) -> None:
    assert participants.known("bank-a")
    assert not participants.known("http://127.0.0.1:1")


# Arrays -------------------------------------------------------------------------------------------------------------


def operations(count: int) -> list[Operation]:
    return [Operation(Verb.PREPARE, BranchKey(f"g{i}", "b1"), "debit", {"n": i}) for i in range(count)]


@pytest.fixture
async def arrays(bank: Bank, participants: HttpParticipants) -> HttpParticipants:
    """Participants, of which bank-a is known to take arrays."""
    bank.document["arrays"] = True
    await participants.capabilities("bank-a")
    return participants


async def told(futures: list[asyncio.Future[Answer]]) -> list[str]:
    """What came of each."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, Answer | CallFailed) for result in results)
    return [result.state.value if isinstance(result, Answer) else "unknown" for result in results]


async def test_what_is_ready_together_travels_as_an_array(bank: Bank, arrays: HttpParticipants) -> None:
    says_map(bank, answers=[YES, YES, {"state": "aborted", "reason": "no money"}])
    asked = operations(3)
    assert await told([arrays.call("bank-a", each) for each in asked]) == ["prepared", "prepared", "aborted"]
    assert [(method, path) for method, path, _ in bank.seen] == [("POST", "/v1/branches")]
    assert msgpack.unpackb(bank.seen[0][2]) == {"operations": [each.to_map() for each in asked]}


async def test_a_request_that_nobody_waits_for_is_ended(bank: Bank, arrays: HttpParticipants) -> None:
    """Goal: a participant that goes on talking holds no connection for ever. Red without `is_wanted`."""
    gone = asyncio.Event()

    async def script(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/msgpack"})
        await response.prepare(request)
        await response.write(b"\xc6\x00\x0f\xff\x00")  # the beginning of a million bytes
        try:
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.001)
        except ConnectionError:
            gone.set()
        return response

    bank.then(script)
    future = arrays.call("bank-a", PREPARE)
    await asyncio.sleep(0)
    future.cancel()
    async with asyncio.timeout(5):
        await gone.wait()


@pytest.mark.parametrize(
    ("form", "status", "content_type"),
    [
        ({"answers": [YES]}, 200, "application/msgpack"),
        ({"answers": [YES] * 3}, 200, "application/msgpack"),
        ({"answers": {"0": YES, "1": YES}}, 200, "application/msgpack"),
        ([YES, YES], 200, "application/msgpack"),
        ({"answers": [YES, YES]}, 500, "application/msgpack"),
        ({"answers": [YES, YES]}, 200, "text/html"),
    ],
)
async def test_what_is_not_an_answer_to_an_array_is_unknown(
    bank: Bank, arrays: HttpParticipants, form: object, status: int, content_type: str
) -> None:
    says(bank, msgpack.packb(form), status, content_type)
    assert await told([arrays.call("bank-a", each) for each in operations(2)]) == ["unknown"] * 2


async def test_one_answer_that_cannot_be_read_is_one_operations_trouble(bank: Bank, arrays: HttpParticipants) -> None:
    says_map(bank, answers=[YES, {"state": "perhaps"}, YES])
    assert await told([arrays.call("bank-a", each) for each in operations(3)]) == ["prepared", "unknown", "prepared"]


async def test_a_connection_serves_many_arrays(bank: Bank, arrays: HttpParticipants) -> None:
    """Red if a response is not read to its end: each array had a connection of its own."""
    peers = set()

    async def script(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=msgpack.packb({"answers": [YES]}), content_type="application/msgpack")

    bank.then(script)
    for _ in range(5):
        await arrays.call("bank-a", PREPARE)
    assert len(peers) == 1


async def test_a_participant_that_refuses_arrays_is_asked_again_what_it_can(
    bank: Bank, arrays: HttpParticipants
) -> None:
    """Goal: another version in its place is understood before the document is old. Red without `doubt`."""
    bank.document["arrays"] = False
    says(bank, b"", 404)
    assert await told([arrays.call("bank-a", PREPARE)]) == ["unknown"]
    bank.scripts.clear()
    says_map(bank, state="prepared")
    reads = bank.documents_read
    assert (await arrays.capabilities("bank-a")).arrays, "nobody waits for the new one"
    reading = arrays._documents._known["bank-a"].reading
    assert reading is not None
    assert not (await reading).arrays
    assert bank.documents_read == reads + 1
    assert (await arrays.call("bank-a", PREPARE)).state is BranchState.PREPARED
    assert bank.seen[-1][1] == "/v1/branches/g/b1/prepare"


# Capabilities -------------------------------------------------------------------------------------------------------


async def test_a_document_is_read_whole(bank: Bank, participants: HttpParticipants) -> None:
    bank.document = {
        "name": "bank-a",
        "version": 1,
        "prevent": True,
        "one_phase": False,
        "read_only": True,
        "arrays": True,
        "stream": True,
        "operations_max": 8,
        "actions": ["debit"],
        "later": 1,
    }
    known = await participants.capabilities("bank-a")
    assert known == Capabilities("bank-a", one_phase=False, trace=False, operations_max=8, actions=("debit",))


async def test_what_a_document_does_not_say_the_participant_cannot(bank: Bank, participants: HttpParticipants) -> None:
    """Goal: no transaction is put on a path that a participant knows nothing of. Red with the defaults of ours."""
    bank.document = {"name": "bank-a", "prevent": 1}
    none = dict.fromkeys(("prevent", "one_phase", "read_only", "arrays", "stream", "trace"), False)
    incapable = Capabilities("bank-a", **none)
    assert await participants.capabilities("bank-a") == incapable


@pytest.mark.parametrize("form", [{}, {"name": 1}, {"name": "bank-a", "version": 2}])
async def test_a_document_that_we_cannot_read_is_unknown(
    bank: Bank, participants: HttpParticipants, form: dict[str, object]
) -> None:
    bank.document = form
    with pytest.raises(CallFailed):
        await participants.capabilities("bank-a")
