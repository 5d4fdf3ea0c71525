"""Outcomes: callers and operators look (nothing changes), participants in doubt inquire (an abort may be made), the
sender of a message submits it (what became of its source is found out)."""

from __future__ import annotations

from aiohttp import web

from coordinator.driver.waiters import Known
from coordinator.http.context import CONTEXT
from coordinator.http.media import gid_of, read_message, read_query, respond
from coordinator.http.views import outcome_view
from coordinator.wire import InquiryRequest, Outcome, OutcomeQuery, OutcomeView

__all__ = ["inquire", "look", "submit"]


async def look(request: web.Request) -> web.Response:
    gid = gid_of(request)
    query = read_query(request, OutcomeQuery)
    return respond(
        request, outcome_view(await request.app[CONTEXT].replica.transactions.outcome(gid, query.wait_ms / 1_000))
    )


async def submit(request: web.Request) -> web.Response:
    gid = gid_of(request)
    query = read_query(request, OutcomeQuery)
    return respond(
        request, outcome_view(await request.app[CONTEXT].replica.transactions.submit(gid, query.wait_ms / 1_000))
    )


async def inquire(request: web.Request) -> web.Response:
    gid = gid_of(request)
    message = await read_message(request, InquiryRequest)
    record = await request.app[CONTEXT].replica.transactions.inquire(gid, message)
    if record is None:
        why = f"{message.branch} is no branch of {gid}"
        return respond(request, OutcomeView(gid=gid, outcome=Outcome.ABORTED, reason=why, branch=None, handle=None))
    return respond(request, outcome_view(Known.of(record)))
