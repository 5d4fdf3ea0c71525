"""A server that says whatever a test wants, request by request: for what no well-behaved server would do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from coordinator.shards import MAP_PATH, map_of

__all__ = ["Impostor", "Script", "impostor"]

Script = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Impostor:
    """`url` of the server; `seen` has the method, path and decoded JSON or raw body of each request.

    Asked for the cluster map, it takes itself for all there is; that is not counted as a request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, str, bytes]] = []
        self.scripts: list[Script] = []

    def then(self, script: Script, times: int = 1) -> None:
        """Answer the next `times` requests so; the last script stays for all that follow."""
        self.scripts += [script] * times

    def then_json(self, body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> None:
        """Answer the next request with this JSON."""

        async def script(_: web.BaseRequest) -> web.StreamResponse:
            return web.json_response(body, status=status, content_type=content_type, headers=headers)

        self.then(script)

    def then_hang_up(self) -> None:
        """Take the next request, and cut the connection without an answer."""

        async def script(request: web.BaseRequest) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        self.then(script)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == MAP_PATH:
            return web.json_response(map_of("impostor", [{"impostor": self.url}]).model_dump())
        self.seen.append((request.method, request.path_qs, await request.read()))
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return await script(request)


@asynccontextmanager
async def impostor(made: Impostor | None = None) -> AsyncIterator[Impostor]:
    """An impostor that listens on loopback."""
    made = made or Impostor()
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
