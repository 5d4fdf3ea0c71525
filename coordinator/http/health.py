"""For whoever watches the process: alive (the event loop turns), ready (a leader is known, so requests make sense)."""

from __future__ import annotations

from aiohttp import web

from coordinator.http.context import CONTEXT
from coordinator.http.media import respond
from coordinator.wire import HealthView

__all__ = ["live", "ready"]


async def live(request: web.Request) -> web.Response:
    return respond(request, HealthView(status="ok", detail="the event loop turns"))


async def ready(request: web.Request) -> web.Response:
    leader = request.app[CONTEXT].replica.log.leadership.leader
    if leader is None:
        return respond(request, HealthView(status="unavailable", detail="no leader is known"), status=503)
    return respond(request, HealthView(status="ok", detail=f"{leader} leads"))
