"""The border of the HTTP API: whatever a handler raises becomes an answer here, and nowhere else.

Problem details as in RFC 9457; a request for the leader gets 307 with the same path at the leader, and its name in
`Commitd-Leader`; one about a gid of another shard gets 307 to that shard's replica on this node, and the shard's number
in `Commitd-Shard`; a connection is closed after its limit of requests.
"""

from __future__ import annotations

import asyncio
import re
from random import Random
from weakref import WeakKeyDictionary

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from coordinator.errors import (
    RETRY_AFTER_S,
    Internal,
    MethodNotAllowed,
    NoLeader,
    NotFound,
    NotLeader,
    OtherShard,
    RequestError,
    TooLarge,
)
from coordinator.http.context import CONTEXT, REQUEST_ID, REQUEST_ID_HEADER
from coordinator.http.shards import url_at
from coordinator.http.views import problem_of
from coordinator.shards import SHARD_HEADER
from coordinator.wire import LEADER_HEADER, Encoding, encode

__all__ = ["PROBLEM_TYPE", "border", "connection_limit"]

PROBLEM_TYPE = "application/problem+json"

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_log = structlog.get_logger(__name__)


def border(chance: Random) -> Middleware:
    """Give each request an id (the caller's, if it sent one), and turn every error into an answer."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request[REQUEST_ID] = request_id = given if _REQUEST_ID.fullmatch(given) else f"{chance.getrandbits(64):016x}"
        try:
            response = await handler(request)
        except NotLeader as error:
            response = _to_leader(request, error, request_id)
        except OtherShard as error:
            response = _to_shard(request, error)
        except RequestError as error:
            response = _problem(request, error, request_id)
        except web.HTTPException as error:
            response = _problem(request, _of_http(request, error), request_id)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception:  # noqa: BLE001 (the border: a caller never sees a traceback)
            _log.exception("request.failed", method=request.method, path=request.path, request_id=request_id)
            response = _problem(request, Internal("the log of this replica says more"), request_id)
        if not response.prepared:
            response.headers[REQUEST_ID_HEADER] = request_id
        return response

    return answer


def connection_limit(requests_max: int) -> Middleware:
    """Close a connection after `requests_max` requests, so that callers spread anew and nothing piles up."""
    served: WeakKeyDictionary[asyncio.BaseTransport, int] = WeakKeyDictionary()

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        transport = request.transport
        if transport is not None:
            served[transport] = served.get(transport, 0) + 1
            if served[transport] >= requests_max:
                response.force_close()
        return response

    return count


def _to_leader(request: web.Request, error: NotLeader, request_id: str) -> web.Response:
    context = request.app[CONTEXT]
    url = context.urls.get(error.leader or "") if error.leader != context.node else None
    if url is None:
        return _problem(request, NoLeader("no replica leads now; come again", retry_after_s=RETRY_AFTER_S), request_id)
    headers = {"Location": url + request.raw_path, LEADER_HEADER: str(error.leader)}
    return web.Response(status=307, headers=headers)


def _to_shard(request: web.Request, error: OtherShard) -> web.Response:
    url = url_at(request.app[CONTEXT], error.shard)
    return web.Response(status=307, headers={"Location": url + request.raw_path, SHARD_HEADER: str(error.shard)})


def _of_http(request: web.Request, error: web.HTTPException) -> RequestError:
    match error:
        case web.HTTPNotFound():
            return NotFound(f"there is no path {request.path}")
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowed(f"{request.path} takes {', '.join(sorted(error.allowed_methods))}")
        case web.HTTPRequestEntityTooLarge():
            return TooLarge("the body is too large")
    return Internal(f"{error.status} {error.reason}")


def _problem(request: web.Request, error: RequestError, request_id: str) -> web.Response:
    problem = problem_of(error, request.path, request_id)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    body = encode(problem, Encoding.JSON)
    return web.Response(body=body, status=error.status, content_type=PROBLEM_TYPE, headers=headers)
