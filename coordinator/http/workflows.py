"""Workflows: begin one, and what a worker that runs their code says and hears. Parse, call the service, render."""

from __future__ import annotations

from aiohttp import web

from coordinator.driver.waiters import Known
from coordinator.http.context import CONTEXT
from coordinator.http.media import gid_of, read_message, read_query, respond
from coordinator.http.shards import own_gid
from coordinator.http.views import claim_view, outcome_view, step_view
from coordinator.wire import OutcomeQuery
from coordinator.wire_workflows import ClaimQuery, ClaimRequest, RunEndRequest, RunView, StepAsk, WorkflowRequest
from participant.traceparent import trace_in

__all__ = ["claim", "end", "show", "start", "step"]


async def start(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    message = await read_message(request, WorkflowRequest)
    if message.trace is None:
        message = message.model_copy(update={"trace": trace_in(request.headers) or None})
    message = message.model_copy(update={"gid": own_gid(context, message.gid)})
    record = await context.replica.workflows.start(message)
    view = outcome_view(Known.of(record))
    return respond(request, view, status=200 if view.handle is None else 202)


async def claim(request: web.Request) -> web.Response:
    query = read_query(request, ClaimQuery)
    message = await read_message(request, ClaimRequest)
    claimed = await request.app[CONTEXT].replica.workflows.claim(message, query.wait_ms / 1_000)
    return respond(request, claim_view(claimed))


async def step(request: web.Request) -> web.Response:
    gid = gid_of(request)
    query = read_query(request, OutcomeQuery)
    ask = await read_message(request, StepAsk)
    record, answer = await request.app[CONTEXT].replica.workflows.step(gid, ask, query.wait_ms / 1_000)
    return respond(request, step_view(record, ask.number, answer))


async def end(request: web.Request) -> web.Response:
    gid = gid_of(request)
    query = read_query(request, OutcomeQuery)
    message = await read_message(request, RunEndRequest)
    return respond(
        request, outcome_view(await request.app[CONTEXT].replica.workflows.end(gid, message, query.wait_ms / 1_000))
    )


async def show(request: web.Request) -> web.Response:
    gid = gid_of(request)
    workflow, worker = await request.app[CONTEXT].replica.workflows.worker_of(gid)
    return respond(request, RunView(gid=gid, workflow=workflow.name, worker=worker))
