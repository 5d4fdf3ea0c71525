"""Listening to a transaction: one stream of events, over as many connections and replicas as it takes.

Server-sent events (WHATWG, HTML Living Standard, section 9.2.6), as far as our replicas send them: fields `id` and
`data`, a comment as a sign of life, lines that end in a line feed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from coordinator.client.asking import Asking
from coordinator.client.replicas import Reply
from coordinator.client.session import Lost, Stream
from coordinator.client.shards import Shard
from coordinator.errors import Unavailable
from coordinator.ledger.records import Phase
from coordinator.wire import TransactionView

__all__ = ["events"]

_ENDED = frozenset((Phase.COMMITTED, Phase.ABORTED))


class _Opened(BaseModel):
    """There is a stream."""


async def events(about: Callable[[], Asking], path: str) -> AsyncGenerator[TransactionView]:
    """The record now, and after each change, until the transaction has ended. `about` begins a question about it.

    A stream that breaks off is taken up where it ended, at whichever replica. Raises: NotFound; Unavailable, if no
    replica is to be had for as long as a question may take.
    """
    last_heard = ""
    while True:
        why = "the stream of events has ended before its transaction"
        try:
            async with AsyncExitStack() as held:
                stream = await _opened(about(), path, last_heard, held)
                if stream is None:
                    return
                async for event_id, view in _read(stream):
                    last_heard = event_id
                    yield view
                    if view.phase in _ENDED:
                        return
        except Lost as error:
            why = str(error)
        await about().pause(why)


async def _opened(asking: Asking, path: str, last_heard: str, held: AsyncExitStack) -> Stream | None:
    """A stream that `held` closes; None if there is nothing more to hear."""
    opened: Stream | None = None

    async def attempt(shard: Shard, timeout_s: float) -> Reply:
        nonlocal opened
        try:
            async with asyncio.timeout(timeout_s):
                came = await held.enter_async_context(shard.replicas.listening(path, last_heard))
        except TimeoutError as error:
            raise Lost(f"no answer within {timeout_s:.1f} s") from error
        if isinstance(came, Reply):
            await held.aclose()
            return Reply(200, {}) if came.status == 204 else came
        opened = came
        return Reply(200, {})

    await asking.insist(attempt, _Opened)
    return opened


async def _read(stream: Stream) -> AsyncIterator[tuple[str, TransactionView]]:
    """The events of one connection: id and record. Raises: Lost; Unavailable, for what is none."""
    rest = b""
    fields: dict[bytes, bytes] = {}
    async for chunk in stream.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b":")
            if line:
                fields[name] = value.removeprefix(b" ")
            elif b"data" in fields:
                yield fields.pop(b"id", b"").decode(), _view(fields.pop(b"data"))


def _view(data: bytes) -> TransactionView:
    try:
        return TransactionView.model_validate(from_json(data), extra="ignore")
    except (ValueError, ValidationError) as error:
        raise Unavailable(f"an event cannot be read: {error}") from error
