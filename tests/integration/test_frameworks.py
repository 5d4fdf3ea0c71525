"""A participant inside of a service's own framework, as real processes: it keeps every promise, answers the same on
each, and works with the coordinator and its client below a path.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import Branch, Client, Committed
from coordinator.errors import TransactionAborted, WorkFailed
from participant.testing import PROMISES, Bench, examine_all
from participant.testing.conformance.talk import Exchange
from participant.wire import STREAM_PATH
from tests.integration.test_foreign_participants import coordinating
from tests.support.foreign import STOCK
from tests.support.frameworks import EXAMPLES, MOUNTED, NOBODY, PREFIX, fastapi_shop, running, shop_on, with_stock
from tests.support.ports import free_addresses

DIFF_LINES_MAX = 10
KILLED = ("aiohttp", "starlette")  # one of each face; what they stand on is the same


async def broken_at(bench: Bench) -> list[str]:
    return [str(verdict) async for verdict in examine_all(PROMISES, bench) if not verdict.is_fine]


@pytest.mark.parametrize("framework", [framework for framework in MOUNTED if framework not in KILLED])
async def test_a_mounted_participant_keeps_every_promise(framework: str, tmp_path: Path) -> None:
    """Goal: what is mounted by ASGI is a participant as any other. What survives a kill is the database's to say.

    Seen red on Litestar, which ends the path of what is mounted with a slash.
    """
    target = shop_on(framework, tmp_path)
    async with running(target), replace(target, start=()).open() as bench:
        assert bench.capabilities["stream"] is False
        assert await broken_at(bench) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("framework", KILLED)
async def test_it_keeps_every_promise_though_it_is_killed(framework: str, tmp_path: Path) -> None:
    """Goal: the start and the end that an application gives it are as good as its own."""
    async with shop_on(framework, tmp_path).open() as bench:
        assert bench.capabilities["stream"] is (framework == "aiohttp")
        assert await broken_at(bench) == []


@pytest.mark.timeout(240)
async def test_an_endpoint_that_is_an_action_keeps_every_promise(postgres_dsn: str) -> None:
    """Goal: the page's service, on PostgreSQL, killed as well: FastAPI's types, results and errors become votes."""
    await with_stock(postgres_dsn, STOCK)
    async with fastapi_shop("after", postgres_dsn).open() as bench:
        assert await broken_at(bench) == []


REQUESTS: tuple[tuple[str, str, bytes | None, str], ...] = (
    ("POST", "/v1/branches/g/b/prepare", b'{"actoin": "reserve"}', "application/json"),
    ("POST", "/v1/branches/g/b/prepare", b'{"gid": "h"}', "application/json"),
    ("POST", "/v1/branches/g/b/prepare", b"[1]", "application/json"),
    ("POST", "/v1/branches/g/b/prepare", b"{", "application/json; charset=utf-8"),
    ("POST", "/v1/branches/g/b/prepare", b"[" * 99_999, "application/json"),
    ("POST", "/v1/branches/g/b/prepare", b"\xc1", "application/msgpack"),
    ("POST", "/v1/branches/g/b/prepare", b"x", "text/plain"),
    ("POST", "/v1/branches/g/b/prepare", b"{}", ""),
    ("POST", "/v1/branches/g/b/fly", b"{}", "application/json"),
    ("POST", "/v1/branches/g%20/b/abort", b"{}", "application/json"),
    ("POST", "/v1/branches/g%2Fh/b/abort", b"{}", "application/json"),
    ("POST", "/v1/branches", b'{"operation": []}', "application/json"),
    ("POST", "/v1/branches", json.dumps({"operations": [1] * 257}).encode(), "application/json"),
    ("POST", "/v1/branches", b'{"operations": [1, {"verb": "fly"}]}', "application/json"),
    ("POST", "/v1/branches", b'{"operations": []' + b" " * (2 << 20) + b"}", "application/json"),
    ("POST", "/v1/branches", b" " * (9 << 20), "application/json"),
    ("POST", "/v1/branches/g/b/outcome", None, ""),
    ("GET", "/v1/branches/g/b/outcome", None, ""),
    ("POST", "/v1/branches/g/b/abort", None, ""),
    ("POST", "/v1/stock", None, ""),
    ("GET", "/v1/stock", None, ""),
    ("GET", "/v1/nowhere", None, ""),
    ("GET", "/livez", None, ""),
    ("HEAD", "/livez", None, ""),
)


async def said_to_each(base: Any) -> list[tuple[str, Any]]:
    """What the participant says to each of the requests: the status, the type and the whole text."""
    said = []
    for method, path, data, content_type in REQUESTS:
        exchange = await base._send(Exchange(method, base.url + PREFIX + path, data, content_type))
        said.append((f"{method} {path} {(data or b'')[:40]!r}", (exchange.status, exchange.said_type, exchange.text)))
    return said


async def test_every_framework_gives_the_same_answers(tmp_path: Path) -> None:
    """Goal: limits, malformed input, content types and paths are read in one place.

    The array of 2 MiB is larger than what the application around takes for itself: seen red on aiohttp, with its limit.
    """
    said = {}
    for framework in ("aiohttp", *MOUNTED):
        place = tmp_path / framework
        place.mkdir()
        async with running(shop_on(framework, place)) as base:
            said[framework] = await said_to_each(base)
    assert [status for _, (status, _, _) in said["aiohttp"]] == [
        *[400] * 6,
        *[415] * 2,
        *[400] * 2,
        404,
        *[400] * 2,
        *[200] * 2,
        413,
        405,
        *[200] * 2,
        405,
        200,
        404,
        *[200] * 2,
    ]
    for framework in MOUNTED:
        assert said[framework] == said["aiohttp"], framework


@pytest.mark.parametrize("framework", ["starlette", "litestar"])
async def test_what_was_never_started_says_so(framework: str, tmp_path: Path) -> None:
    """Goal: 503 and what to do, on every path, instead of a database that nobody owns."""
    async with running(shop_on(framework, tmp_path, options=("--lifespan", "off"))) as base:
        for path in ("/livez", "/v1/capabilities", "/v1/branches/g/b/outcome"):
            said = await base.get(PREFIX + path)
            assert (said.status, said.said_type) == (503, "application/problem+json")
            assert said.value["type"] == "urn:commitd:participant:not-running"
            assert "shop does not run: enter `async with participant.running(" in said.value["detail"]


async def test_a_service_that_cannot_start_ends(tmp_path: Path) -> None:
    """Goal: a second process on the same SQLite file does not come up, and says why."""
    async with running(shop_on("fastapi", tmp_path)):
        other = shop_on("fastapi", tmp_path)
        second = await asyncio.create_subprocess_exec(
            *other.start, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, error = await second.communicate()
        assert second.returncode != 0
        assert b"AlreadyOwned" in error


async def test_a_stream_is_offered_and_served_where_aiohttp_has_it(tmp_path: Path) -> None:
    """Goal: what the capabilities say is there, and what they do not say is refused as any other path."""
    places = {framework: tmp_path / framework for framework in ("aiohttp", "starlette")}
    for place in places.values():
        place.mkdir()
    async with running(shop_on("aiohttp", places["aiohttp"])) as base:
        said = await base.get(PREFIX + STREAM_PATH)
        assert (said.status, "WebSocket" in said.value["detail"]) == (400, True)
    async with running(shop_on("starlette", places["starlette"])) as base:
        assert (await base.get(PREFIX + STREAM_PATH)).status == 404


async def test_they_commit_together_below_their_paths(tmp_path: Path) -> None:
    """Goal: a coordinator joins the URL of a participant and the paths of the contract, for requests and the stream.

    Seen red with a stream that ASGI promised.
    """
    (address,) = free_addresses(1)
    places = {framework: tmp_path / framework for framework in ("aiohttp", "starlette")}
    for place in places.values():
        place.mkdir()
    targets = {name: shop_on(name, place, replica=f"http://{address}") for name, place in places.items()}
    async with running(targets["aiohttp"]) as one, running(targets["starlette"]) as other:
        urls = {name: f"{target.url}/" for name, target in targets.items()}  # a slash at the end does no harm
        async with coordinating(tmp_path, urls, address) as client:
            wanted = {"item": "mug", "pieces": 3}
            done = await client.commit([Branch("aiohttp", "reserve", wanted), Branch("starlette", "reserve", wanted)])
            assert isinstance(done, Committed)
            await client.settled(done.gid)
            for base in (one, other):
                assert (await base.get(f"{PREFIX}/v1/stock")).value == {"mug": STOCK - 3}


# The page's service ---------------------------------------------------------------------------------------------


def test_the_diff_of_the_page_is_small() -> None:
    """Goal: what is promised of the diff, added and removed lines together."""
    before, after = ((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines() for name in ("before", "after"))
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "+-"]
    assert 0 < len(changed) - len(("---", "+++")) <= DIFF_LINES_MAX


@pytest.mark.parametrize("file", ["before", "after"])
async def test_the_service_does_for_its_callers_what_it_did_before(file: str, postgres_dsn: str) -> None:
    """Goal: nobody who calls it notices: the same answers, refusals and validation, and the work is committed."""
    await with_stock(postgres_dsn, 5)
    async with running(fastapi_shop(file, postgres_dsn)) as base:
        done = await base.post("/reserve", {"item": "mug", "pieces": 2})
        assert (done.status, done.value) == (200, {"item": "mug", "pieces": 3})
        assert (await base.get("/stock")).value == {"mug": 3}
        refused = await base.post("/reserve", {"item": "mug", "pieces": 4})
        assert (refused.status, refused.value) == (409, {"detail": "not enough mug: 3 left"})
        malformed = await base.post("/reserve", {"item": "mug", "pieces": 0})
        assert (malformed.status, malformed.value["detail"][0]["loc"]) == (422, ["body", "pieces"])
        assert (await base.get("/stock")).value == {"mug": 3}


def test_the_service_is_described_as_it_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: FastAPI's OpenAPI stays intact. Seen red with a parameter for our header."""
    monkeypatch.setenv("REPLICAS", NOBODY)
    monkeypatch.setenv("SHOP_DSN", "postgresql://nobody@127.0.0.1:1/shop")
    before, after = (runpy.run_path(str(EXAMPLES / f"{name}.py"))["app"].openapi() for name in ("before", "after"))
    assert before["paths"].keys() == {"/reserve", "/stock"}
    assert after == before


async def reserve(client: Client, *pieces: int) -> list[Any]:
    async with client.transaction() as tx:
        return [await tx.request("shop", "POST", "/reserve", json={"item": "mug", "pieces": each}) for each in pieces]


async def test_its_endpoint_joins_a_transaction(postgres_dsn: str, tmp_path: Path) -> None:
    """Goal: requests to an ordinary URL add up in one branch, which commits as a whole, or not at all."""
    (address,) = free_addresses(1)
    await with_stock(postgres_dsn, 10)
    target = fastapi_shop("after", postgres_dsn, replica=f"http://{address}")
    async with running(target) as base, coordinating(tmp_path, {"shop": target.url}, address) as client:
        left = await reserve(client, 1, 2)
        assert left == [{"item": "mug", "pieces": 9}, {"item": "mug", "pieces": 7}]
        assert (await base.get("/stock")).value == {"mug": 7}

        with pytest.raises(WorkFailed, match="not enough mug: 5 left") as failed:
            await reserve(client, 2, 6)
        assert failed.value.refused
        assert (await base.get("/stock")).value == {"mug": 7}

        async with client.transaction() as tx:
            await tx.request("shop", "POST", f"{base.url}/reserve", json={"item": "mug", "pieces": 1})
            await tx.call("shop", "reserve", {"item": "mug", "pieces": 1})
            assert (await base.get("/stock")).value == {"mug": 7}, "nobody sees it before the end"
        await client.settled(tx.gid)
        assert (await base.get("/stock")).value == {"mug": 5}

        done = await client.commit([Branch("shop", "reserve", {"item": "mug", "pieces": 5})])
        assert isinstance(done, Committed)
        refused = await client.commit([Branch("shop", "reserve", {"item": "mug", "pieces": 5000})])
        assert "pieces: Input should be less than or equal to 1000" in getattr(refused, "reason", "")


async def test_an_endpoint_that_does_not_take_part_dooms_the_transaction(postgres_dsn: str, tmp_path: Path) -> None:
    """Goal: whoever asks an ordinary endpoint hears that it is none of the transaction's."""
    (address,) = free_addresses(1)
    await with_stock(postgres_dsn, 10)
    target = fastapi_shop("after", postgres_dsn, replica=f"http://{address}")
    async with running(target), coordinating(tmp_path, {"shop": target.url}, address) as client:

        async def careless() -> None:
            async with client.transaction() as tx:
                with pytest.raises(WorkFailed, match="did not enlist"):
                    await tx.request("shop", "GET", "/stock")

        with pytest.raises(TransactionAborted, match="did not enlist"):
            await careless()
