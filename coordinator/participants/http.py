"""Participants over HTTP: what `lane.py` puts together travels here, and its answers come back.

An array goes through the `stream.py` of a participant that has one, else in a request of its own; where no arrays are
taken, each operation goes alone. In msgpack; a participant that gives its capabilities in JSON, although msgpack was
asked for, knows no other, and each operation goes alone to it, in JSON.

Owns: the session, the URLs, a lane and a stream for each participant. Must never do: retry (the protocol decides what
comes next), or take anything but a well-formed answer for an answer: whatever else happens is `CallFailed`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import msgpack
import structlog
from yarl import URL

from coordinator.participants.documents import Documents
from coordinator.participants.lane import Lane, Request
from coordinator.participants.stream import GOODBYE_S, Stream
from coordinator.ports import CallFailed
from participant.traceparent import headers_of
from participant.wire import (
    BRANCHES_PATH,
    STREAM_PATH,
    STREAM_PROTOCOL,
    WIRE_VERSION,
    Answer,
    Capabilities,
    Operation,
    Verb,
    branch_path,
)

__all__ = ["ANSWER_BYTES_MAX", "HttpParticipants", "capabilities_of"]

_log = structlog.get_logger(__name__)

ANSWER_BYTES_MAX = 1 << 20  # one response, however many operations it answers
CONTENT_TYPE = "application/msgpack"
JSON = "application/json"
# What is compressed could be small on the way and without end here.
_PLAIN = {"Accept-Encoding": "identity"}
_HEADERS = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE} | _PLAIN
_JSON_HEADERS = {"Content-Type": JSON, "Accept": JSON} | _PLAIN
_EITHER_HEADERS = {"Accept": f"{CONTENT_TYPE}, {JSON};q=0.5"} | _PLAIN
_ARRAY_KEY = b"\x81" + msgpack.packb("operations")  # a map with one entry, up to its value


class HttpParticipants:
    """The `Participants` port over one `aiohttp.ClientSession`. To be used between `start` and `stop`.

    `urls`: the participants by name. `timeout_s`: how long a participant may take to be connected, and then to say
    something; whoever calls bounds how long it waits for its own answer. `refresh_s`: how old a capabilities
    document may be. `connections_max`: requests that are open at once, for each participant.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        timeout_s: float = 5.0,
        refresh_s: float = 30.0,
        connections_max: int = 128,
    ) -> None:
        self._urls = dict(urls)
        # A request is shared: one that is slow must not end it for another one that will soon be answered. So what is
        # bounded is silence, by as much as a caller waits at most: when nothing has come for so long, every caller
        # whose answer is missing has waited longer than that, and is gone.
        self._timeout_s = timeout_s
        self._timeout = aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_read=timeout_s)
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None
        self._documents = Documents(self._read_capabilities, refresh_s)
        self._lanes: dict[str, Lane] = {}
        self._streams: dict[str, Stream] = {}
        self._in_json: set[str] = set()  # those who know no msgpack, by their last documents

    async def start(self) -> None:
        """Open the session."""
        connector = aiohttp.TCPConnector(limit=0)  # the lanes have limits
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_stay)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[tracing],
        )

    async def stop(self) -> None:
        """Close the session; calls under way end as CallFailed."""
        session, self._session = self._session, None
        await self._documents.stop()
        for lane in self._lanes.values():
            await lane.stop()
        for stream in self._streams.values():
            await stream.stop()
        if session is not None:
            await session.close()

    def known(self, name: str) -> bool:
        return name in self._urls

    def url(self, name: str) -> str:
        return self._urls[name]

    async def capabilities(self, name: str) -> Capabilities:
        """The last document read; an old one is read again meanwhile. Only a first one is waited for."""
        return await self._documents.current(name)

    def call(self, name: str, operation: Operation) -> asyncio.Future[Answer]:
        lane = self._lanes.get(name)
        if lane is None:
            if name not in self._urls or self._session is None:
                return _failed(f"{name} cannot be called: it is not configured, or we are not started")
            document = partial(self._documents.last, name)
            lane = self._lanes[name] = Lane(name, partial(self._send, name), document, self._connections_max)
            self._streams[name] = Stream(name, partial(self._connect, name), self._timeout_s)
        return lane.put(operation)

    async def _send(self, name: str, request: Request) -> None:
        """Carry one request of a lane. Raises CallFailed."""
        document = self._documents.last(name)
        if not request.is_array:
            await self._send_alone(name, request)
        elif document is not None and document.stream:
            await self._streams[name].send(request)
        else:
            await self._send_array(name, request)

    async def _send_array(self, name: str, request: Request) -> None:
        """Many operations, whose answers come all together."""
        async with self._responding("POST", name, BRANCHES_PATH, _ARRAY_KEY + request.array, _HEADERS) as response:
            request.begin()
            if 400 <= response.status < 500:  # it may be another one than the one we know
                self._documents.doubt(name)
            document = await _read_document(name, response, lambda: request.is_awaited)
            request.answer_all(document.get("answers") if isinstance(document, dict) else None)

    async def _send_alone(self, name: str, request: Request) -> None:
        """One operation, as every participant understands it."""
        (operation,) = request.operations
        path = branch_path(operation.key, operation.verb)
        method = "GET" if operation.verb is Verb.OUTCOME else "POST"
        in_json = name in self._in_json
        headers = _JSON_HEADERS if in_json else _HEADERS
        if operation.trace:
            headers = headers | headers_of(operation.trace)
        async with self._responding(method, name, path, _body_alone(name, operation, in_json), headers) as response:
            request.answer_all([await _read_document(name, response, lambda: request.is_awaited)])

    async def _connect(self, name: str) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket of the contract. Raises CallFailed."""
        if self._session is None:
            raise CallFailed(f"{name} cannot be called: we are not started")
        self._documents.doubt(name)  # when one connection follows another, it may be to another version
        try:
            async with asyncio.timeout(self._timeout_s):
                socket = await self._session.ws_connect(
                    URL(self._urls[name] + STREAM_PATH, encoded=True),
                    protocols=(STREAM_PROTOCOL,),
                    max_msg_size=ANSWER_BYTES_MAX,
                    heartbeat=self._timeout_s,
                    timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_S),
                )
        except TimeoutError as error:
            raise CallFailed(self._silent(name)) from error
        except aiohttp.WSServerHandshakeError as error:
            raise CallFailed(f"{name} has no stream: status {error.status}", heard=error.status < 500) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(f"{name}: {error or type(error).__name__}") from error
        if socket.protocol != STREAM_PROTOCOL:
            with suppress(TimeoutError):  # it may go on talking
                async with asyncio.timeout(GOODBYE_S):
                    await socket.close()
            raise CallFailed(f"{name} does not speak {STREAM_PROTOCOL} over its stream", heard=True)
        return socket

    async def _read_capabilities(self, name: str) -> Capabilities:
        """Raises CallFailed."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._responding("GET", name, "/v1/capabilities", None, _EITHER_HEADERS) as response,
            ):
                capabilities = capabilities_of(await _read_document(name, response, lambda: True))
                in_json = response.content_type == JSON
        except TimeoutError as error:
            raise CallFailed(self._silent(name)) from error
        if in_json:
            self._in_json.add(name)
            capabilities = replace(capabilities, arrays=False, stream=False)
        else:
            self._in_json.discard(name)
        if capabilities.name != name:  # its inquiries come under its own name, which is nobody's here
            _log.error("participant.misnamed", participant=name, calls_itself=capabilities.name, url=self._urls[name])
        return capabilities

    @asynccontextmanager
    async def _responding(
        self, method: str, name: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that has begun. Raises CallFailed, also in the place of what reading it raises."""
        if self._session is None or name not in self._urls:
            raise CallFailed(f"{name} cannot be called: it is not configured, or we are not started")
        url = URL(self._urls[name] + path, encoded=True)
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                yield response
        except TimeoutError as error:
            raise CallFailed(self._silent(name)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(f"{name}: {error or type(error).__name__}") from error

    def _silent(self, name: str) -> str:
        return f"{name} did not answer within {self._timeout_s:g} s"


async def _stay(_: object, __: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
    """A participant is where the configuration says. Requests see to it themselves; a WebSocket has no such option."""
    redirect.response.close()
    raise aiohttp.ClientError(f"it redirects, with status {redirect.response.status}")


def _failed(why: str) -> asyncio.Future[Answer]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    future.set_exception(CallFailed(why))
    return future


def _body_alone(name: str, operation: Operation, in_json: bool) -> bytes | None:
    """What travels beside the path, which names verb, gid and branch, and the headers. Raises CallFailed."""
    if operation.verb is Verb.OUTCOME:
        return None
    form = operation.to_map()
    for elsewhere in ("verb", "gid", "branch", "trace"):
        form.pop(elsewhere, None)
    if in_json:
        try:
            return json.dumps(form, ensure_ascii=False, allow_nan=False).encode()
        except TypeError as error:  # bytes, which msgpack has and JSON has not
            raise CallFailed(f"{name} takes JSON only, and there are bytes in the body", heard=True) from error
    packed: bytes = msgpack.packb(form)
    return packed


async def _read_document(name: str, response: aiohttp.ClientResponse, is_wanted: Callable[[], bool]) -> Any:
    """The one value of a response, read neither without end nor for nobody. Raises CallFailed."""
    data = bytearray()
    while piece := await response.content.readany():
        data += piece
        if len(data) > ANSWER_BYTES_MAX:
            raise CallFailed(f"{name} answered more than {ANSWER_BYTES_MAX} bytes")
        if not is_wanted():
            raise CallFailed(f"{name} answered too slowly: nobody waits any more")
    if response.status != 200:
        why = f"{name} answered {response.status}: {data[:200].decode(errors='replace')}"
        raise CallFailed(why, heard=response.status < 500)  # not understood is an answer, too
    return _unpacked(name, response.content_type, data)


def _unpacked(name: str, content_type: str, data: bytes | bytearray) -> Any:
    """A value in either encoding, whichever was asked for. Raises CallFailed."""
    try:
        if content_type == CONTENT_TYPE:
            return msgpack.unpackb(data)
        if content_type == JSON:
            return json.loads(data)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        why = f"{name} answered what is not {content_type}: {error or type(error).__name__}"
        raise CallFailed(why) from error
    raise CallFailed(f"{name} answered with content type {content_type}, not {CONTENT_TYPE}")


def capabilities_of(value: Any) -> Capabilities:
    """A capabilities document from its wire form. What it does not say, the participant cannot; of how much there are
    defaults. Raises CallFailed.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise CallFailed(f"not a capabilities document: {value!r:.200}")
    if value.get("version", WIRE_VERSION) != WIRE_VERSION:
        raise CallFailed(f"{value['name']} speaks version {value['version']!r} of the wire; we speak {WIRE_VERSION}")
    flags = ("prevent", "one_phase", "read_only", "arrays", "stream", "trace")
    numbers = ("operations_max", "body_bytes_max")
    fields: dict[str, Any] = {key: value.get(key) is True for key in flags}
    fields |= {key: value[key] for key in numbers if isinstance(value.get(key), int)}
    actions = tuple(str(action) for action in value.get("actions") or ())
    three_phase = value.get("three_phase")
    key_id = three_phase if isinstance(three_phase, str) else ""
    return Capabilities(name=value["name"], actions=actions, three_phase=key_id, **fields)
