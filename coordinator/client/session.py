"""One HTTP request, and what can become of it: a response, *not reached*, or *lost*.

Owns: the connections. Must never do: retry, follow a redirect, or say what a response means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from coordinator.wire import Encoding

__all__ = ["ANSWER_BYTES_MAX", "CONNECT_TIMEOUT_S", "Lost", "NotReached", "Response", "Session", "Stream"]

ANSWER_BYTES_MAX = 8 << 20
CONNECT_TIMEOUT_S = 1.0

_HEADERS = {"Content-Type": Encoding.MSGPACK.value}


class NotReached(Exception):
    """The request never reached the server."""


class Lost(Exception):
    """The request may have reached the server; its answer did not come back."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a server sent back, undecoded."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type without its parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip()


class Stream:
    """A response whose body is still on its way."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def content_type(self) -> str:
        """The media type without its parameters."""
        return self._response.content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Lost if it is too long."""
        room_bytes = ANSWER_BYTES_MAX
        async for chunk in self._response.content.iter_any():
            room_bytes -= len(chunk)
            if room_bytes < 0:
                raise Lost(f"{self._response.url.origin()} answered more than {ANSWER_BYTES_MAX} bytes")
            yield chunk

    async def whole(self) -> Response:
        """The response with all of its body. Raises Lost if it is too long."""
        return Response(self.status, self.headers, b"".join([chunk async for chunk in self.chunks()]))


class Session:
    """Connections to replicas and participants, opened with the first request. To be closed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self, method: str, url: URL, body: bytes | None, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Response:
        """One request; `body` is msgpack, unless `headers` say otherwise. Raises: NotReached, Lost."""
        async with self.open(
            method, url, body, timeout_s, accept=Encoding.MSGPACK.value, headers=headers or {}
        ) as stream:
            return await stream.whole()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        timeout_s: float,
        *,
        accept: str,
        headers: Mapping[str, str] = _HEADERS,
        is_endless: bool = False,
    ) -> AsyncIterator[Stream]:
        """One request whose response is read piece by piece; of an endless one, `timeout_s` is for each piece.

        Raises, also inside: NotReached, Lost.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        timeout = aiohttp.ClientTimeout(
            total=None if is_endless else timeout_s,
            sock_connect=min(timeout_s, CONNECT_TIMEOUT_S),
            sock_read=timeout_s if is_endless else None,
        )
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers={**_HEADERS, "Accept": accept, **headers},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                yield Stream(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotReached(str(error)) from error
        except TimeoutError as error:
            raise Lost(f"{url.origin()} did not answer within {timeout_s:.1f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Lost(f"{url.origin()}: {error or type(error).__name__}") from error
