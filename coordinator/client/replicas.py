"""Reaching the replicas: one attempt at the one that is believed to lead, following where it points.

Owns: the list of replicas, and the belief. Must never do: retry, or say what an answer means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgpack
from yarl import URL

from coordinator.client.session import ANSWER_BYTES_MAX, Lost, NotReached, Session, Stream
from coordinator.errors import Malformed, RequestError, TooLarge, WrongShard, request_error
from coordinator.shards import SHARD_HEADER
from coordinator.wire import MSGPACK_SEQ, REQUEST_BYTES_MAX, Encoding, decode
from coordinator.wire_queries import EVENT_STREAM, HEARTBEAT_S, LAST_EVENT_ID

__all__ = ["REDIRECTS_MAX", "SILENCE_MAX_S", "Replicas", "Reply"]

REDIRECTS_MAX = 3
SILENCE_MAX_S = 2.5 * HEARTBEAT_S  # a stream of events on which nothing came for so long is broken

_ACCEPT = f"{MSGPACK_SEQ}, {Encoding.MSGPACK.value}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a replica said. `document` is the decoded body; `error` what a problem document stands for."""

    status: int
    document: dict[str, Any]
    error: RequestError | None = None


class Replicas:
    """The replicas of one shard, by URL. One is enough to begin with: those that it points at are added.

    `misled` is called when one of them points to another shard, and when all have been turned away from.
    """

    def __init__(self, urls: Sequence[str], session: Session, misled: Callable[[], None]) -> None:
        if not urls:
            raise ValueError("a client needs the URL of at least one replica")
        self._urls = _tidy(urls)
        self._session = session
        self._misled = misled
        self._at = 0

    @property
    def target(self) -> str:
        """The replica that is asked next."""
        return self._urls[self._at]

    def add(self, urls: Sequence[str]) -> None:
        """There are these too."""
        self._urls += [url for url in _tidy(urls) if url not in self._urls]

    def become(self, urls: Sequence[str]) -> None:
        """There are these now, and no others."""
        target = self.target
        self._urls = _tidy(urls)
        self._at = self._urls.index(target) if target in self._urls else 0

    def turn_away(self, target: str) -> None:
        """Ask another replica than `target` next time, unless we do already: many may learn of one failure."""
        if self.target == target:
            self._at = (self._at + 1) % len(self._urls)
            if self._at == 0:
                self._misled()

    async def attempt(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None, timeout_s: float
    ) -> Reply:
        """One request to the believed leader, following its pointers. Raises: NotReached, Lost, TooLarge."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        tail = URL(path).with_query(given).raw_path_qs
        packed = None if body is None else msgpack.packb(body)
        if packed is not None and len(packed) > REQUEST_BYTES_MAX:
            raise TooLarge(f"the request is {len(packed)} bytes; at most {REQUEST_BYTES_MAX} are taken")
        async with self._following(method, tail, packed, timeout_s, accept=Encoding.MSGPACK.value) as stream:
            return await _whole_reply(stream)

    async def attempt_all(
        self,
        packed: Sequence[bytes],
        answered: Callable[[int, Reply], None],
        *,
        query: Mapping[str, Any],
        timeout_s: float,
    ) -> None:
        """Transactions, each in msgpack, in one request; `answered(position, reply)` for each, as the replies come.

        Raises, with what is left unanswered: NotReached, Lost.
        """
        tail = URL("/v1/transactions").with_query(query).raw_path_qs
        body = packed[0] if len(packed) == 1 else msgpack.Packer().pack_array_header(len(packed)) + b"".join(packed)
        async with self._following("POST", tail, body, timeout_s, accept=_ACCEPT) as stream:
            await _deliver(stream, len(packed), partial(self._heard, answered))

    @asynccontextmanager
    async def listening(self, path: str, last_heard: str) -> AsyncIterator[Stream | Reply]:
        """A stream of events that goes on after the event `last_heard`, if there was one; or what was said instead.

        Raises, also inside: NotReached, Lost.
        """
        headers = {LAST_EVENT_ID: last_heard} if last_heard else {}
        async with self._following(
            "GET", path, None, SILENCE_MAX_S, accept=EVENT_STREAM, headers=headers, is_endless=True
        ) as stream:
            if stream.status == 200 and stream.content_type == EVENT_STREAM:
                yield stream
            else:
                yield Reply(204, {}) if stream.status == 204 else await _whole_reply(stream)

    @asynccontextmanager
    async def _following(
        self, method: str, tail: str, body: bytes | None, timeout_s: float, **how: Any
    ) -> AsyncIterator[Stream]:
        """The response of the replica that the others point at. Raises: NotReached, Lost.

        Behind a pointer to another shard, it is that one's leader who is pointed at, and none of these replicas.
        """
        url = URL(self.target + tail, encoded=True)
        is_ours = True
        for _ in range(REDIRECTS_MAX + 1):
            async with self._session.open(method, url, body, timeout_s, **how) as stream:
                location = stream.headers.get("Location")
                if stream.status != 307 or location is None:
                    yield stream
                    return
            url = URL(location, encoded=True)
            if SHARD_HEADER in stream.headers:
                is_ours = False
                self._misled()
            elif is_ours:
                self._lead(location.removesuffix(tail) if location.endswith(tail) else str(url.origin()))
        raise NotReached(f"the replicas point at each other ({REDIRECTS_MAX} times)")

    def _lead(self, leader: str) -> None:
        """A replica points at the leader of its shard, who is asked first from now on."""
        self.add([leader])
        self._at = self._urls.index(leader)

    def _heard(self, answered: Callable[[int, Reply], None], position: int, reply: Reply) -> None:
        if isinstance(reply.error, WrongShard):
            self._misled()
        answered(position, reply)


def _tidy(urls: Sequence[str]) -> list[str]:
    return [str(URL(url)).rstrip("/") for url in urls]


async def _deliver(stream: Stream, count: int, answered: Callable[[int, Reply], None]) -> None:
    """Replies one by one; or one, which then goes for all."""
    if stream.content_type != MSGPACK_SEQ:
        reply = await _whole_reply(stream)
        for position in range(count):
            answered(position, reply)
        return
    unpacker = msgpack.Unpacker(max_buffer_size=ANSWER_BYTES_MAX)
    left = set(range(count))
    async for chunk in stream.chunks():
        try:
            unpacker.feed(chunk)
            for position, status, document in unpacker:
                left.remove(position)
                answered(position, _reply(status, document, is_problem=status >= 400))
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
            raise Lost(f"the stream of answers cannot be read: {error!r}") from error


async def _whole_reply(stream: Stream) -> Reply:
    """What came, decoded. What cannot be decoded is no answer at all."""
    response = await stream.whole()
    kind = response.content_type
    try:
        document = decode(response.body, Encoding.MSGPACK if kind == Encoding.MSGPACK else Encoding.JSON)
    except Malformed as error:
        raise Lost(f"the answer ({response.status}) cannot be read: {error}") from error
    return _reply(response.status, document, is_problem=kind == "application/problem+json")


def _reply(status: int, document: Any, *, is_problem: bool) -> Reply:
    if not isinstance(document, dict):
        raise Lost(f"the answer ({status}) is not a map")
    return Reply(status, document, request_error(document) if is_problem else None)
