"""Bytes to messages and back: content types, limits on bodies, query parameters, path parameters."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, get_origin

from aiohttp import web
from pydantic import BaseModel

from coordinator.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from coordinator.http.context import CONTEXT
from coordinator.http.shards import require_own
from coordinator.wire import REQUEST_BYTES_MAX, Encoding, decode, encode, parse, parse_name

__all__ = ["BODY_TIMEOUT_S", "gid_of", "read_message", "read_query", "read_value", "respond"]

BODY_TIMEOUT_S = 10.0

_ENCODINGS = {
    "application/json": Encoding.JSON,
    "application/msgpack": Encoding.MSGPACK,
    "application/x-msgpack": Encoding.MSGPACK,
    "application/vnd.msgpack": Encoding.MSGPACK,
}
_M = TypeVar("_M", bound=BaseModel)


async def read_message(request: web.Request, model: type[_M]) -> _M:
    """The body as a message. Raises: UnsupportedMedia, TooLarge, Malformed, Invalid."""
    return parse(model, await read_value(request))


async def read_value(request: web.Request) -> Any:
    """What the body holds. Raises: UnsupportedMedia, TooLarge, Malformed."""
    encoding = _ENCODINGS.get(request.content_type)
    if encoding is None:
        raise UnsupportedMedia(f"{request.content_type} is not read here; send {' or '.join(Encoding)}")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the body is more than {REQUEST_BYTES_MAX} bytes") from error
    except TimeoutError as error:
        raise Malformed(f"the body did not arrive within {BODY_TIMEOUT_S} s") from error
    return decode(data, encoding)


def read_query(request: web.Request, model: type[_M]) -> _M:
    """The parameters after the `?`. Raises Invalid, which names the parameter."""
    values: dict[str, Any] = {}
    for key in request.query:
        field = model.model_fields.get(key)
        given = request.query.getall(key)
        if field is not None and get_origin(field.annotation) is list:
            values[key] = given
        elif len(given) > 1:
            raise Invalid.field(key, "is given more than once")
        else:
            values[key] = given[0]
    return parse(model, values)


def gid_of(request: web.Request) -> str:
    """The gid in the path, which belongs to this replica's shard. Raises: Invalid, OtherShard."""
    gid = parse_name(request.match_info["gid"], "gid")
    require_own(request.app[CONTEXT], gid)
    return gid


def respond(
    request: web.Request, message: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """The message in msgpack if the caller accepts that, else in JSON."""
    wanted = request.headers.get("Accept", "")
    encoding = Encoding.MSGPACK if "msgpack" in wanted else Encoding.JSON
    return web.Response(body=encode(message, encoding), status=status, content_type=encoding.value, headers=headers)
