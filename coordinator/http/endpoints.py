"""The API as data: one row for each endpoint. The routes and the OpenAPI document are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

from coordinator import wire, wire_workflows
from coordinator.errors import (
    Contradiction,
    GidReused,
    Invalid,
    Malformed,
    NoLeader,
    NotClaimed,
    NotDeterministic,
    NotFound,
    Overloaded,
    RequestError,
    TooLarge,
    Undetermined,
    Unreachable,
    UnsupportedMedia,
    WrongToken,
)
from coordinator.examined import ExaminationView
from coordinator.http import cluster, events, health, outcomes, transactions, workflows
from coordinator.shards import MAP_PATH, ClusterMap
from coordinator.wire_queries import DropNoticeRequest, ListQuery
from coordinator.wire_steps import LettersRequest, ReportRequest

__all__ = ["ENDPOINTS", "Endpoint"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. `answers` by status, None without a body; `errors` beside them are problem documents.

    `leader`: the leader of a shard may be needed; a replica that is not it then answers 307. `is_stream`: the answers
    are server-sent events.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    answers: dict[int, tuple[type[BaseModel] | None, str]]
    errors: tuple[type[RequestError], ...] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    leader: bool = False
    is_stream: bool = False


_READ = (NoLeader, Undetermined)
_BODY = (Malformed, UnsupportedMedia, TooLarge, Invalid)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/transactions",
        "begin",
        "Commit all branches or none, and wait for the decision. The same request again gets the same answer. An array"
        " holds several transactions, which have nothing to do with each other.",
        transactions.begin,
        {
            200: (wire.TransactionsAnswer, "Decided: committed or aborted. To an array, all answers."),
            202: (wire.OutcomeView, "Not decided in time: ask again at the handle, or repeat the request."),
        },
        (*_BODY, GidReused, Overloaded, Unreachable, *_READ),
        body=wire.TransactionRequests,
        query=wire.BeginQuery,
        leader=True,
    ),
    Endpoint(
        "GET",
        "/v1/transactions",
        "list",
        "List the transactions of this replica's shard, newest first.",
        transactions.list_,
        {200: (wire.TransactionPage, "One page; it may be short, and is the last one only without a cursor.")},
        (Invalid, *_READ),
        query=ListQuery,
    ),
    Endpoint(
        "GET",
        "/v1/transactions/{gid}",
        "show",
        "Show a transaction's record. Linearizable; changes nothing.",
        transactions.show,
        {200: (wire.TransactionView, "The record.")},
        (Invalid, NotFound, Overloaded, *_READ),
        leader=True,
    ),
    Endpoint(
        "GET",
        "/v1/transactions/{gid}/events",
        "events",
        "Hear of a transaction as it goes: its record now, and after each change, as server-sent events.",
        events.events,
        {
            200: (wire.TransactionView, "Each event has a record as data. The stream ends with the transaction."),
            204: (None, "It has ended, and Last-Event-ID says that this is known."),
        },
        (Invalid, NotFound, Overloaded, *_READ),
        leader=True,
        is_stream=True,
    ),
    Endpoint(
        "GET",
        "/v1/transactions/{gid}/branches",
        "examine",
        "Ask every participant of a transaction what it holds of it now. Changes nothing.",
        transactions.examine,
        {200: (ExaminationView, "What each said, or why it said nothing.")},
        (Invalid, NotFound, *_READ),
        leader=True,
    ),
    Endpoint(
        "GET",
        "/v1/transactions/{gid}/outcome",
        "look",
        "Look at a transaction's outcome, or wait for it. Linearizable; changes nothing.",
        outcomes.look,
        {200: (wire.OutcomeView, "Committed, aborted or deciding.")},
        (Invalid, NotFound, Overloaded, *_READ),
        query=wire.OutcomeQuery,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/transactions/{gid}/outcome",
        "inquire",
        "A participant in doubt asks. A transaction that nobody recorded is aborted before the answer.",
        outcomes.inquire,
        {200: (wire.OutcomeView, "Committed, aborted or deciding.")},
        (*_BODY, Contradiction, Overloaded, *_READ),
        body=wire.InquiryRequest,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/transactions/{gid}/submit",
        "submit",
        "The sender of a message says that its source is done, and may wait for the decision.",
        outcomes.submit,
        {200: (wire.OutcomeView, "Committed, aborted or deciding.")},
        (Invalid, NotFound, Contradiction, Overloaded, *_READ),
        query=wire.OutcomeQuery,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/transactions/{gid}/steps/{name}",
        "report",
        "Whoever has done the work that a step has begun says how it has ended. The same again is harmless.",
        transactions.report,
        {200: (wire.BranchView, "The step, with the report in it.")},
        (*_BODY, WrongToken, NotFound, Contradiction, Overloaded, *_READ),
        body=ReportRequest,
        leader=True,
    ),
    *(
        Endpoint(
            "POST",
            f"/v1/transactions/{{gid}}/{name}",
            name,
            f"An operator has dead letters {what}; recorded with the operator's name.",
            handler,
            {200: (wire.TransactionView, "The record.")},
            (*_BODY, NotFound, Contradiction, Overloaded, *_READ),
            body=LettersRequest,
            leader=True,
        )
        for name, what, handler in (
            ("redeliver", "delivered once more", transactions.redeliver),
            ("drop", "given up", transactions.drop),
        )
    ),
    Endpoint(
        "POST",
        "/v1/transactions/{gid}/drop-notice",
        "drop_notice",
        "An operator has the application told no more of a decided transaction; recorded with the operator's name.",
        transactions.drop_notice,
        {200: (wire.TransactionView, "The record.")},
        (*_BODY, NotFound, Contradiction, Overloaded, *_READ),
        body=DropNoticeRequest,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/transactions/{gid}/resolve",
        "resolve",
        "An operator decides an undecided transaction; recorded with the operator's name.",
        transactions.resolve,
        {200: (wire.TransactionView, "The record, decided so.")},
        (*_BODY, NotFound, Contradiction, Overloaded, *_READ),
        body=wire.ResolveRequest,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/workflows",
        "start",
        "Begin a workflow, whose steps come from code that a worker runs. Answered when it is recorded.",
        workflows.start,
        {
            200: (wire.OutcomeView, "Decided, some time ago: committed or aborted."),
            202: (wire.OutcomeView, "Recorded, and not decided yet: ask at the handle."),
        },
        (*_BODY, GidReused, Overloaded, *_READ),
        body=wire_workflows.WorkflowRequest,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/workers",
        "claim",
        "A worker says which workflows of this replica's shard it runs, and asks for more to run.",
        workflows.claim,
        {200: (wire_workflows.ClaimAnswer, "What it is to run, and what it need not run any more.")},
        (*_BODY, Overloaded, *_READ),
        body=wire_workflows.ClaimRequest,
        query=wire_workflows.ClaimQuery,
        leader=True,
    ),
    Endpoint(
        "GET",
        "/v1/workflows/{gid}",
        "run",
        "Show which worker runs a workflow, as far as the leader knows.",
        workflows.show,
        {200: (wire_workflows.RunView, "Who runs it.")},
        (Invalid, NotFound, Contradiction, *_READ),
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/workflows/{gid}/steps",
        "step",
        "The code of a workflow asks for its next step, and may wait for the answer.",
        workflows.step,
        {200: (wire_workflows.StepAnswer, "What has become of it; while it is pending, the same request again.")},
        (*_BODY, NotFound, NotClaimed, NotDeterministic, Contradiction, Overloaded, Unreachable, *_READ),
        body=wire_workflows.StepAsk,
        query=wire.OutcomeQuery,
        leader=True,
    ),
    Endpoint(
        "POST",
        "/v1/workflows/{gid}/end",
        "end",
        "The code of a workflow has returned, which commits it, or failed, which aborts it.",
        workflows.end,
        {200: (wire.OutcomeView, "Committed, aborted or deciding; then the same request again.")},
        (*_BODY, NotFound, NotClaimed, NotDeterministic, Contradiction, Overloaded, *_READ),
        body=wire_workflows.RunEndRequest,
        query=wire.OutcomeQuery,
        leader=True,
    ),
    Endpoint(
        "GET",
        "/v1/cluster",
        "cluster",
        "The cluster as this replica sees it.",
        cluster.show,
        {200: (wire.ClusterView, "This replica's picture.")},
    ),
    Endpoint(
        "GET",
        MAP_PATH,
        "map",
        "The cluster's shards, and where their replicas are. Which shard a gid belongs to follows from their number.",
        cluster.map_,
        {200: (ClusterMap, "The map, which is the same at every replica.")},
    ),
    Endpoint(
        "GET",
        "/v1/participants",
        "participants",
        "The participants of the configuration.",
        cluster.participants,
        {200: (wire.ParticipantsView, "By name.")},
    ),
    Endpoint(
        "GET",
        "/livez",
        "live",
        "Whether the process serves.",
        health.live,
        {200: (wire.HealthView, "It does.")},
    ),
    Endpoint(
        "GET",
        "/readyz",
        "ready",
        "Whether requests make sense here.",
        health.ready,
        {200: (wire.HealthView, "A leader is known."), 503: (wire.HealthView, "No leader is known.")},
    ),
)
