"""The events of one transaction, as they happen: server-sent events (WHATWG, HTML Living Standard, section 9.2).

Each event is the record after a change, and its id the record's revision, which is the same at every replica: so a
listener that comes back with `Last-Event-ID`, here or elsewhere, hears what has changed since. A stream ends with its
transaction; or after STREAM_MAX_S, so that nobody listens for ever to a replica that hears nothing itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from coordinator.driver.listening import Listener
from coordinator.errors import Invalid
from coordinator.http.context import CONTEXT, REQUEST_ID, REQUEST_ID_HEADER
from coordinator.http.media import gid_of
from coordinator.http.views import Judge, transaction_view
from coordinator.ledger.records import TransactionRecord
from coordinator.wire import Encoding, encode
from coordinator.wire_queries import EVENT_STREAM, HEARTBEAT_S, LAST_EVENT_ID

__all__ = ["COME_BACK_MS", "STREAM_MAX_S", "UNREAD_MAX_S", "events"]

STREAM_MAX_S = 60.0  # one stream; whoever listens comes back
UNREAD_MAX_S = 5.0  # a listener that takes nothing for longer than that, at the end, is cut off
COME_BACK_MS = 200  # so soon, if it is one that follows the standard
REVISION_DIGITS_MAX = 18

_BEGINNING = f"retry: {COME_BACK_MS}\n\n".encode()
_HEARTBEAT = b": still here\n\n"


async def events(request: web.Request) -> web.StreamResponse:
    gid = gid_of(request)
    replica = request.app[CONTEXT].replica
    async with replica.transactions.listening(gid, _last_heard(request)) as listener:
        if listener.has_ended:
            return web.Response(status=204)  # by the standard, nobody comes back after that
        response = web.StreamResponse(headers={"Cache-Control": "no-store", REQUEST_ID_HEADER: request[REQUEST_ID]})
        response.content_type = EVENT_STREAM
        with suppress(ConnectionError):  # whoever listened has gone
            await response.prepare(request)
            try:
                async with asyncio.timeout(STREAM_MAX_S + UNREAD_MAX_S):
                    await _tell(response, listener, replica.watch.stuck)
                    await response.write_eof()
            except TimeoutError:  # nobody reads it
                if request.transport is not None:
                    request.transport.abort()
        return response


def _last_heard(request: web.Request) -> int:
    """The revision that the listener has heard of; 0 if it is new. Raises: Invalid."""
    text = request.headers.get(LAST_EVENT_ID, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= REVISION_DIGITS_MAX):
        raise Invalid.field(LAST_EVENT_ID, f"{text!r:.40} is no id of an event; leave it out to begin anew")
    return int(text)


async def _tell(response: web.StreamResponse, listener: Listener, judge: Judge) -> None:
    ends_at = asyncio.get_running_loop().time() + STREAM_MAX_S
    await response.write(_BEGINNING)
    while True:
        new = await listener.some(HEARTBEAT_S)
        if new:
            await response.write(b"".join([_event(record, judge) for record in new]))
        if listener.is_over or asyncio.get_running_loop().time() >= ends_at:
            return
        if not new:
            await response.write(_HEARTBEAT)


def _event(record: TransactionRecord, judge: Judge) -> bytes:
    view = encode(transaction_view(record, judge), Encoding.JSON)
    return b"id: %d\ndata: %b\n\n" % (record.revision, view)
