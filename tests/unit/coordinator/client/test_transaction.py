"""The interactive style: work first, then all of it or none; what is ambiguous is never committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from random import Random
from typing import Unpack

import msgpack
import pytest
from aiohttp import web

from coordinator.client.asking import Patience
from coordinator.client.outcomes import Aborted, Branch, Committed, Ended, Named
from coordinator.client.policy import Pauses
from coordinator.client.session import Session
from coordinator.client.transaction import InteractiveTransaction
from coordinator.errors import OutcomeUnknown, TransactionAborted, Unavailable, WorkFailed
from coordinator.wire import CommitProtocol
from tests.support.impostor import Impostor, Script, impostor

PATIENCE = Patience(1.0, 1.0, Pauses(0.001, 0.01), Random(1))
WORKING = {"state": "working", "result": {"balance": 90}}
ENLIST = {"Commitd-Enlist": "bank-a;branch=bank-a"}


class Desk:
    """Stands for the coordinator: takes the list of branches, and answers as the test says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Ended | Exception = Committed("g")
        self.lists: list[list[Branch]] = []
        self.named: Named = {}
        self.protocols: list[CommitProtocol] = []

    async def commit(
        self, branches: Iterable[Branch], *, gid: str | None = None, deadline_ms: int = 0, **named: Unpack[Named]
    ) -> Ended:
        self.lists.append(list(branches))
        self.named = named
        self.protocols.append(named.get("protocol", CommitProtocol.TWO_PHASE))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def participant_url(self, name: str) -> str:
        return {"bank-a": self.url}[name]


class Scene:
    def __init__(self, bank: Impostor, session: Session) -> None:
        self.bank = bank
        self.desk = Desk(bank.url)
        self.session = session

    def transaction(self, protocol: CommitProtocol | None = None) -> InteractiveTransaction:
        named: Named = {"key": "order-1"} if protocol is None else {"protocol": protocol}
        return InteractiveTransaction(
            "g", self.desk, self.session, PATIENCE, deadline_ms=1_000, call_timeout_s=1.0, named=named
        )

    @property
    def asked(self) -> list[str]:
        return [path for _, path, _ in self.bank.seen]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with impostor() as bank:
        session = Session()
        yield Scene(bank, session)
        await session.close()


async def test_leaving_the_block_commits_what_enlisted(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)
    async with scene.transaction() as tx:
        assert await tx.call("bank-a", "debit", {"n": 1}) == {"balance": 90}
        await tx.call("bank-a", "debit", {"n": 2})
    assert scene.desk.lists == [[Branch("bank-a", name="bank-a", works=2)]]
    assert scene.desk.named == {"key": "order-1"}
    assert scene.asked == ["/v1/branches/g/bank-a/work"] * 2
    sent = [msgpack.unpackb(body) for _, _, body in scene.bank.seen]
    assert [(form["seq"], form["body"]) for form in sent] == [(0, {"n": 1}), (1, {"n": 2})]


async def test_it_is_committed_in_the_protocol_that_was_asked_for(scene: Scene) -> None:
    for protocol in CommitProtocol:
        scene.bank.then_json(WORKING, **ENLIST)
        async with scene.transaction(protocol) as tx:
            await tx.call("bank-a", "debit", {"n": 1})
    assert scene.desk.protocols == list(CommitProtocol)


async def test_an_exception_rolls_back_and_commits_nothing(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)

    async def interrupted() -> None:
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await interrupted()
    assert scene.desk.lists == []
    assert scene.asked[-1] == "/v1/branches/g/bank-a/abort"


async def test_an_abort_is_raised_on_leaving(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)
    scene.desk.answer = Aborted("g", "insufficient funds", "bank-a")
    with pytest.raises(TransactionAborted) as aborted:
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")
    assert (aborted.value.reason, aborted.value.branch) == ("insufficient funds", "bank-a")


async def test_an_unknown_outcome_rolls_nothing_back(scene: Scene) -> None:
    """Goal: it may have committed; an abort from here would break it apart. Red when `_commit` aborts on it."""
    scene.bank.then_json(WORKING, **ENLIST)
    scene.desk.answer = OutcomeUnknown("g", "/v1/transactions/g", "silence")
    with pytest.raises(OutcomeUnknown):
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")
    assert scene.asked == ["/v1/branches/g/bank-a/work"]


async def test_if_nothing_was_begun_the_branches_are_rolled_back(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)
    scene.desk.answer = Unavailable("nobody there")
    with pytest.raises(Unavailable):
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")
    assert scene.asked[-1] == "/v1/branches/g/bank-a/abort"


async def test_a_refused_action_dooms_the_transaction_even_if_the_error_is_swallowed(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)
    scene.bank.then_json({"state": "aborted", "reason": "insufficient funds"})

    async def careless() -> None:
        async with scene.transaction() as tx:
            await tx.call("bank-a", "credit")
            with pytest.raises(WorkFailed) as failed:
                await tx.call("bank-a", "debit")
            assert failed.value.refused

    with pytest.raises(TransactionAborted, match="insufficient funds"):
        await careless()
    assert scene.desk.lists == []
    assert scene.asked[-1] == "/v1/branches/g/bank-a/abort"


async def test_a_refused_request_names_the_participants_words(scene: Scene) -> None:
    scene.bank.then_json({"detail": "no such action"}, 422, "application/problem+json")
    with pytest.raises(WorkFailed, match="no such action"):
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")


async def test_lost_work_is_repeated_with_the_same_number(scene: Scene) -> None:
    scene.bank.then_hang_up()
    scene.bank.then_json({"state": "unknown", "retry": True, "reason": "busy"})
    scene.bank.then_json({}, 503)
    scene.bank.then_json(WORKING, **ENLIST)
    async with scene.transaction() as tx:
        await tx.call("bank-a", "debit")
    assert {msgpack.unpackb(body)["seq"] for _, _, body in scene.bank.seen} == {0}
    assert len(scene.bank.seen) == 4
    assert scene.desk.lists == [[Branch("bank-a", name="bank-a", works=1)]], "a repeat is no other work"


async def test_work_without_an_answer_is_never_committed(scene: Scene) -> None:
    scene.bank.then_hang_up()
    with pytest.raises(WorkFailed) as failed:
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")
    assert not failed.value.refused
    assert scene.desk.lists == []


async def test_a_cancelled_call_dooms_the_transaction(scene: Scene) -> None:
    async def never(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    scene.bank.then(never)
    scene.bank.then_json(WORKING)

    async def impatient() -> None:
        async with scene.transaction() as tx:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await tx.call("bank-a", "debit")

    with pytest.raises(TransactionAborted, match="cancelled"):
        await impatient()
    assert scene.desk.lists == []


@pytest.mark.parametrize(
    "enlists", [{}, {"Commitd-Enlist": "bank-b;branch=bank-a"}, {"Commitd-Enlist": "bank-a;branch=other"}]
)
async def test_work_that_nobody_would_commit_dooms_the_transaction(scene: Scene, enlists: dict[str, str]) -> None:
    """Goal: what was done is committed or the caller hears that it was not, never left out in silence: a proxy may
    drop the header, and a participant may have another name than the configuration says.
    Red when a branch that did not enlist is merely not listed."""
    scene.bank.then_json(WORKING, **enlists)

    async def left_out() -> None:
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")

    with pytest.raises(WorkFailed, match="did not enlist as bank-a;branch=bank-a"):
        await left_out()
    assert scene.desk.lists == []
    assert scene.asked[-1] == "/v1/branches/g/bank-a/abort"


async def test_leaving_while_a_call_is_under_way_rolls_back(scene: Scene) -> None:
    """Goal: what may still be done is not committed without it. Red when only enlisted branches are looked at."""
    scene.bank.then_json(WORKING, **ENLIST)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        arrived.set()
        await go_on.wait()
        return web.json_response(WORKING, headers=ENLIST)

    async def hasty() -> None:
        async with scene.transaction() as tx:
            await tx.call("bank-a", "debit")
            calls.append(asyncio.ensure_future(tx.call("bank-a", "debit")))
            await arrived.wait()

    calls: list[asyncio.Future[object]] = []
    scene.bank.then(slow)
    scene.bank.then_json({"state": "aborted"})
    with pytest.raises(TransactionAborted, match="under way"):
        await hasty()
    assert scene.desk.lists == []
    go_on.set()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_work_after_the_end_is_refused(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)
    async with scene.transaction() as tx:
        await tx.call("bank-a", "debit")
    with pytest.raises(RuntimeError, match="has ended"):
        await tx.call("bank-a", "debit")
    assert len(scene.asked) == 1


async def test_an_unknown_participant_is_refused_by_name(scene: Scene) -> None:
    with pytest.raises(KeyError):
        async with scene.transaction() as tx:
            await tx.call("nobody", "debit")


# Requests to endpoints of the service's own ---------------------------------------------------------------------


def endpoint(seen: list[web.BaseRequest], body: str = '{"balance": 90}', status: int = 201) -> Script:
    """One that takes part, and keeps what it was asked."""

    async def script(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        return web.Response(text=body, status=status, content_type="application/json", headers=ENLIST)

    return script


async def test_a_request_to_an_endpoint_is_a_work_like_a_call(scene: Scene) -> None:
    """Goal: one branch, one row of numbers, whichever way; `url` may be whole, or a path at the same place."""
    seen: list[web.BaseRequest] = []
    scene.bank.then(endpoint(seen))
    scene.bank.then_json(WORKING, **ENLIST)
    scene.bank.then(endpoint(seen))
    async with scene.transaction() as tx:
        assert await tx.request("bank-a", "PUT", "/debit?dry=no", json={"n": 1}) == {"balance": 90}
        await tx.call("bank-a", "debit")
        await tx.request("bank-a", "GET", f"{scene.bank.url}/debit")
    assert scene.asked == ["/debit?dry=no", "/v1/branches/g/bank-a/work", "/debit"]
    assert [body for _, _, body in scene.bank.seen][::2] == [b'{"n": 1}', b""]
    assert [request.headers["Commitd-Work"] for request in seen] == ["g;branch=bank-a;seq=0", "g;branch=bank-a;seq=2"]
    assert seen[0].content_type == seen[0].headers["Accept"] == "application/json"
    assert scene.desk.lists == [[Branch("bank-a", name="bank-a", works=3)]]


async def test_a_path_is_where_the_participant_is_not_below_its_mount(scene: Scene) -> None:
    scene.desk.url += "/commitd"
    scene.bank.then(endpoint([]))
    async with scene.transaction() as tx:
        await tx.request("bank-a", "POST", "/debit")
    assert scene.asked == ["/debit"]


async def test_a_response_may_be_empty(scene: Scene) -> None:
    scene.bank.then(endpoint([], "", 204))
    async with scene.transaction() as tx:
        assert await tx.request("bank-a", "DELETE", "/debit") is None


async def test_a_lost_response_is_asked_for_again_under_the_same_number(scene: Scene) -> None:
    seen: list[web.BaseRequest] = []
    scene.bank.then_hang_up()
    scene.bank.then_json({"detail": "come again"}, 503, "application/problem+json")
    scene.bank.then(endpoint(seen))
    async with scene.transaction() as tx:
        await tx.request("bank-a", "POST", "/debit")
    assert [request.headers["Commitd-Work"] for request in seen] == ["g;branch=bank-a;seq=0"]
    assert len(scene.asked) == 3


@pytest.mark.parametrize(
    ("body", "status", "enlists", "why"),
    [
        ('{"detail": "only 90 left"}', 409, True, "only 90 left"),
        ('{"detail": [{"loc": ["body"]}]}', 422, False, "'loc': \\['body'\\]"),
        ("gone", 404, False, "status 404"),
        ("{}", 307, False, "status 307"),
        ("{}", 200, False, "did not enlist"),
        ("<p>", 200, True, "the response is no JSON"),
    ],
)
async def test_what_an_endpoint_refuses_dooms_the_transaction(
    scene: Scene, body: str, status: int, enlists: bool, why: str
) -> None:
    """Goal: so does a response of an endpoint that takes no part, and one that cannot be understood."""

    async def script(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            text=body, status=status, content_type="application/json", headers=ENLIST if enlists else {}
        )

    scene.bank.then(script)

    async def careless() -> None:
        async with scene.transaction() as tx:
            with pytest.raises(WorkFailed, match=why) as failed:
                await tx.request("bank-a", "POST", "/debit")
            assert failed.value.refused

    with pytest.raises(TransactionAborted):
        await careless()
    assert scene.desk.lists == []
    assert scene.asked[-1] == "/v1/branches/g/bank-a/abort"


async def test_an_endpoint_that_never_answers_well_is_given_up(scene: Scene) -> None:
    scene.bank.then_json({"detail": "a defect"}, 500)
    with pytest.raises(WorkFailed, match="bank-a answered 500: a defect") as failed:
        async with scene.transaction() as tx:
            await tx.request("bank-a", "POST", "/debit")
    assert not failed.value.refused


async def test_the_reason_is_what_was_answered_and_not_the_attempt_that_our_own_limit_ends(scene: Scene) -> None:
    """Seen red with the last reason: "did not answer within 0.0 s" tells nobody of the defect."""

    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    scene.bank.then_json({"detail": "a defect"}, 500)
    scene.bank.then(silent)
    scene.bank.then_json({"state": "aborted"})
    with pytest.raises(WorkFailed, match="bank-a answered 500: a defect"):
        async with scene.transaction() as tx:
            await tx.request("bank-a", "POST", "/debit")


async def test_what_is_no_json_is_refused_before_it_counts(scene: Scene) -> None:
    scene.bank.then_json(WORKING, **ENLIST)
    async with scene.transaction() as tx:
        with pytest.raises(ValueError, match="Out of range"):
            await tx.request("bank-a", "POST", "/debit", json=float("nan"))
        await tx.call("bank-a", "debit")
    assert scene.desk.lists == [[Branch("bank-a", name="bank-a", works=1)]]
