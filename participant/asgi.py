"""A participant as an ASGI application, to be mounted in FastAPI, Starlette, Litestar, Django and the like.

Owns how a request is read from ASGI, and no more of it than a limit. Must never do: know what an endpoint does.

There is no stream. Whether the server underneath takes WebSockets, ASGI does not say, and uvicorn for one does not
unless another package is installed; a participant must not promise what then is not there. Arrays come as requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from multidict import CIMultiDict

from participant.endpoints import BODY_TIMEOUT_S, Endpoints
from participant.errors import ConfigError, NotRunning, TooLarge, TooSlow
from participant.exchange import Request, Response, problem_of

__all__ = ["LINGER_BYTES_MAX", "LINGER_S", "Application", "build_application"]

# What is on its way when a request turns out to be too large is read and thrown away, because many a caller hears the
# answer only then; of more than this, the rest is cut off.
LINGER_BYTES_MAX = 32 << 20
LINGER_S = 5.0

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class _Gone(Exception):
    """Whoever asked has hung up."""


def build_application(current: Callable[[], Endpoints]) -> Application:
    """The application. `current` gives the endpoints of the participant that runs, or raises NotRunning."""

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await _respond(current, scope, receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close"})  # before it is accepted: 403
            case "lifespan":
                raise ConfigError("a participant is mounted in an application, whose lifespan enters running()")

    return application


async def _respond(
    current: Callable[[], Endpoints], scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    path = _path_below(scope)
    try:
        endpoints = current()
        request = _request(scope, path, await _read_in_time(scope, receive, endpoints.size_max))
    except _Gone:
        return
    except (NotRunning, TooLarge, TooSlow) as error:
        response = problem_of(error, path)
    else:
        response = await endpoints.answer(request)
    await _send(response, send)


def _path_below(scope: MutableMapping[str, Any]) -> str:
    """Starlette leaves the whole path and says where it is mounted, as ASGI has it; Litestar leaves the rest only."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _request(scope: MutableMapping[str, Any], path: str, body: bytes) -> Request:
    headers = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return Request(
        scope["method"],
        path,
        scope.get("query_string", b"").decode("latin-1"),
        headers,
        body,
        has_stream=False,
    )


async def _read_in_time(scope: MutableMapping[str, Any], receive: Receive, size_max: int) -> bytes:
    """Raises TooSlow, TooLarge, and _Gone."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(scope, receive, size_max)
    except TimeoutError:
        raise TooSlow(BODY_TIMEOUT_S) from None


async def _read(scope: MutableMapping[str, Any], receive: Receive, size_max: int) -> bytes:
    """Raises TooLarge, and _Gone."""
    declared = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
    is_too_large = declared.isdigit() and (len(declared) > 18 or int(declared) > size_max)
    body = bytearray()
    more = True
    while more and not is_too_large:
        piece, more = await _receive(receive)
        body += piece
        is_too_large = len(body) > size_max
    if not is_too_large:
        return bytes(body)
    await _throw_away(receive, more=more)
    raise TooLarge(size_max)


async def _throw_away(receive: Receive, *, more: bool) -> None:
    """The rest of a body, within the limits of our patience."""
    left_bytes = LINGER_BYTES_MAX
    try:
        async with asyncio.timeout(LINGER_S):
            while more and left_bytes > 0:
                piece, more = await _receive(receive)
                left_bytes -= len(piece)
    except TimeoutError:
        return


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """A piece of the body, and whether there is more."""
    message = await receive()
    if message["type"] != "http.request":
        raise _Gone
    return message.get("body", b""), message.get("more_body", False)


async def _send(response: Response, send: Send) -> None:
    headers = {
        "content-type": response.content_type,
        "content-length": str(len(response.body)),
        **{name.lower(): value for name, value in response.headers.items()},
    }
    listed = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(response.status), "headers": listed})
    await send({"type": "http.response.body", "body": response.body})
