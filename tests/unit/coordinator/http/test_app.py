"""The HTTP API of a served cluster: answers, problem documents, redirects, limits, encodings."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import aiohttp
import msgpack
import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.service import Transactions
from coordinator.http.app import build_app, serving
from coordinator.http.context import Context
from coordinator.http.endpoints import ENDPOINTS
from coordinator.wire import BODY_BYTES_MAX, LEADER_HEADER, REQUEST_BYTES_MAX, Problem
from participant.ids import BranchKey
from participant.wire import Verb
from tests.support.cluster import Cluster, cluster

BRANCHES = [
    {"participant": "bank-a", "action": "debit", "body": {"n": 1}},
    {"participant": "bank-b", "action": "credit", "body": {"n": 1}},
]


class Api:
    """Requests to a served cluster; redirects are not followed unless asked for."""

    def __init__(self, made: Cluster, session: aiohttp.ClientSession) -> None:
        self.cluster = made
        self.session = session

    async def ask(
        self, method: str, path: str, *, at: str = "n1", follow: bool = False, **fields: Any
    ) -> tuple[int, dict[str, Any], Any]:
        """Status, decoded body, headers."""
        url = self.cluster.urls[at] + path
        async with self.session.request(method, url, allow_redirects=follow, **fields) as response:
            data = await response.read()
            decoded = msgpack.unpackb(data) if response.content_type == "application/msgpack" else data
            return (
                response.status,
                json.loads(decoded) if isinstance(decoded, bytes) and decoded else decoded,
                response.headers,
            )

    async def begin(self, gid: str, branches: Any = BRANCHES, **fields: Any) -> tuple[int, dict[str, Any], Any]:
        return await self.ask("POST", "/v1/transactions", json={"gid": gid, "branches": branches}, **fields)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with cluster(serve=True) as made, aiohttp.ClientSession() as session:
        yield Api(made, session)


def check_problem(answer: tuple[int, dict[str, Any], Any], status: int, code: str, *fields: str) -> dict[str, Any]:
    """The answer is a problem document (RFC 9457) of this kind, naming these fields."""
    got, body, headers = answer
    assert (got, body["code"]) == (status, code), body
    assert headers["Content-Type"].startswith("application/problem+json")
    problem = Problem.model_validate(body)
    assert (problem.status, problem.type) == (status, f"urn:commitd:problem:{code}")
    assert problem.request_id == headers["X-Request-Id"]
    assert [wrong.field for wrong in problem.errors] == list(fields)
    return body


async def test_a_transaction_commits_and_is_shown_by_every_replica(api: Api) -> None:
    assert (await api.begin("g"))[:2] == (
        200,
        {"gid": "g", "outcome": "committed", "reason": None, "branch": None, "handle": None},
    )
    for name in api.cluster.urls:
        status, shown, _ = await api.ask("GET", "/v1/transactions/g", at=name)
        assert (status, shown["outcome"], shown["decided_by"]) == (200, "committed", "votes")
        assert (await api.ask("GET", "/v1/transactions/g/outcome", at=name))[1]["outcome"] == "committed"


async def test_an_abort_is_an_answer_with_reason_and_branch(api: Api) -> None:
    api.cluster.clerks["bank-b"].refuse("insufficient funds")
    status, body, _ = await api.begin("g")
    assert (status, body["outcome"], body["reason"], body["branch"]) == (200, "aborted", "insufficient funds", "b2")


async def test_what_is_not_decided_in_time_is_202_with_a_handle_that_answers_later(api: Api) -> None:
    api.cluster.clerks["bank-b"].hold(Verb.PREPARE)
    status, body, _ = await api.ask("POST", "/v1/transactions?wait_ms=0", json={"gid": "g", "branches": BRANCHES})
    assert (status, body["outcome"], body["handle"]) == (202, "deciding", "/v1/transactions/g")
    await api.cluster.clerks["bank-b"].arrived(Verb.PREPARE)
    waiting = asyncio.ensure_future(api.ask("GET", f"{body['handle']}/outcome?wait_ms=5000", at="n2"))
    api.cluster.clerks["bank-b"].release(Verb.PREPARE)
    assert (await waiting)[1]["outcome"] == "committed"


async def test_a_gid_is_made_for_whoever_brings_none(api: Api) -> None:
    _, body, _ = await api.ask("POST", "/v1/transactions", json={"branches": BRANCHES})
    assert len(body["gid"]) == 36


async def test_the_same_gid_again_is_the_same_answer_and_with_another_body_a_409(api: Api) -> None:
    first = await api.begin("g")
    assert (await api.begin("g"))[1] == first[1]
    check_problem(await api.begin("g", BRANCHES[:1]), 409, "gid-reused")


async def test_msgpack_goes_in_and_comes_out(api: Api) -> None:
    headers = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
    body = {"gid": "g", "branches": [BRANCHES[0] | {"body": b"\x00\xff"}, BRANCHES[1]]}
    status, answer, got = await api.ask("POST", "/v1/transactions", data=msgpack.packb(body), headers=headers)
    assert (status, answer["outcome"], got["Content-Type"]) == (200, "committed", "application/msgpack")
    assert b"\x00\xff" in [sent for _, sent in api.cluster.clerks["bank-a"].bodies.values()]


async def test_a_follower_points_at_the_leader_and_the_path_stays(api: Api) -> None:
    status, _, headers = await api.begin("g", at="n2")
    assert (status, headers[LEADER_HEADER]) == (307, "n1")
    assert headers["Location"] == api.cluster.urls["n1"] + "/v1/transactions"
    query = await api.ask("POST", "/v1/transactions?wait_ms=7", at="n3", json={"branches": BRANCHES})
    assert query[2]["Location"].endswith("/v1/transactions?wait_ms=7")
    assert (await api.begin("g", at="n2", follow=True))[1]["outcome"] == "committed"


async def test_without_a_leader_writes_and_reads_are_503_and_say_when_to_come_again(api: Api) -> None:
    await api.cluster.crash("n1")
    for answer in (await api.begin("g", at="n2"), await api.ask("GET", "/v1/transactions/g", at="n3")):
        assert check_problem(answer, 503, "no-leader")["retry_safe"] is True
        assert answer[2]["Retry-After"] == "1"


async def test_a_limit_in_flight_is_503_by_name() -> None:
    async with cluster(serve=True, admission=Admission(in_flight_max=1)) as made, aiohttp.ClientSession() as session:
        api = Api(made, session)
        made.clerks["bank-a"].hold(Verb.PREPARE)
        await api.ask("POST", "/v1/transactions?wait_ms=0", json={"branches": BRANCHES})
        answer = await api.begin("g")
        assert "in_flight_max" in check_problem(answer, 503, "overloaded")["detail"]
        assert answer[2]["Retry-After"] == "1"
        made.clerks["bank-a"].release(Verb.PREPARE)


@pytest.mark.parametrize(
    ("branches", "field"),
    [
        ([{"participant": "http://evil.example"}], "branches.0.participant"),
        ([{"participant": "nobody"}], "branches.0.participant"),
        ([BRANCHES[0] | {"branch": "x"}, BRANCHES[1] | {"branch": "x"}], "branches.1.branch"),
        ([BRANCHES[0] | {"body": "x" * BODY_BYTES_MAX}], "branches.0.body"),
        ([BRANCHES[0] | {"body": 2**70}], "branches.0.body"),
        ([BRANCHES[0]] * 65, "branches"),
        ("all of them", "branches"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, branches: Any, field: str) -> None:
    check_problem(await api.begin("g", branches), 422, "invalid", field)
    assert len(api.cluster.replicas["n1"].ledger) == 0


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/transactions?limit=0", "limit"),
        ("/v1/transactions?limit=x", "limit"),
        ("/v1/transactions?cursor=x", "cursor"),
        ("/v1/transactions?phase=asleep", "phase.0"),
        ("/v1/transactions?participant=", "participant"),
        ("/v1/transactions?color=red", "color"),
        ("/v1/transactions?limit=1&limit=2", "limit"),
        ("/v1/transactions/g/outcome?wait_ms=30001", "wait_ms"),
        ("/v1/transactions/-g", "gid"),
        ("/v1/transactions/a%2Fb", "gid"),
    ],
)
async def test_a_wrong_parameter_is_named(api: Api, path: str, field: str) -> None:
    check_problem(await api.ask("GET", path), 422, "invalid", field)


async def test_bytes_that_cannot_be_decoded_are_400_and_unknown_types_415(api: Api) -> None:
    json_type, msgpack_type = ({"Content-Type": f"application/{kind}"} for kind in ("json", "msgpack"))
    for data, headers in ((b"{", json_type), (b"\xff", json_type), (b"", json_type), (b"\xc1", msgpack_type)):
        check_problem(await api.ask("POST", "/v1/transactions", data=data, headers=headers), 400, "malformed")
    text = await api.ask("POST", "/v1/transactions", data=b"{}", headers={"Content-Type": "text/plain"})
    check_problem(text, 415, "unsupported-media")


async def test_a_request_past_its_limit_is_413(api: Api) -> None:
    headers = {"Content-Type": "application/json", "Expect": "100-continue"}
    data = io.BytesIO(b" " * (REQUEST_BYTES_MAX + 1))
    check_problem(await api.ask("POST", "/v1/transactions", data=data, headers=headers), 413, "too-large")


async def test_unknown_things_are_404_and_unknown_methods_405(api: Api) -> None:
    check_problem(await api.ask("GET", "/v1/transactions/g"), 404, "not-found")
    check_problem(await api.ask("GET", "/v1/transactions/g/outcome?wait_ms=5000"), 404, "not-found")
    check_problem(await api.ask("GET", "/v2/transactions"), 404, "not-found")
    check_problem(await api.ask("DELETE", "/v1/transactions/g"), 405, "method-not-allowed")


async def test_a_participant_in_doubt_hears_from_any_replica_and_an_unknown_gid_is_aborted(api: Api) -> None:
    await api.begin("g")
    inquiry = {"participant": "bank-a", "branch": "b1"}
    assert (await api.ask("POST", "/v1/transactions/g/outcome", at="n3", json=inquiry))[1]["outcome"] == "committed"
    told = await api.ask("POST", "/v1/transactions/unheard-of/outcome", at="n3", follow=True, json=inquiry)
    assert (told[0], told[1]["outcome"]) == (200, "aborted")
    stray = await api.ask("POST", "/v1/transactions/g/outcome", json=inquiry | {"branch": "stray"})
    assert (stray[1]["outcome"], stray[1]["reason"]) == ("aborted", "stray is no branch of g")
    wrong = await api.ask("POST", "/v1/transactions/g/outcome", json=inquiry | {"participant": "bank-b"})
    check_problem(wrong, 409, "contradiction")


async def test_an_operator_resolves_and_what_contradicts_is_409(api: Api) -> None:
    api.cluster.clerks["bank-a"].prevent = False  # on the classic path an operator may abort
    api.cluster.clerks["bank-a"].hold(Verb.PREPARE)
    await api.ask("POST", "/v1/transactions?wait_ms=0", json={"gid": "g", "branches": BRANCHES})
    await api.cluster.clerks["bank-a"].arrived(Verb.PREPARE)
    await api.cluster.replicas["n1"].log.barrier()
    resolution = {"decision": "abort", "operator": "ada", "reason": "stuck"}
    status, shown, _ = await api.ask("POST", "/v1/transactions/g/resolve", json=resolution)
    assert (status, shown["decided_by"], shown["reason"]) == (200, "operator ada", "stuck")
    contrary = await api.ask("POST", "/v1/transactions/g/resolve", json=resolution | {"decision": "commit"})
    check_problem(contrary, 409, "contradiction")
    check_problem(await api.ask("POST", "/v1/transactions/x/resolve", json=resolution), 404, "not-found")
    api.cluster.clerks["bank-a"].release(Verb.PREPARE)


@pytest.mark.parametrize("names", [["bank-a"], ["bank-a", "bank-b"]])
async def test_the_number_of_works_reaches_the_vote_and_belongs_to_the_transaction(api: Api, names: list[str]) -> None:
    """Red when intake, the command, the record or the driver drops it, on whichever path."""
    branches = [{"branch": name, "participant": name, "works": 2 + number} for number, name in enumerate(names)]
    await api.begin("g", branches)
    heard = [api.cluster.clerks[name].works[BranchKey("g", name)] for name in names]
    assert heard == [2, 3][: len(names)]
    less = [{**branches[0], "works": 1}, *branches[1:]]
    refused = await api.ask("POST", "/v1/transactions", json={"gid": "g", "branches": less})
    check_problem(refused, 409, "gid-reused")


async def test_pages_hold_every_transaction_once_newest_first_and_filters_select(api: Api) -> None:
    for number in range(5):
        await api.begin(f"g{number}", BRANCHES[: 1 + number % 2])
        api.cluster.now_ms += 1
    gids: list[str] = []
    cursor = ""
    while True:
        _, page, _ = await api.ask("GET", f"/v1/transactions?limit=2{cursor}", at="n2")
        gids += [shown["gid"] for shown in page["transactions"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert gids == ["g4", "g3", "g2", "g1", "g0"]
    _, page, _ = await api.ask("GET", "/v1/transactions?participant=bank-b")
    assert [shown["gid"] for shown in page["transactions"]] == ["g3", "g1"]
    since, before = api.cluster.now_ms - 4, api.cluster.now_ms - 2
    _, page, _ = await api.ask("GET", f"/v1/transactions?begun_after_ms={since}&begun_before_ms={before}")
    assert [shown["gid"] for shown in page["transactions"]] == ["g2", "g1"]
    _, page, _ = await api.ask("GET", "/v1/transactions?phase=preparing&phase=aborted")
    assert page["transactions"] == []


async def test_the_cluster_shows_leader_members_and_counters(api: Api) -> None:
    await api.begin("g")
    _, shown, _ = await api.ask("GET", "/v1/cluster", at="n2")
    assert (shown["node"], shown["role"], shown["leader"]) == ("n2", "follower", "n1")
    assert shown["leader_url"] == api.cluster.urls["n1"]
    assert {member["name"]: member["url"] for member in shown["members"]} == api.cluster.urls
    assert (await api.ask("GET", "/v1/cluster"))[1]["recorded"] == 1


async def test_participants_are_those_of_the_configuration(api: Api) -> None:
    _, shown, _ = await api.ask("GET", "/v1/participants")
    assert [entry["name"] for entry in shown["participants"]] == ["bank-a", "bank-b"]


async def test_ready_means_that_a_leader_is_known_and_alive_does_not(api: Api) -> None:
    assert (await api.ask("GET", "/readyz"))[0] == 200
    await api.cluster.crash("n1")
    assert (await api.ask("GET", "/readyz", at="n2"))[0] == 503
    assert (await api.ask("GET", "/livez", at="n2"))[0] == 200


async def test_a_callers_request_id_comes_back_unless_it_is_not_one(api: Api) -> None:
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 65, False)):
        _, _, headers = await api.ask("GET", "/livez", headers={"X-Request-Id": given})
        assert (headers["X-Request-Id"] == given) is kept


async def test_a_connection_is_closed_after_its_limit_of_requests() -> None:
    async with cluster() as made, aiohttp.ClientSession() as session:
        context = Context(made.replicas["n1"], "test", "n1", requests_per_connection_max=3)
        async with serving(build_app(context, Random(1)), "127.0.0.1", 0, shutdown_s=0.5) as port:
            closed = []
            for path in ("livez", "nothing", "livez") * 2:
                async with session.get(f"http://127.0.0.1:{port}/{path}") as response:
                    closed.append(response.headers.get("Connection") == "close")
    assert closed == [False, False, True] * 2


async def test_a_mistake_of_our_own_is_a_500_without_a_traceback(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Transactions, "transaction", broken)
    body = check_problem(await api.ask("GET", "/v1/transactions/g"), 500, "internal")
    assert "secret" not in json.dumps(body)


async def test_the_openapi_document_is_served_and_names_every_endpoint(api: Api) -> None:
    _, document, _ = await api.ask("GET", "/v1/openapi.json")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
