"""The participant's HTTP: translation between requests and `service`, and nothing else.

JSON or msgpack, by `Content-Type` for the request and `Accept` for the answer (the request's, if there is none). What
is not an answer is problem details (RFC 9457).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Protocol

import msgpack
from aiohttp import web
from structlog import get_logger

from participant.errors import BranchConflict, MediaTypeError, ParticipantError, Reject, ResourceError, WireError
from participant.service import ParticipantService
from participant.stream import Streams
from participant.wire import ENLIST_HEADER, ENVELOPE_BYTES, STREAM_PATH, Answer, Operation, Verb

__all__ = ["JSON", "MSGPACK", "RETRY_AFTER_S", "Health", "build_app", "respond"]

JSON = "application/json"
MSGPACK = "application/msgpack"
RETRY_AFTER_S = 1

_PROBLEM = "application/problem+json"
_ARRAY_BYTES_MAX = 8 << 20  # one request, however many operations its limits would allow
_LOG = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Health(Protocol):
    """Whether the participant can still do its work."""

    def failure(self) -> str | None:
        """Why it cannot, if so."""


def build_app(service: ParticipantService, health: Health) -> web.Application:
    """The application; the caller adds routes of its own and runs it."""
    limits = service.limits
    size_max = max(
        limits.body_bytes_max + ENVELOPE_BYTES, min(_ARRAY_BYTES_MAX, service.capabilities().array_bytes_max)
    )
    app = web.Application(middlewares=[_problems], client_max_size=size_max)
    routes = _Routes(service, health)
    streams = Streams(service, size_max)

    async def close_streams(_: web.Application) -> None:
        await streams.close()

    app.on_shutdown.append(close_streams)
    app.add_routes(
        [
            web.get("/livez", routes.livez),
            web.get("/v1/capabilities", routes.capabilities),
            web.get("/v1/in-doubt", routes.in_doubt),
            web.get("/v1/status", routes.status),
            web.post("/v1/branches", routes.array),
            web.get(STREAM_PATH, streams.serve),
            web.get("/v1/branches/{gid}/{branch}/outcome", routes.outcome),
            web.post("/v1/branches/{gid}/{branch}/{verb}", routes.operation),
        ]
    )
    return app


class _Routes:
    def __init__(self, service: ParticipantService, health: Health) -> None:
        self._service = service
        self._health = health

    async def livez(self, _: web.Request) -> web.Response:
        failure = self._health.failure()
        if failure is not None:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "failed", failure)
        return web.Response(text="ok\n")

    async def capabilities(self, request: web.Request) -> web.Response:
        return respond(request, asdict(self._service.capabilities()))

    async def in_doubt(self, request: web.Request) -> web.Response:
        branches = [{"gid": key.gid, "branch": key.branch} for key in await self._service.in_doubt()]
        return respond(request, {"branches": branches})

    async def status(self, request: web.Request) -> web.Response:
        return respond(request, await self._service.measures())

    async def outcome(self, request: web.Request) -> web.Response:
        return respond(request, (await self._perform(request, Verb.OUTCOME.value, {})).to_map())

    async def operation(self, request: web.Request) -> web.Response:
        verb = request.match_info["verb"]
        if verb == Verb.OUTCOME.value:
            raise web.HTTPMethodNotAllowed(request.method, ["GET"])
        answer = await self._perform(request, verb, await _read_map(request))
        response = respond(request, answer.to_map())
        if verb == Verb.WORK.value:
            response.headers[ENLIST_HEADER] = f"{self._service.name};branch={request.match_info['branch']}"
        return response

    async def array(self, request: web.Request) -> web.StreamResponse:
        form = await _read_map(request)
        listed = form.pop("operations", None)
        if not isinstance(listed, list) or form:
            raise WireError("operations", "must be a list, and the only field")
        operations = self._service.read_array(listed)
        answers: dict[int, Answer] = {}
        async with aclosing(self._service.perform_all(operations)) as lists:
            async for answered in lists:
                answers.update(answered)
        return respond(request, {"answers": [answers[i].to_map() for i in range(len(operations))]})

    async def _perform(self, request: web.Request, verb: str, form: dict[str, Any]) -> Answer:
        for name in ("verb", "gid", "branch"):
            if name in form:
                raise WireError(name, "stands in the path, not in the body")
        path = {"verb": verb, "gid": request.match_info["gid"], "branch": request.match_info["branch"]}
        return await self._service.perform(Operation.from_map(form | path, "operation"))


async def _read_map(request: web.Request) -> dict[str, Any]:
    """The request's body as a map; an absent body is an empty one. Raises WireError, MediaTypeError."""
    data = await request.read()
    if not data:
        return {}
    match request.content_type:
        case "application/json":
            value = _from_json(data)
        case "application/msgpack":
            value = _from_msgpack(data)
        case other:
            raise MediaTypeError(f"the content type must be {JSON} or {MSGPACK}, not {other}")
    if not isinstance(value, dict):
        raise WireError("request", "must be a map")
    return value


def _from_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise WireError("request", "is nested too deeply") from None
    except ValueError as error:
        raise WireError("request", f"is not JSON: {error}") from None


def _from_msgpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("request", f"is not msgpack: {error or type(error).__name__}") from None


def respond(request: web.Request, value: Any) -> web.Response:
    """`value` in the encoding that the request prefers."""
    accepted = request.headers.get("Accept", "*/*")
    if MSGPACK in accepted or (JSON not in accepted and request.content_type == MSGPACK):
        return web.Response(body=msgpack.packb(value), content_type=MSGPACK)
    try:
        return web.Response(text=json.dumps(value, ensure_ascii=False, allow_nan=False), content_type=JSON)
    except TypeError:  # the only value that msgpack has and JSON has not
        return _problem(HTTPStatus.NOT_ACCEPTABLE, "bytes", f"the answer holds bytes; accept {MSGPACK}")


def _problem(status: HTTPStatus, code: str, detail: str, **more: Any) -> web.Response:
    value = {
        "type": f"urn:commitd:participant:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        **more,
    }
    return web.Response(text=json.dumps(value), status=status.value, content_type=_PROBLEM)


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as problem details."""
    try:
        return await handler(request)
    except WireError as error:
        return _problem(HTTPStatus.BAD_REQUEST, "malformed", error.why, field=error.field)
    except BranchConflict as error:
        return _problem(HTTPStatus.CONFLICT, "branch-conflict", str(error))
    except MediaTypeError as error:
        return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", str(error))
    except Reject as error:  # by a view; an action's is an answer
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "rejected", error.reason)
    except ResourceError as error:
        response = _problem(HTTPStatus.SERVICE_UNAVAILABLE, "resource", str(error))
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response
    except ParticipantError as error:
        _LOG.exception("request.failed", path=request.path)
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", str(error))
    except web.HTTPException as error:
        response = _problem(HTTPStatus(error.status), "http", error.text or error.reason)
        response.headers.update({name: error.headers[name] for name in ("Allow",) if name in error.headers})
        return response
    except Exception:  # noqa: BLE001 - the border: a defect must not look like an answer
        _LOG.exception("request.failed", path=request.path)
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "a defect of this participant; see its log")
