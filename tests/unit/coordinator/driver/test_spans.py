"""The spans of a transaction on its leader, and on the next one; and what participants are told of them."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from coordinator.client import Branch, Client, Committed
from coordinator.errors import GidReused
from coordinator.ledger.records import Phase
from coordinator.wire import TransactionRequest
from participant.wire import Verb
from tests.support.cluster import TUNABLES, Cluster, cluster, recorded, request
from tests.support.tracing import CALLER, CALLER_ID, TRACE_ID, Recorded, recorded_spans

BOTH = ("bank-a", "bank-b")
OTHER = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return recorded_spans(monkeypatch)


def traced(trace: str | None = CALLER, gid: str = "g", body: object = 1) -> TransactionRequest:
    return request(*BOTH, gid=gid, body=body).model_copy(update={"trace": trace})


async def finished(made: Cluster, at: str = "n1", gid: str = "g") -> None:
    await recorded(made.replicas[at], gid, lambda record: record.finished)
    for _ in range(3):  # its driver is woken, and ends
        await asyncio.sleep(0)


async def test_a_transaction_is_a_span_of_the_callers_and_each_call_one_below(spans: Recorded) -> None:
    async with cluster() as made:
        await made.replicas["n1"].transactions.begin(traced(), 5.0)
        await finished(made)
        (whole,) = spans.named("commitd.transaction")
        assert (spans.parent_of(whole), whole.kind, whole.links) == (CALLER_ID, SpanKind.SERVER, ())
        assert whole.attributes == {"commitd.gid": "g", "commitd.path": "staged", "commitd.outcome": "committed"}
        calls = [span for span in spans.spans if span is not whole]
        assert sorted(span.name for span in calls) == ["commitd.commit"] * 2 + ["commitd.prepare"] * 2
        assert {spans.parent_of(span) for span in calls} == {"commitd.transaction"}
        assert {span.kind for span in calls} == {SpanKind.CLIENT}
        (vote,) = [span for span in spans.named("commitd.prepare") if "bank-b" in str(span.attributes)]
        names = {"commitd.gid": "g", "commitd.branch": "b2", "commitd.participant": "bank-b"}
        assert vote.attributes == {**names, "commitd.outcome": "prepared"}
        assert vote.context is not None
        told = f"00-{TRACE_ID}-{vote.context.span_id:016x}-01"
        assert (Verb.PREPARE, told) in made.clerks["bank-b"].traces


async def test_a_refusal_is_an_outcome_and_no_answer_is_an_error(spans: Recorded) -> None:
    async with cluster() as made:
        made.clerks["bank-a"].refuse("no")
        await made.replicas["n1"].transactions.begin(traced(), 5.0)
        await finished(made)
        (whole,) = spans.named("commitd.transaction")
        assert whole.attributes is not None
        assert whole.attributes["commitd.outcome"] == "aborted"
        made.clerks["bank-a"].refuse("no", times=0)
        made.clerks["bank-b"].away = True
        with capture_logs() as lines:
            late = traced(gid="h").model_copy(update={"deadline_ms": 100})
            await made.replicas["n1"].transactions.begin(late, 5.0)
        lost = [span for span in spans.named("commitd.prepare") if span.status.status_code is StatusCode.ERROR]
        assert lost[0].status.description == "bank-b is away"
        assert {line["trace_id"] for line in lines if line["event"] == "call.unknown"} == {TRACE_ID}
        made.clerks["bank-b"].away = False


@pytest.mark.parametrize("prevent", [False, True], ids=["classic", "staged"])
async def test_the_next_leader_begins_a_span_in_the_same_trace_linked_to_it(prevent: bool, spans: Recorded) -> None:
    """Red when the trace is not in the record, is lost when the record changes, or when nothing is linked."""
    async with cluster(prevent=prevent) as made:
        made.clerks["bank-b"].hold(Verb.COMMIT)
        begun = asyncio.ensure_future(made.replicas["n1"].transactions.begin(traced(), 5.0))
        await made.clerks["bank-b"].arrived(Verb.COMMIT)
        await begun
        await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.COMMITTING)
        await made.crash("n1")
        made.clerks["bank-b"].release(Verb.COMMIT)
        await made.lead("n2")
        await finished(made, "n2")
        _, taken_over = spans.named("commitd.transaction")
        assert (spans.parent_of(taken_over), taken_over.kind) == (CALLER_ID, SpanKind.INTERNAL)
        (link,) = taken_over.links
        assert f"{link.context.span_id:016x}" == CALLER_ID
        assert taken_over.attributes is not None
        assert taken_over.attributes["commitd.outcome"] == "committed"
        assert spans.trace_ids == {TRACE_ID}


async def test_the_same_request_in_another_trace_is_the_same_request(spans: Recorded) -> None:
    """Goal: the trace is no part of the digest, and the first one stays. Red when it is hashed."""
    async with cluster() as made:
        transactions = made.replicas["n1"].transactions
        known = await transactions.begin(traced(), 5.0)
        for trace in (OTHER, None, "malformed"):
            assert await transactions.begin(traced(trace), 5.0) == known
        await finished(made)
        record = made.replicas["n1"].ledger.get("g")
        assert record is not None
        assert record.trace == CALLER
        assert len(spans.named("commitd.transaction")) == 1
        with pytest.raises(GidReused):
            await transactions.begin(traced(body=2), 5.0)


@pytest.mark.parametrize("trace", [None, "", "00-zz", "x" * 10_000])
async def test_without_a_trace_there_is_no_span_and_nothing_is_handed_on(trace: str | None, spans: Recorded) -> None:
    async with cluster() as made:
        await made.replicas["n1"].transactions.begin(traced(trace), 5.0)
        await finished(made)
        record = made.replicas["n1"].ledger.get("g")
        assert record is not None
        assert record.trace == ""
        assert spans.spans == ()
        assert {trace for clerk in made.clerks.values() for _, trace in clerk.traces} == {""}


async def test_a_leader_that_is_deposed_ends_its_spans(spans: Recorded) -> None:
    """Red when they stay: a span that never ends is never seen."""
    async with cluster() as made:
        made.clerks["bank-b"].hold(Verb.PREPARE)
        asked = asyncio.ensure_future(made.replicas["n1"].transactions.begin(traced(), 5.0))
        await made.clerks["bank-b"].arrived(Verb.PREPARE)
        await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.PREPARING)
        await made.lead("n2")
        await asyncio.gather(asked, return_exceptions=True)
        assert len(spans.named("commitd.transaction")) == 1
        made.clerks["bank-b"].release(Verb.PREPARE)


async def test_the_client_names_the_trace_it_is_called_in_to_a_cluster_that_knows_them(
    spans: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: each transaction of one request in its own; an older cluster gets none, and refuses nothing.

    Red when the map is not asked: an older cluster answers 422.
    """
    branches = [Branch(name, "do", 1) for name in BOTH]

    async def commit(client: Client, gid: str) -> None:
        with spans.tracer.start_as_current_span(gid):
            assert await client.commit(branches, gid=gid) == Committed(gid)

    async with cluster(serve=True, tunables=TUNABLES) as made, Client(list(made.urls.values())) as client:
        gids = [f"g{number}" for number in range(5)]
        await asyncio.gather(*(commit(client, gid) for gid in gids))
        for gid in gids:
            await finished(made, gid=gid)
        parents = {
            span.attributes["commitd.gid"]: spans.parent_of(span)
            for span in spans.named("commitd.transaction")
            if span.attributes
        }
        assert parents == {gid: gid for gid in gids}
        monkeypatch.setattr("coordinator.client.shards.Shards.takes_traces", property(lambda _: False))
        await commit(client, "old")
        record = made.replicas["n1"].ledger.get("old")
        assert record is not None
        assert record.trace == ""
