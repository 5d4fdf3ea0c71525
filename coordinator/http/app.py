"""The aiohttp application of one replica, and the server that runs it on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from aiohttp import web

from coordinator.http import openapi
from coordinator.http.context import CONTEXT, Context
from coordinator.http.endpoints import ENDPOINTS
from coordinator.http.metrics import metrics
from coordinator.http.middleware import border, connection_limit
from coordinator.wire import REQUEST_BYTES_MAX

__all__ = ["build_app", "serving"]


def build_app(context: Context, chance: Random) -> web.Application:
    """The application over a replica, which the caller starts and stops."""
    app = web.Application(
        client_max_size=REQUEST_BYTES_MAX,
        middlewares=[connection_limit(context.requests_per_connection_max), border(chance)],
    )
    app[CONTEXT] = context
    for endpoint in ENDPOINTS:
        app.router.add_route(endpoint.method, endpoint.path, endpoint.handler)
    app.router.add_route("GET", "/v1/openapi.json", _describe)
    app.router.add_route("GET", "/metrics", metrics)
    return app


async def _describe(_: web.Request) -> web.Response:
    return web.Response(text=await asyncio.to_thread(openapi.text), content_type="application/json")


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, *, shutdown_s: float) -> AsyncIterator[int]:
    """Serve on `host:port` (0: any free port) and give the port; requests get `shutdown_s` to end."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_s)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
