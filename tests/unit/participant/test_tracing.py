"""A participant's spans: one for each operation in a trace, current while its action runs; and none of it is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import structlog
from aiohttp import web
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode
from structlog.contextvars import get_contextvars, merge_contextvars

from coordinator.simulation.disk import SimDisk
from participant import service as services
from participant.errors import BranchConflict, Reject
from participant.ids import BranchKey
from participant.outcomes import HttpOutcomeSource, Outcome
from participant.recovery import Recovery, RecoverySettings
from participant.rm.memory import Memory, Transaction
from participant.service import ParticipantService
from participant.wire import Answer, BranchState, Operation, Verb
from tests.support.impostor import Impostor, impostor
from tests.support.tracing import CALLER, CALLER_ID, TRACE_ID, Recorded, recorded_spans

KEY = BranchKey("g", "b")
OTHER = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return recorded_spans(monkeypatch)


@pytest.fixture
async def service() -> AsyncIterator[ParticipantService]:
    resource = Memory(SimDisk())
    await resource.open()

    async def put(tx: Transaction, body: Any) -> None:
        with trace.get_tracer("user").start_as_current_span("user.put"):
            seen.append(get_contextvars())
            await tx.put(f"key {body}", body)

    async def refuse(_: Transaction, __: Any) -> None:
        raise Reject("no")

    seen: list[dict[str, Any]] = []
    made = ParticipantService("shop", resource, {"put": put, "refuse": refuse})
    made.seen = seen  # type: ignore[attr-defined]
    yield made
    await resource.close()


def prepare(key: BranchKey = KEY, action: str = "put", trace: str = CALLER, body: object = 1) -> Operation:
    return Operation(Verb.PREPARE, key, action, body, trace=trace)


async def all_of(service: ParticipantService, *operations: Operation) -> list[Answer]:
    pairs = [pair async for answered in service.perform_all(operations) for pair in answered]
    return [answer for _, answer in sorted(pairs, key=lambda pair: pair[0])]


async def test_an_operation_is_a_span_of_the_callers_and_the_users_own_are_below_it(
    service: ParticipantService, recorded: Recorded
) -> None:
    """Goal: also in the thread of an embedded database. Red without `around`: the user's span had no parent."""
    await service.perform(prepare())
    await service.perform(Operation(Verb.COMMIT, KEY, trace=CALLER))
    own, voted, ended = recorded.spans
    assert [recorded.parent_of(span) for span in (own, voted, ended)] == [
        "commitd.branch.prepare",
        CALLER_ID,
        CALLER_ID,
    ]
    assert (voted.name, ended.name) == ("commitd.branch.prepare", "commitd.branch.commit")
    assert recorded.trace_ids == {TRACE_ID}
    who = {"commitd.gid": "g", "commitd.branch": "b", "commitd.participant": "shop"}
    assert voted.attributes == {**who, "commitd.outcome": "prepared"}
    assert ended.attributes == {**who, "commitd.outcome": "committed"}


async def test_operations_of_one_array_are_each_in_their_own_trace(
    service: ParticipantService, recorded: Recorded
) -> None:
    keys = [BranchKey(gid, "b") for gid in "cd"]
    await all_of(service, prepare(KEY, "refuse"), prepare(keys[0], "refuse", OTHER), prepare(keys[1], "refuse", ""))
    spans = recorded.named("commitd.branch.prepare")
    assert [span.attributes["commitd.gid"] for span in spans if span.attributes] == ["g", "c"]
    assert recorded.trace_ids == {TRACE_ID, "1" * 32}
    assert [span.attributes["commitd.outcome"] for span in spans if span.attributes] == ["aborted", "aborted"]


async def test_lines_of_an_action_name_the_trace_and_later_ones_do_not(service: ParticipantService) -> None:
    """Red when the thread that runs all actions keeps what the last one has bound."""
    await service.perform(prepare())
    await service.perform(prepare(BranchKey("h", "b"), trace=""))
    assert service.seen == [{"trace_id": TRACE_ID}, {}]  # type: ignore[attr-defined]


async def test_a_repeat_in_another_trace_is_a_repeat(service: ParticipantService) -> None:
    """Goal: the trace is no part of what is asked for. Red when it goes into the digest."""
    assert (await service.perform(prepare())).state is BranchState.PREPARED
    assert (await service.perform(prepare(trace=OTHER))).state is BranchState.PREPARED
    assert (await service.perform(prepare(trace=""))).state is BranchState.PREPARED
    with pytest.raises(BranchConflict):
        await service.perform(prepare(body=2))


async def test_what_raises_ends_its_span_with_an_error(service: ParticipantService, recorded: Recorded) -> None:
    await service.perform(prepare())
    with pytest.raises(BranchConflict):
        await service.perform(prepare(body=2))
    span = recorded.named("commitd.branch.prepare")[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert "bound to another" in str(span.status.description)
    assert span.attributes is not None
    assert span.attributes["commitd.outcome"] == "unknown"


async def test_without_a_trace_there_is_no_span(service: ParticipantService, recorded: Recorded) -> None:
    """Red when a span is begun for what nobody asked to be traced."""
    await service.perform(prepare(trace=""))
    assert [span.name for span in recorded.spans] == ["user.put"]


async def test_the_trace_of_a_prepared_branch_is_known_until_its_end_and_of_so_many_only(
    service: ParticipantService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "TRACES_KEPT_MAX", 2)
    keys = [BranchKey(f"g{number}", "b") for number in range(3)]
    for number, key in enumerate(keys):
        assert (await service.perform(prepare(key, body=number))).state is BranchState.PREPARED
    assert [service.trace_of(key) for key in keys] == ["", CALLER, CALLER]
    await service.perform(Operation(Verb.COMMIT, keys[1], trace=OTHER))
    await service.perform(Operation(Verb.PREVENT, keys[2], trace=OTHER))
    assert [service.trace_of(key) for key in keys] == ["", "", OTHER]


async def test_a_question_about_a_branch_in_doubt_names_its_trace_and_so_do_its_lines(recorded: Recorded) -> None:
    """Red without the header; and without the binding, which is of the one question's task only."""

    class Stuck:
        async def in_doubt(self) -> list[BranchKey]:
            return [KEY, BranchKey("other", "b")]

        async def commit(self, _: BranchKey) -> Answer:
            lines.append(get_contextvars())
            return Answer(BranchState.COMMITTED)

        abort = commit

    lines: list[dict[str, Any]] = []
    traces = {KEY: CALLER}
    headers: list[str | None] = []

    async def committed(request: web.BaseRequest) -> web.StreamResponse:
        headers.append(request.headers.get("traceparent"))
        return web.json_response({"gid": request.path.split("/")[3], "outcome": "committed"})

    async with impostor(Impostor()) as replica:
        replica.then(committed)
        source = HttpOutcomeSource("shop", [replica.url], lambda key: traces.get(key, ""))
        await source.start()
        recovery = Recovery(Stuck(), source, RecoverySettings(), Random(1), lambda key: traces.get(key, ""))
        await recovery.round()
        await source.stop()
    (span,) = recorded.spans
    assert (span.name, recorded.parent_of(span)) == ("commitd.branch.inquire", CALLER_ID)
    assert span.context is not None
    assert f"00-{TRACE_ID}-{span.context.span_id:016x}-01" in headers
    assert None in headers
    assert lines in ([{"trace_id": TRACE_ID}, {}], [{}, {"trace_id": TRACE_ID}])
    assert get_contextvars() == {}


async def test_a_question_that_nobody_answers_is_a_span_with_an_error(recorded: Recorded) -> None:
    source = HttpOutcomeSource("shop", ["http://127.0.0.1:1"], lambda _: CALLER)
    await source.start()
    assert await source.inquire(KEY) is None
    await source.stop()
    (span,) = recorded.spans
    assert span.status.status_code is StatusCode.ERROR
    assert Outcome.COMMITTED.value not in str(span.attributes)


class Failing(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise ZeroDivisionError

    def on_end(self, span: Any) -> None:
        raise ZeroDivisionError


async def test_an_sdk_that_fails_fails_no_transaction(
    service: ParticipantService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the trace goes on as it came. Red without the border in `start`."""
    provider = TracerProvider()
    provider.add_span_processor(Failing())
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with structlog.testing.capture_logs(processors=[merge_contextvars]) as lines:
        answer = await service.perform(Operation(Verb.PREPARE, KEY, "refuse", trace=CALLER))
    assert answer.reason == "no"
    assert [line["event"] for line in lines] == ["tracing.failed"]


WITHOUT = f"""
import sys
sys.modules["opentelemetry"] = None  # as where it is not installed
import asyncio
from participant import tracing
from participant.ids import BranchKey
from participant.rm.memory import Memory
from participant.service import ParticipantService
from participant.wire import Operation, Verb
from structlog.contextvars import get_contextvars
from coordinator.simulation.disk import SimDisk

async def main():
    resource = Memory(SimDisk())
    await resource.open()

    async def put(tx, body):
        print(get_contextvars())
        await tx.put("key", body)

    key = BranchKey("g", "b")
    service = ParticipantService("shop", resource, {{"put": put}})
    print((await service.perform(Operation(Verb.PREPARE, key, "put", 1, trace="{CALLER}"))).state.value)
    print(service.trace_of(key), repr(tracing.current()), tracing.IS_INSTALLED)
    await resource.close()

asyncio.run(main())
"""


def test_without_the_package_everything_works_and_the_trace_is_handed_on() -> None:
    """Goal: it is optional. Seen red with an import that is not guarded."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{{'trace_id': '{TRACE_ID}'}}", "prepared", f"{CALLER} '' False"]
