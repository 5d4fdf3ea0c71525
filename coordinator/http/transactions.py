"""Transactions: begin, show, list, resolve. Parse, call the service, render."""

from __future__ import annotations

from aiohttp import web

from coordinator.http.context import CONTEXT
from coordinator.http.media import gid_of, read_message, read_query, respond
from coordinator.http.views import outcome_view, page_query_of, page_view, transaction_view
from coordinator.wire import WAIT_GRACE_MS, WAIT_MAX_MS, BeginQuery, ListQuery, ResolveRequest, TransactionRequest

__all__ = ["begin", "list_", "resolve", "show"]


async def begin(request: web.Request) -> web.Response:
    query = read_query(request, BeginQuery)
    message = await read_message(request, TransactionRequest)
    transactions = request.app[CONTEXT].replica.transactions
    wait_ms = min(message.deadline_ms + WAIT_GRACE_MS, WAIT_MAX_MS) if query.wait_ms is None else query.wait_ms
    gid, record = await transactions.begin(message, wait_ms / 1_000)
    view = outcome_view(gid, record)
    return respond(request, view, status=200 if view.handle is None else 202)


async def show(request: web.Request) -> web.Response:
    record = await request.app[CONTEXT].replica.transactions.transaction(gid_of(request))
    return respond(request, transaction_view(record))


async def list_(request: web.Request) -> web.Response:
    query = page_query_of(read_query(request, ListQuery))
    page = await request.app[CONTEXT].replica.transactions.page(query)
    return respond(request, page_view(page))


async def resolve(request: web.Request) -> web.Response:
    gid = gid_of(request)
    message = await read_message(request, ResolveRequest)
    record = await request.app[CONTEXT].replica.transactions.resolve(gid, message)
    return respond(request, transaction_view(record))
