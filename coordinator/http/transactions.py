"""Transactions: begin, show, examine, list, and what operators do about them. Parse, call the service, render."""

from __future__ import annotations

from aiohttp import web

from coordinator.http.arrays import begin_all
from coordinator.http.context import CONTEXT
from coordinator.http.media import gid_of, read_message, read_query, read_value, respond
from coordinator.http.shards import placed
from coordinator.http.views import (
    branch_view,
    examination_view,
    outcome_view,
    page_query_of,
    page_view,
    transaction_view,
)
from coordinator.ledger.commands import Heard
from coordinator.wire import BeginQuery, ResolveRequest, TransactionRequest, begin_wait_ms, parse, parse_name
from coordinator.wire_queries import DropNoticeRequest, ListQuery
from coordinator.wire_steps import LettersRequest, ReportRequest
from participant.traceparent import trace_in

__all__ = ["begin", "drop", "drop_notice", "examine", "list_", "redeliver", "report", "resolve", "show"]


async def begin(request: web.Request) -> web.StreamResponse:
    query = read_query(request, BeginQuery)
    value = await read_value(request)
    if isinstance(value, list):
        return await begin_all(request, query, value)
    context = request.app[CONTEXT]
    message = placed(context, _traced(request, parse(TransactionRequest, value)))
    view = outcome_view(await context.replica.transactions.begin(message, begin_wait_ms(message, query) / 1_000))
    return respond(request, view, status=200 if view.handle is None else 202)


def _traced(request: web.Request, message: TransactionRequest) -> TransactionRequest:
    """The transaction in the trace of its request, unless it names one of its own."""
    trace = trace_in(request.headers) if message.trace is None else ""
    return message.model_copy(update={"trace": trace}) if trace else message


async def show(request: web.Request) -> web.Response:
    """Of an open one, only the leader knows what is being done about it."""
    replica = request.app[CONTEXT].replica
    record = await replica.transactions.transaction(gid_of(request))
    if not record.finished:
        replica.transactions.require_leading()
    doing = replica.supervisor.doing(record.gid)
    return respond(request, transaction_view(record, replica.watch.stuck, doing, is_alone=True))


async def examine(request: web.Request) -> web.Response:
    examined = await request.app[CONTEXT].replica.transactions.examine(gid_of(request))
    return respond(request, examination_view(examined))


async def list_(request: web.Request) -> web.Response:
    replica = request.app[CONTEXT].replica
    query = page_query_of(read_query(request, ListQuery), replica.watch.stuck)
    return respond(request, page_view(await replica.transactions.page(query), replica.watch.stuck))


async def report(request: web.Request) -> web.Response:
    gid = gid_of(request)
    name = parse_name(request.match_info["name"], "name")
    message = await read_message(request, ReportRequest)
    return respond(request, branch_view(await request.app[CONTEXT].replica.transactions.report(gid, name, message)))


async def redeliver(request: web.Request) -> web.Response:
    return await _letters(request, Heard.REDELIVERED)


async def drop(request: web.Request) -> web.Response:
    return await _letters(request, Heard.DROPPED)


async def _letters(request: web.Request, heard: Heard) -> web.Response:
    gid = gid_of(request)
    message = await read_message(request, LettersRequest)
    replica = request.app[CONTEXT].replica
    record = await replica.transactions.letters(gid, heard, message)
    return respond(request, transaction_view(record, replica.watch.stuck))


async def drop_notice(request: web.Request) -> web.Response:
    gid = gid_of(request)
    message = await read_message(request, DropNoticeRequest)
    replica = request.app[CONTEXT].replica
    record = await replica.transactions.drop_notice(gid, message)
    return respond(request, transaction_view(record, replica.watch.stuck))


async def resolve(request: web.Request) -> web.Response:
    gid = gid_of(request)
    message = await read_message(request, ResolveRequest)
    record = await request.app[CONTEXT].replica.transactions.resolve(gid, message)
    return respond(request, transaction_view(record))
