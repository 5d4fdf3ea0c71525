"""Participants over HTTP: one request for each operation, in msgpack.

Owns: the session, the URLs, the cached capabilities. Must never do: retry (the protocol decides what comes
next), or take anything but a well-formed answer for an answer: whatever else happens is `CallFailed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgpack
import structlog
from yarl import URL

from coordinator.ports import CallFailed
from participant.errors import WireError
from participant.wire import WIRE_VERSION, Answer, Capabilities, Operation, Verb

__all__ = ["ANSWER_BYTES_MAX", "HttpParticipants", "capabilities_of"]

_log = structlog.get_logger(__name__)

ANSWER_BYTES_MAX = 1 << 20
CONTENT_TYPE = "application/msgpack"
_HEADERS = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}


class HttpParticipants:
    """The `Participants` port over one `aiohttp.ClientSession`. To be used between `start` and `stop`.

    `urls`: the participants by name. `timeout_s`: for one call, everything included.
    `refresh_s`: how old a capabilities document may be.
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
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._refresh_s = refresh_s
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None
        self._known: dict[str, tuple[float, Capabilities]] = {}
        self._refreshing: dict[str, asyncio.Task[Capabilities]] = {}

    async def start(self) -> None:
        """Open the session."""
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=self._connections_max)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def stop(self) -> None:
        """Close the session; calls under way end as CallFailed."""
        for refreshing in self._refreshing.values():
            refreshing.cancel()
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def known(self, name: str) -> bool:
        return name in self._urls

    async def capabilities(self, name: str) -> Capabilities:
        """The last document read; an old one is read again meanwhile. Only the first caller has to wait."""
        cached = self._known.get(name)
        if cached is None or asyncio.get_running_loop().time() - cached[0] >= self._refresh_s:
            refreshing = self._refresh(name)
            if cached is None:
                return await asyncio.shield(refreshing)
        return self._known[name][1]

    def _refresh(self, name: str) -> asyncio.Task[Capabilities]:
        """Read the document, once for all who want it now."""
        refreshing = self._refreshing.get(name)
        if refreshing is None:
            refreshing = asyncio.get_running_loop().create_task(self._read_capabilities(name))
            self._refreshing[name] = refreshing
            refreshing.add_done_callback(lambda done: self._refreshed(name, done))
        return refreshing

    def _refreshed(self, name: str, done: asyncio.Task[Capabilities]) -> None:
        del self._refreshing[name]
        if not done.cancelled():
            done.exception()  # whoever waits is told; nobody has to

    async def _read_capabilities(self, name: str) -> Capabilities:
        capabilities = capabilities_of(await self._request("GET", name, "/v1/capabilities", None))
        if capabilities.name != name:  # its inquiries come under its own name, which is nobody's here
            _log.error("participant.misnamed", participant=name, calls_itself=capabilities.name, url=self._urls[name])
        self._known[name] = (asyncio.get_running_loop().time(), capabilities)
        return capabilities

    async def call(self, name: str, operation: Operation) -> Answer:
        path = f"/v1/branches/{operation.key.gid}/{operation.key.branch}/{operation.verb.value}"
        method = "GET" if operation.verb is Verb.OUTCOME else "POST"
        reply = await self._request(method, name, path, _request_body(operation))
        try:
            return Answer.from_map(reply, name)
        except WireError as error:
            raise CallFailed(str(error)) from error

    async def _request(self, method: str, name: str, path: str, body: bytes | None) -> Any:
        """The decoded answer of a participant. Raises CallFailed for everything that is not one."""
        if self._session is None or name not in self._urls:
            raise CallFailed(f"{name} cannot be called: it is not configured, or we are not started")
        url = URL(self._urls[name] + path, encoded=True)
        try:
            async with self._session.request(
                method, url, data=body, headers=_HEADERS, allow_redirects=False
            ) as response:
                data = await response.content.read(ANSWER_BYTES_MAX + 1)
                while not response.content.at_eof() and len(data) <= ANSWER_BYTES_MAX:
                    data += await response.content.read(ANSWER_BYTES_MAX + 1 - len(data))
                return _decoded(name, response.status, response.content_type, data)
        except TimeoutError as error:
            raise CallFailed(f"{name} did not answer within {self._timeout.total} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(f"{name}: {error or type(error).__name__}") from error


def _request_body(operation: Operation) -> bytes | None:
    """What travels beside the path, which names verb, gid and branch."""
    if operation.verb is Verb.OUTCOME:
        return None
    form = operation.to_map()
    for in_path in ("verb", "gid", "branch"):
        del form[in_path]
    packed: bytes = msgpack.packb(form)
    return packed


def _decoded(name: str, status: int, content_type: str, data: bytes) -> Any:
    if status != 200:
        raise CallFailed(f"{name} answered {status}: {data[:200].decode(errors='replace')}")
    if content_type != CONTENT_TYPE:
        raise CallFailed(f"{name} answered with content type {content_type}, not {CONTENT_TYPE}")
    if len(data) > ANSWER_BYTES_MAX:
        raise CallFailed(f"{name} answered more than {ANSWER_BYTES_MAX} bytes")
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise CallFailed(f"{name} answered what is not msgpack: {error or type(error).__name__}") from error


def capabilities_of(value: Any) -> Capabilities:
    """A capabilities document from its wire form; absent fields have their defaults. Raises CallFailed."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise CallFailed(f"not a capabilities document: {value!r:.200}")
    if value.get("version", WIRE_VERSION) != WIRE_VERSION:
        raise CallFailed(f"{value['name']} speaks version {value['version']!r} of the wire; we speak {WIRE_VERSION}")
    flags = ("prevent", "one_phase", "read_only", "arrays")
    numbers = ("operations_max", "body_bytes_max")
    fields: dict[str, Any] = {key: value[key] is True for key in flags if key in value}
    fields |= {key: value[key] for key in numbers if isinstance(value.get(key), int)}
    actions = tuple(str(action) for action in value.get("actions") or ())
    return Capabilities(name=value["name"], actions=actions, **fields)
