"""The other participants of a transaction in three phases, over HTTP.

Owns the request and what counts as an answer. Must never do: take silence, an error or nonsense for an answer.
"""

from __future__ import annotations

import asyncio

import aiohttp
import msgpack
from structlog import get_logger
from yarl import URL

from participant.bounded import read_bounded
from participant.errors import WireError
from participant.termination import Peer
from participant.wire import Answer, Operation, branch_path

__all__ = ["ANSWER_BYTES_MAX", "PEER_TIMEOUT_S", "HttpPeers"]

PEER_TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 65_536
_CONTENT_TYPE = "application/msgpack"
_HEADERS = {"Content-Type": _CONTENT_TYPE, "Accept": _CONTENT_TYPE, "Accept-Encoding": "identity"}

_LOG = get_logger(__name__)


class HttpPeers:
    """`participant.three_phase.Peers`. To be used between `start` and `stop`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the session."""
        timeout = aiohttp.ClientTimeout(total=PEER_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())

    async def stop(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, peer: Peer, operation: Operation) -> Answer | None:
        if self._session is None:
            return None
        form = operation.to_map()
        for elsewhere in ("verb", "gid", "branch"):
            del form[elsewhere]
        try:
            url = URL(peer.url.rstrip("/") + branch_path(operation.key, operation.verb), encoded=True)
            async with (
                asyncio.timeout(PEER_TIMEOUT_S),
                self._session.post(url, data=msgpack.packb(form), headers=_HEADERS, allow_redirects=False) as response,
            ):
                data = await read_bounded(response.content, ANSWER_BYTES_MAX)
                if response.status != 200 or len(data) > ANSWER_BYTES_MAX:
                    raise ValueError(f"status {response.status}")
                return Answer.from_map(msgpack.unpackb(data), "answer")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, msgpack.UnpackException, WireError) as error:
            why = str(error) or type(error).__name__
            _LOG.info("peer.unanswered", peer=peer.participant, url=peer.url, gid=operation.key.gid, why=why)
            return None
