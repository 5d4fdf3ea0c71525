"""One trace from the caller through the leader, the participants and their actions: real processes, and the SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, format_trace_id

from coordinator.client import Branch, Client, Committed
from coordinator.demo.cluster import Cluster
from coordinator.demo.process import Process
from coordinator.errors import NotFound
from participant import Participant
from participant.rm.postgres import PostgreSQL, Transaction
from tests.support.ports import free_addresses
from tests.support.tracing import CALLER, CALLER_ID, TRACE_ID, recorded_spans

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2", "n3")
BANKS = ("bank-a", "bank-b")
TRACED = "tests.fixtures.traced"
UNTRACED = "tests.fixtures.untraced"
WITHIN_S = 30.0
LOOK_EVERY_S = 0.05


class Traced(Cluster):
    """Coordinators and banks with an SDK; their spans are in the directory `spans`."""

    module = TRACED

    def _process(self, name: str, verb: str, config: Path, *more: str) -> Process:
        log = self.directory / f"{name}.log"
        return Process(name, (verb, "--config", str(config), *more), log, module=self.module)

    def spans(self) -> list[dict[str, Any]]:
        """All that have ended until now."""
        files = sorted((self.directory / "spans").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    async def ended(self, gid: str, *names: str) -> list[dict[str, Any]]:
        """The spans of a transaction, once there are some of each of these names, and it is over."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while True:
                    found = [span for span in self.spans() if span["attributes"].get("commitd.gid") == gid]
                    if {"commitd.transaction", *names} <= {span["name"] for span in found}:
                        return found
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            raise AssertionError(f"only {[span['name'] for span in self.spans()]}") from None


class Untraced(Traced):
    """Without the package."""

    module = UNTRACED


@asynccontextmanager
async def traced(
    directory: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Traced] = Traced, nodes: int = 3, **more: str
) -> AsyncIterator[Traced]:
    """`more`: participants beside the banks, by URL."""
    (directory / "spans").mkdir()
    monkeypatch.setenv("SPANS", str(directory / "spans"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = kind(directory, NODES[:nodes], BANKS)
    config = directory / "cluster.toml"
    listed = "".join(f'\n{name} = "{url}"' for name, url in more.items())
    config.write_text(config.read_text(encoding="utf-8").replace("[participants]", f"[participants]{listed}"), "utf-8")
    async with made:
        yield made


@pytest.fixture
def caller() -> Iterator[Span]:
    """A span of the caller's, current in the test."""
    provider = TracerProvider()
    with provider.get_tracer("caller").start_as_current_span("caller") as span:
        yield span
    provider.shutdown()


def client_of(made: Traced) -> Client:
    return Client(list(made.replicas.values()), timeout_s=WITHIN_S, attempt_timeout_s=1.0)


def opening(account: str) -> list[Branch]:
    return [Branch(bank, "open", {"account": account, "balance": 1}) for bank in BANKS]


def trace_id(span: Span) -> str:
    return format_trace_id(span.get_span_context().trace_id)


def by_id(spans: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {span["context"]["span_id"]: span for span in spans}


def ancestry(span: dict[str, Any], spans: dict[str, dict[str, Any]]) -> list[str]:
    """The names from a span up to the last one that is known."""
    names = [span["name"]]
    while (above := spans.get(span["parent_id"])) is not None:
        span = above
        names.append(span["name"])
    return names


async def until_recorded(client: Client, gid: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            with suppress(NotFound):
                await client.record(gid)
                return
            await asyncio.sleep(LOOK_EVERY_S)


@pytest.mark.timeout(120)
async def test_one_trace_leads_from_the_caller_into_every_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: Span
) -> None:
    """Goal: many at once, over arrays and streams, and each is whole: leader, calls, branches, the user's own span.

    Seen red without `around`: the user's span began a trace of its own.
    """
    async with traced(tmp_path, monkeypatch) as made, client_of(made) as client:
        gids = [f"g{number}" for number in range(8)]
        assert await asyncio.gather(*(client.commit(opening(gid), gid=gid) for gid in gids)) == [*map(Committed, gids)]
        for gid in gids:
            spans = await made.ended(gid, "commitd.branch.commit")
            (transaction,) = [span for span in spans if span["name"] == "commitd.transaction"]
            assert transaction["context"]["trace_id"] == f"0x{trace_id(caller)}"
            assert int(transaction["parent_id"], 16) == caller.get_span_context().span_id
            assert transaction["attributes"] == {
                "commitd.gid": gid,
                "commitd.path": "staged",
                "commitd.outcome": "committed",
            }
            names = [span["name"] for span in spans]
            for name in ("commitd.prepare", "commitd.commit", "commitd.branch.prepare", "commitd.branch.commit"):
                assert names.count(name) == len(BANKS)
        known = by_id(made.spans())
        assert {span["context"]["trace_id"] for span in known.values()} == {f"0x{trace_id(caller)}"}
        own = [ancestry(span, known) for span in known.values() if span["name"] == "bank.look"]
        way = ["bank.look", "commitd.branch.prepare", "commitd.prepare", "commitd.transaction"]
        assert own == [way] * (len(gids) * len(BANKS))


@pytest.mark.timeout(120)
async def test_the_next_leader_goes_on_in_the_same_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: Span
) -> None:
    """Goal: the trace is in the record, and outlives the leader. Seen red without it in `Begin`."""
    async with traced(tmp_path, monkeypatch) as made, client_of(made) as client:
        assert await client.commit(opening("first"), gid="first") == Committed("first")  # the banks are known then
        made.processes["bank-b"].pause()
        asked = asyncio.ensure_future(client.commit(opening("late"), gid="late", deadline_ms=60_000))
        leader = await made.leader()
        await until_recorded(client, "late")
        await made.processes[leader].kill()
        await made.leader(other_than=leader)
        made.processes["bank-b"].resume()
        assert await asked == Committed("late")
        spans = await made.ended("late", "commitd.branch.commit")
        (transaction,) = [span for span in spans if span["name"] == "commitd.transaction"]
        assert transaction["kind"] == "SpanKind.INTERNAL"
        assert transaction["context"]["trace_id"] == f"0x{trace_id(caller)}"
        assert int(transaction["parent_id"], 16) == caller.get_span_context().span_id
        (link,) = transaction["links"]
        assert link["context"]["trace_id"] == f"0x{trace_id(caller)}"
        children = [span["name"] for span in spans if span["parent_id"] == transaction["context"]["span_id"]]
        assert children.count("commitd.commit") == len(BANKS)
        assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace_id(caller)}"}


@asynccontextmanager
async def shelf_at(directory: Path, address: str) -> AsyncIterator[None]:
    """The foreign example; the headers that came to it are noted in `spans/shelf.headers`."""
    host, _, port = address.rpartition(":")
    where = ("--host", host, "--port", port, "--data", str(directory / "shelf.db"), "--stock", "mug=5")
    shelf = Process("shelf", ("shelf", *where), directory / "shelf.log", module=TRACED)
    await shelf.start()
    try:
        yield
    finally:
        await shelf.kill()


async def commit_by_hand(made: Traced) -> None:
    """A transaction at a bank and at the shelf, over HTTP, in the trace of `CALLER`."""
    form = {
        "gid": "by-hand",
        "branches": [
            {"participant": "shelf", "action": "reserve", "body": {"item": "mug", "pieces": 1}},
            {"participant": "bank-a", "action": "open", "body": {"account": "a"}},
        ],
    }
    headers = {"traceparent": CALLER, "tracestate": "shop=1"}
    url = f"{made.replicas[await made.leader()]}/v1/transactions"
    async with aiohttp.ClientSession() as http, asyncio.timeout(WITHIN_S):
        said: dict[str, Any] = {}
        while said.get("outcome") != "committed":  # the shelf may not listen yet
            async with http.post(url, json=form, headers=headers) as response:
                said = await response.json()
            await asyncio.sleep(LOOK_EVERY_S)


async def noted(made: Traced) -> list[tuple[str, str, str]]:
    """The verb, traceparent and tracestate of each request to the shelf, once it was told to commit."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            text = (made.directory / "spans" / "shelf.headers").read_text(encoding="utf-8")
            lines = [(path.rpartition("/")[2], *more) for path, *more in map(str.split, text.splitlines())]
            if any(verb == "commit" for verb, *_ in lines):
                return [(verb, parent, state) for verb, parent, state in lines]
            await asyncio.sleep(LOOK_EVERY_S)


@pytest.mark.timeout(120)
async def test_any_caller_and_a_participant_without_us_share_a_trace_by_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: two headers are all that is needed. Seen red without them in requests for one operation."""
    (address,) = free_addresses(1)
    async with traced(tmp_path, monkeypatch, nodes=1, shelf=f"http://{address}") as made, shelf_at(tmp_path, address):
        await commit_by_hand(made)
        spans = by_id(await made.ended("by-hand", "commitd.branch.commit"))
        assert {span["context"]["trace_id"] for span in spans.values()} == {f"0x{TRACE_ID}"}
        calls = {f"{int(id_, 16):016x}": span["name"] for id_, span in spans.items()}
        for verb, traceparent, tracestate in await noted(made):
            _, trace, call, _ = traceparent.split("-")
            assert (trace, tracestate, calls[call]) == (TRACE_ID, "shop=1", f"commitd.{verb}")


@pytest.mark.timeout(120)
async def test_without_the_package_all_of_it_works_and_the_trace_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: it is optional everywhere, and who has no spans does not break the traces of others."""
    (address,) = free_addresses(1)
    shelf = f"http://{address}"
    async with traced(tmp_path, monkeypatch, Untraced, 1, shelf=shelf) as made, shelf_at(tmp_path, address):
        await commit_by_hand(made)
        assert {(trace, state) for _, trace, state in await noted(made)} == {(CALLER, "shop=1")}
        assert made.spans() == []


@pytest.mark.timeout(120)
async def test_interactive_work_is_in_the_trace_of_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: Span
) -> None:
    """Goal: `work` goes past the coordinator, and names its trace itself."""
    async with traced(tmp_path, monkeypatch, nodes=1) as made, client_of(made) as client:
        async with client.transaction() as tx:
            await tx.call("bank-a", "open", {"account": "bob", "balance": 1})
            await tx.call("bank-b", "open", {"account": "smith", "balance": 1})
        spans = await made.ended(tx.gid, "commitd.branch.commit")
        works = [span for span in spans if span["name"] == "commitd.branch.work"]
        assert [int(span["parent_id"], 16) for span in works] == [caller.get_span_context().span_id] * len(BANKS)
        assert {span["context"]["trace_id"] for span in made.spans()} == {f"0x{trace_id(caller)}"}


async def test_what_an_action_does_on_a_server_is_below_its_branch(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: also where actions run side by side, each in a task, each sees its own trace."""
    spans = recorded_spans(monkeypatch)
    shop = Participant("shop", PostgreSQL(postgres_dsn))

    @shop.action("look")
    async def look(tx: Transaction, body: int) -> None:
        with spans.tracer.start_as_current_span(f"look {body}"):
            await tx.fetch_value("SELECT pg_sleep(0.01)")

    async with shop.serving() as serving, aiohttp.ClientSession() as http:

        async def prepare(number: int) -> None:
            url = f"{serving.url}/v1/branches/g{number}/b/prepare"
            headers = {"traceparent": f"00-{number:032x}-{CALLER_ID}-01"}
            async with http.post(url, json={"action": "look", "body": number}, headers=headers) as response:
                assert response.status == 200

        await asyncio.gather(*map(prepare, range(1, 9)))
    for number in range(1, 9):
        (own,) = spans.named(f"look {number}")
        assert own.context is not None
        assert (own.context.trace_id, spans.parent_of(own)) == (number, "commitd.branch.prepare")
