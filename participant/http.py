"""A participant in aiohttp: `Endpoints` and the stream as a `web.Application`, alone or below another one.

Must never do: know what an endpoint does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import hdrs, web

from participant.bounded import read_bounded
from participant.endpoints import BODY_TIMEOUT_S, Endpoints
from participant.errors import ParticipantError, TooLarge, TooSlow
from participant.exchange import Request, Response, is_plain, problem, problem_of
from participant.stream import Streams
from participant.wire import STREAM_PATH

__all__ = ["build_app"]


def build_app(current: Callable[[], Endpoints]) -> web.Application:
    """The application. `current` gives the endpoints of the participant that runs, or raises NotRunning."""
    app = web.Application()
    streams = Streams(current)

    async def stream(request: web.Request) -> web.StreamResponse:
        try:
            return await streams.serve(request)
        except ParticipantError as error:
            return _told(problem_of(error, request.path))
        except web.HTTPException as error:
            return _told(problem(HTTPStatus(error.status), "http", error.text or error.reason))

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            endpoints = current()
            read = await _read(request, endpoints.size_max)
        except ConnectionError:  # whoever asked has hung up, and hears nothing
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        except Exception as error:  # noqa: BLE001 - the border: a request may be no HTTP
            return _told(problem_of(error, request.path))
        return _told(await endpoints.answer(read))

    async def close_streams(_: web.Application) -> None:
        await streams.close()

    app.on_shutdown.append(close_streams)
    app.router.add_get(STREAM_PATH, stream)
    app.router.add_route(hdrs.METH_ANY, "/{path:.*}", answer)
    return app


async def _read(request: web.Request, size_max: int) -> Request:
    """Raises TooLarge. The limit of the application is for its other paths: that of the outermost one counts there."""
    body = b""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "")
    if request.body_exists and is_plain(encoding):  # what is compressed will be refused, and is not unpacked before
        if (request.content_length or 0) > size_max:
            raise TooLarge(size_max)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await read_bounded(request.content, size_max)
        except TimeoutError:
            raise TooSlow(BODY_TIMEOUT_S) from None
        if len(body) > size_max:
            raise TooLarge(size_max)
    return Request(
        request.method,
        f"/{request.match_info['path']}",
        request.query_string,
        request.headers,
        body,
        has_stream=True,
    )


def _told(response: Response) -> web.Response:
    return web.Response(
        body=response.body, status=response.status, content_type=response.content_type, headers=response.headers
    )
