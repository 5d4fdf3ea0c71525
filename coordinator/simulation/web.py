"""HTTP without HTTP, the side that asks: the requests of production code as calls over the lossy network.

Production's client keeps its own logic (`coordinator.client` over a session of ours), with many transactions in one
request and the answers as they come. What is left out is parsing, which has its own tests; what is added is what HTTP
may do to a request: lose it, double it, answer too late, or break off in the middle of an answer. The coordinator asks
participants more simply than in production: one request for each operation. The other side is `servers.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgpack
from yarl import URL

from coordinator.client.client import Client
from coordinator.client.session import Lost, NotReached, Response, Session
from coordinator.participants.http import capabilities_of
from coordinator.ports import CallFailed, Letter
from coordinator.simulation.rpc import CallRefused, CallTimeout, Rpc
from coordinator.wire import MSGPACK_SEQ
from participant.ids import BranchKey
from participant.outcomes import Outcome as Ended
from participant.termination import Peer
from participant.wire import Answer, Capabilities, Operation

__all__ = [
    "ARRAYS",
    "HTTP",
    "SimClient",
    "SimNotifier",
    "SimOutcomeSource",
    "SimParticipants",
    "SimPeers",
    "SimSession",
    "url_of",
]

HTTP = "http"
"""The service that answers `[method, path, query, body]` with `[status, headers, document]`."""

ARRAYS = "http arrays"
"""The same for an array of transactions: the first piece is such an answer; without a document, a stream follows."""

_INQUIRY_TIMEOUT_S = 3.0
_PEER_TIMEOUT_S = 3.0
_MSGPACK = {"Content-Type": "application/msgpack"}
_PROBLEM = {"Content-Type": "application/problem+json"}


def url_of(machine: str) -> str:
    """Where the server of a machine is reached."""
    return f"http://{machine}:80"


async def _request(
    rpc: Rpc, method: str, url: URL, body: Any, timeout_s: float
) -> tuple[int, dict[str, str], dict[str, Any]]:
    request = msgpack.packb([method, url.raw_path, dict(url.query), body])
    status, headers, document = msgpack.unpackb(await rpc.call(str(url.host), HTTP, request, timeout_s))
    return status, headers, document


class SimSession:
    """In the place of `coordinator.client.session.Session`."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def close(self) -> None:
        """Nothing is open."""

    async def send(
        self, method: str, url: URL, body: bytes | None, timeout_s: float, _headers: Mapping[str, str] | None = None
    ) -> Response:
        """One request. Raises: NotReached, Lost."""
        decoded = None if body is None else msgpack.unpackb(body)
        try:
            return _response(*await _request(self._rpc, method, url, decoded, timeout_s))
        except CallRefused as error:
            raise NotReached(str(error)) from error
        except CallTimeout as error:
            raise Lost(str(error)) from error

    @asynccontextmanager
    async def open(
        self, method: str, url: URL, body: bytes | None, timeout_s: float, *, accept: str
    ) -> AsyncIterator[SimStream]:
        """One request whose response is read piece by piece. Raises, also inside: NotReached, Lost."""
        values = None if body is None else msgpack.unpackb(body)
        if not isinstance(values, list) or MSGPACK_SEQ not in accept:
            yield SimStream(await self.send(method, url, body, timeout_s))
            return
        request = msgpack.packb([method, url.raw_path, dict(url.query), values])
        pieces = self._rpc.pieces(str(url.host), ARRAYS, request, timeout_s)
        try:
            status, headers, document = msgpack.unpackb(await anext(pieces))
            if document is not None:
                yield SimStream(_response(status, headers, document))
            else:
                yield SimStream(Response(status, {"Content-Type": MSGPACK_SEQ}, b""), pieces)
        except CallRefused as error:
            raise NotReached(str(error)) from error
        except CallTimeout as error:
            raise Lost(str(error)) from error
        finally:
            await pieces.aclose()


class SimClient(Client):
    """Production's client, whose requests are calls."""

    def __init__(self, rpc: Rpc, urls: Sequence[str], **options: Any) -> None:
        self._rpc = rpc
        super().__init__(urls, **options)

    def _new_session(self) -> Session:
        return cast("Session", SimSession(self._rpc))


class SimStream:
    """In the place of `coordinator.client.session.Stream`."""

    def __init__(self, response: Response, pieces: AsyncIterator[bytes] | None = None) -> None:
        self._response = response
        self._pieces = pieces
        self.status = response.status
        self.headers = response.headers
        self.content_type = response.content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._pieces is not None:
            async for piece in self._pieces:
                yield piece

    async def whole(self) -> Response:
        return self._response


def _response(status: int, headers: dict[str, str], document: Any) -> Response:
    if status >= 400:
        return Response(status, _PROBLEM | headers, json.dumps(document).encode())
    return Response(status, _MSGPACK | headers, msgpack.packb(document))


class SimParticipants:
    """`coordinator.ports.Participants` of one replica. Names of participants are names of machines."""

    def __init__(self, rpc: Rpc, names: list[str], timeout_s: float) -> None:
        self._rpc = rpc
        self._names = names
        self._timeout_s = timeout_s
        self._known: dict[str, Capabilities] = {}

    def known(self, name: str) -> bool:
        return name in self._names

    def url(self, name: str) -> str:
        return url_of(name)

    async def capabilities(self, name: str) -> Capabilities:
        if name not in self._known:
            self._known[name] = capabilities_of(await self._ask("GET", name, "/v1/capabilities", None))
        return self._known[name]

    def call(self, name: str, operation: Operation) -> asyncio.Future[Answer]:
        return asyncio.ensure_future(self._call(name, operation))

    async def _call(self, name: str, operation: Operation) -> Answer:
        form = operation.to_map()
        path = f"/v1/branches/{form.pop('gid')}/{form.pop('branch')}/{form.pop('verb')}"
        return Answer.from_map(await self._ask("POST", name, path, form), name)

    async def _ask(self, method: str, name: str, path: str, body: Any) -> Any:
        try:
            status, _, document = await _request(self._rpc, method, URL(url_of(name) + path), body, self._timeout_s)
        except (CallRefused, CallTimeout) as error:
            raise CallFailed(str(error)) from error
        if status != 200:
            raise CallFailed(f"{name} answered {status}: {document}")
        return document


class SimPeers:
    """`participant.three_phase.Peers` of one participant."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def ask(self, peer: Peer, operation: Operation) -> Answer | None:
        form = operation.to_map()
        path = f"/v1/branches/{form.pop('gid')}/{form.pop('branch')}/{form.pop('verb')}"
        try:
            status, _, document = await _request(self._rpc, "POST", URL(peer.url + path), form, _PEER_TIMEOUT_S)
        except (CallRefused, CallTimeout):
            return None
        return Answer.from_map(document, peer.participant) if status == 200 else None


class SimNotifier:
    """`coordinator.ports.Notifier` of one replica."""

    def __init__(self, rpc: Rpc, timeout_s: float) -> None:
        self._rpc = rpc
        self._timeout_s = timeout_s

    def refusal(self, _: str) -> str:
        return ""

    def send(self, letter: Letter) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(letter))

    async def _send(self, letter: Letter) -> None:
        try:
            status, _, _ = await _request(self._rpc, "POST", URL(letter.url), json.loads(letter.body), self._timeout_s)
        except (CallRefused, CallTimeout) as error:
            raise CallFailed(str(error)) from error
        if status != 204:
            raise CallFailed(f"{letter.url} answered {status}")


class SimOutcomeSource:
    """`participant.outcomes.OutcomeSource` of one participant: asks the replicas in turn, following redirects."""

    def __init__(self, rpc: Rpc, participant: str, replicas: list[str]) -> None:
        self._rpc = rpc
        self._participant = participant
        self._replicas = list(replicas)

    async def inquire(self, key: BranchKey) -> Ended | None:
        for replica in tuple(self._replicas):
            outcome = await self._ask(URL(f"{url_of(replica)}/v1/transactions/{key.gid}/outcome"), key)
            if outcome is not None:
                self._replicas.remove(replica)
                self._replicas.insert(0, replica)
                return outcome
        return None

    async def _ask(self, url: URL, key: BranchKey) -> Ended | None:
        body = {"participant": self._participant, "branch": key.branch}
        for _ in range(4):
            try:
                status, headers, view = await _request(self._rpc, "POST", url, body, _INQUIRY_TIMEOUT_S)
            except (CallRefused, CallTimeout):
                return None
            if status == 200 and view["gid"] == key.gid:
                return Ended(view["outcome"])
            if status != 307:
                return None
            url = URL(headers["Location"])
        return None
