"""Over HTTP an answer is an answer, and everything else is `CallFailed`: unknown, and nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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


@pytest.fixture
async def bank() -> AsyncIterator[Impostor]:
    async with impostor() as running:
        yield running


@pytest.fixture
async def participants(bank: Impostor) -> AsyncIterator[HttpParticipants]:
    made = HttpParticipants({"bank-a": bank.url, "gone": "http://127.0.0.1:1"}, timeout_s=0.3, refresh_s=60.0)
    await made.start()
    yield made
    await made.stop()


def says(bank: Impostor, data: bytes, status: int = 200, content_type: str = "application/msgpack") -> None:
    async def script(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=data, status=status, content_type=content_type)

    bank.then(script)


def says_map(bank: Impostor, **form: object) -> None:
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
    bank: Impostor, participants: HttpParticipants, operation: Operation, method: str, form: object
) -> None:
    says_map(bank, state="prepared")
    assert await participants.call("bank-a", operation) == Answer(BranchState.PREPARED)
    asked, path, body = bank.seen[0]
    assert (asked, path) == (method, f"/v1/branches/g/b1/{operation.verb.value}")
    assert (msgpack.unpackb(body) if body else None) == form


async def test_an_answer_comes_back_whole(bank: Impostor, participants: HttpParticipants) -> None:
    says_map(bank, state="aborted", reason="no money", retry=True, result=1, from_the_future=2)
    assert await participants.call("bank-a", PREPARE) == Answer(BranchState.ABORTED, "no money", 1, True)


@pytest.mark.parametrize(
    ("data", "status", "content_type"),
    [
        (msgpack.packb({"state": "prepared"}), 500, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}), 404, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}), 307, "application/msgpack"),
        (msgpack.packb({"state": "prepared"}), 200, "text/html"),
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
    bank: Impostor, participants: HttpParticipants, data: bytes, status: int, content_type: str
) -> None:
    """Goal: a 404 of a proxy, or a page of a captive portal, is neither a yes nor a no."""
    says(bank, data, status, content_type)
    with pytest.raises(CallFailed):
        await participants.call("bank-a", PREPARE)


async def test_an_answer_without_end_is_cut_off(bank: Impostor, participants: HttpParticipants) -> None:
    says_map(bank, state="prepared", result=b"x" * ANSWER_BYTES_MAX)
    with pytest.raises(CallFailed, match="more than"):
        await participants.call("bank-a", PREPARE)


async def test_silence_a_cut_and_nobody_there_are_unknown(bank: Impostor, participants: HttpParticipants) -> None:
    silent = asyncio.Event()

    async def wait(_: web.BaseRequest) -> web.StreamResponse:
        await silent.wait()
        return web.Response()

    bank.then(wait)
    with pytest.raises(CallFailed, match=r"did not answer within 0\.3 s"):
        await participants.call("bank-a", PREPARE)
    silent.set()
    bank.scripts.clear()
    bank.then_hang_up()
    for name in ("bank-a", "gone", "nobody"):
        with pytest.raises(CallFailed):
            await participants.call(name, PREPARE)


async def test_nobody_is_called_who_is_not_configured(participants: HttpParticipants) -> None:
    assert participants.known("bank-a")
    assert not participants.known("http://127.0.0.1:1")


async def test_capabilities_are_read_once_and_kept(bank: Impostor, participants: HttpParticipants) -> None:
    says_map(bank, name="bank-a", version=1, one_phase=False, operations_max=8, actions=["debit"], later=1)
    known = await participants.capabilities("bank-a")
    assert known == Capabilities("bank-a", one_phase=False, operations_max=8, actions=("debit",))
    assert await participants.capabilities("bank-a") == known
    assert [path for _, path, _ in bank.seen] == ["/v1/capabilities"]


async def test_old_capabilities_serve_until_new_ones_are_there(bank: Impostor) -> None:
    """Goal: no transaction waits for a document that is merely old."""
    participants = HttpParticipants({"bank-a": bank.url}, refresh_s=0.0)
    await participants.start()
    says_map(bank, name="bank-a", one_phase=False)
    says_map(bank, name="bank-a", one_phase=True)
    await participants.capabilities("bank-a")
    assert not (await participants.capabilities("bank-a")).one_phase
    await participants._refresh("bank-a")
    assert (await participants.capabilities("bank-a")).one_phase
    await participants.stop()


async def test_many_who_want_the_same_document_read_it_once(bank: Impostor, participants: HttpParticipants) -> None:
    says_map(bank, name="bank-a")
    await asyncio.gather(*(participants.capabilities("bank-a") for _ in range(10)))
    assert len(bank.seen) == 1


@pytest.mark.parametrize("form", [{}, {"name": 1}, {"name": "bank-a", "version": 2}])
async def test_a_document_that_we_cannot_read_is_unknown(
    bank: Impostor, participants: HttpParticipants, form: dict[str, object]
) -> None:
    says_map(bank, **form)
    with pytest.raises(CallFailed):
        await participants.capabilities("bank-a")
