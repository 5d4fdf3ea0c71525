"""A request and its response, as every framework can give and take them: encodings, and errors as problem details.

JSON or msgpack, by `Content-Type` for the request and `Accept` for the answer (the request's, if there is none). What
is not an answer is problem details (RFC 9457). Must never do: know a framework, or read from a connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgpack
from multidict import MultiMapping
from structlog import get_logger

from participant.errors import (
    BranchConflict,
    MediaTypeError,
    NoSuchPath,
    NotRunning,
    ParticipantError,
    Reject,
    ResourceError,
    TooLarge,
    TooSlow,
    WireError,
    WrongMethod,
)

__all__ = [
    "JSON",
    "MSGPACK",
    "RETRY_AFTER_S",
    "Request",
    "Response",
    "is_plain",
    "problem",
    "problem_of",
    "read_map",
    "respond",
]

JSON = "application/json"
MSGPACK = "application/msgpack"
PROBLEM = "application/problem+json"
RETRY_AFTER_S = 1

_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is what stands below the place where the participant is mounted, decoded; `query` is as it was sent. The
    names of `headers` have no case. `has_stream`: whether whoever serves it takes streams (`participant.stream`).
    """

    method: str
    path: str
    query: str
    headers: MultiMapping[str]
    body: bytes
    has_stream: bool

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_encoding(self) -> str:
        return self.headers.get("Content-Encoding", "")


@dataclass(frozen=True, slots=True)
class Response:
    """`content_type` has no parameters; what is text is UTF-8."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def is_plain(content_encoding: str) -> bool:
    """Whether a body is not compressed. What is could be small on the way and without end here."""
    return content_encoding.strip().lower() in ("", "identity")


def read_map(request: Request) -> dict[str, Any]:
    """The request's body as a map; an absent body is an empty one. Raises WireError, MediaTypeError."""
    data = request.body
    if not is_plain(request.content_encoding):
        raise MediaTypeError(f"the content encoding must be identity, not {request.content_encoding:.80}")
    if not data:
        return {}
    match request.media_type:
        case "application/json":
            value = _from_json(data)
        case "application/msgpack":
            value = _from_msgpack(data)
        case other:
            raise MediaTypeError(f"the content type must be {JSON} or {MSGPACK}, not {other or 'absent'}")
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


def respond(request: Request, value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """`value` in the encoding that the request prefers."""
    accepted = request.headers.get("Accept", "*/*")
    if MSGPACK in accepted or (JSON not in accepted and request.media_type == MSGPACK):
        return Response(HTTPStatus.OK, MSGPACK, msgpack.packb(value), headers or {})
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError:  # the only value that msgpack has and JSON has not
        return problem(HTTPStatus.NOT_ACCEPTABLE, "bytes", f"the answer holds bytes; accept {MSGPACK}")
    return Response(HTTPStatus.OK, JSON, text.encode(), headers or {})


def problem(
    status: HTTPStatus, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """Problem details; `code` is the end of their type."""
    value = {
        "type": f"urn:commitd:participant:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        **more,
    }
    return Response(status, PROBLEM, json.dumps(value).encode(), headers or {})


def problem_of(error: Exception, path: str) -> Response:
    """What is said of an error. One of our own making is in the log, and no more of it is told."""
    later = {"Retry-After": str(RETRY_AFTER_S)}
    match error:
        case WireError():
            return problem(HTTPStatus.BAD_REQUEST, "malformed", error.why, field=error.field)
        case BranchConflict():
            return problem(HTTPStatus.CONFLICT, "branch-conflict", str(error))
        case MediaTypeError():
            return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", str(error))
        case Reject():  # by a view; an action's is an answer
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "rejected", error.reason)
        case NoSuchPath():
            return problem(HTTPStatus.NOT_FOUND, "http", str(error))
        case WrongMethod():
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, "http", str(error), {"Allow": ", ".join(error.allowed)})
        case TooLarge():
            return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "http", str(error))
        case TooSlow():
            return problem(HTTPStatus.REQUEST_TIMEOUT, "http", str(error))
        case NotRunning():
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-running", str(error), later)
        case ResourceError():
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "resource", str(error), later)
    _LOG.error("request.failed", path=path, exc_info=error)
    is_ours = isinstance(error, ParticipantError)
    detail = str(error) if is_ours else "a defect of this participant; see its log"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)
