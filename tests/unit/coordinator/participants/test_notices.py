"""Notices over HTTP: signed, sent where it is allowed, and taken only by a 2xx."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from coordinator.client import verify
from coordinator.driver.notices import letter_of
from coordinator.errors import Unverified
from coordinator.ledger.records import BranchRecord, Notice, Path, Phase, TransactionRecord
from coordinator.participants.notices import HttpNotifier
from coordinator.ports import CallFailed, Letter
from coordinator.webhooks import secret_of
from tests.support.impostor import Impostor, impostor

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECONDS = 1_700_000_000.9


@pytest.fixture
async def server() -> AsyncIterator[Impostor]:
    async with impostor() as running:
        yield running


@pytest.fixture
async def notifier(server: Impostor) -> AsyncIterator[HttpNotifier]:
    made = HttpNotifier([f"{server.url}/hooks"], secret_of(SECRET), timeout_s=0.5, wall_s=lambda: SECONDS)
    yield made
    await made.stop()


def letter(url: str) -> Letter:
    branches = (BranchRecord("a", "bank-a", None, b""),)
    record = TransactionRecord("g", b"d", Path.CLASSIC, Phase.COMMITTED, branches, 1_000, 1, 2, notify=url)
    return letter_of(record, Notice.ENDED)


async def test_a_notice_is_a_signed_post_that_its_receiver_can_verify(
    server: Impostor, notifier: HttpNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers: dict[str, str] = {}

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        headers.update(request.headers)
        return web.Response(status=204)

    server.then(take)
    await notifier.send(letter(f"{server.url}/hooks/a%20b?x=1"))
    ((method, path, body),) = server.seen
    assert (method, path, headers["Content-Type"]) == ("POST", "/hooks/a%20b?x=1", "application/json")
    assert headers["webhook-timestamp"] == "1700000000"
    monkeypatch.setattr("time.time_ns", lambda: int(SECONDS * 1e9))
    assert verify(headers, body, SECRET).type == "transaction.ended"
    monkeypatch.undo()
    with pytest.raises(Unverified, match="from now"):
        verify(headers, body, SECRET)


@pytest.mark.parametrize("status", [301, 307, 400, 410, 500])
async def test_whatever_is_no_2xx_has_not_taken_it(server: Impostor, notifier: HttpNotifier, status: int) -> None:
    """A redirect is not followed: it could lead to where nothing may be sent."""
    server.then_json({}, status=status, Location=f"{server.url}/elsewhere")
    with pytest.raises(CallFailed, match=f"{server.url} answered {status}"):
        await notifier.send(letter(f"{server.url}/hooks"))
    assert len(server.seen) == 1


async def test_a_connection_that_breaks_has_not_taken_it(server: Impostor, notifier: HttpNotifier) -> None:
    server.then_hang_up()
    with pytest.raises(CallFailed, match=server.url):
        await notifier.send(letter(f"{server.url}/hooks"))


async def test_what_is_not_allowed_any_more_is_not_sent(server: Impostor, notifier: HttpNotifier) -> None:
    """Goal: what a record of yesterday asks for is held against the configuration of today."""
    server.then_json({})
    with pytest.raises(CallFailed, match=r"notify\.allow"):
        await notifier.send(letter(f"{server.url}/other"))
    assert server.seen == []
    assert notifier.refusal(f"{server.url}/hooks/x") == ""
