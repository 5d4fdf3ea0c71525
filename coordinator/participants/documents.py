"""Capabilities documents: read when somebody needs one, once for all, and remembered for a while, good or bad.

Must never do: make anybody wait for a document that is merely old, or for a participant that is known to be gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from coordinator.ports import CallFailed
from participant.wire import Capabilities

__all__ = ["CAPABILITIES_RETRY_S", "CAPABILITIES_TIMEOUT_S", "Documents"]

CAPABILITIES_TIMEOUT_S = 1.0  # how long anybody waits for a first document
CAPABILITIES_RETRY_S = 1.0  # how long an unreadable document is not asked for again


@dataclass(slots=True)
class _Known:
    """`failure`: why the last reading failed, "" if it did not. Times are the loop's."""

    document: Capabilities | None = None
    read_at: float = 0.0
    failure: str = ""
    failed_at: float = 0.0
    reading: asyncio.Task[Capabilities] | None = None

    def fail(self, why: str) -> None:
        self.failure, self.failed_at = why, asyncio.get_running_loop().time()


class Documents:
    """The documents by participant. `read` reads one, or raises CallFailed; it ends by itself in bounded time.

    `refresh_s`: how old a document may become before it is read again, while the old one serves.
    """

    def __init__(self, read: Callable[[str], Coroutine[Any, Any, Capabilities]], refresh_s: float) -> None:
        self._read = read
        self._refresh_s = refresh_s
        self._known: dict[str, _Known] = {}

    def last(self, name: str) -> Capabilities | None:
        """The last document that could be read, if any, and at once. Reads it meanwhile if it is due."""
        known = self._of(name)
        self._read_if_due(name, known)
        return known.document

    async def current(self, name: str) -> Capabilities:
        """The document; only a first one is waited for. Raises CallFailed: at once, while it is known that the last
        reading failed and nothing newer is."""
        known = self._of(name)
        is_being_tried = known.reading is not None and bool(known.failure)
        self._read_if_due(name, known)
        if known.document is not None:
            return known.document
        if is_being_tried or known.reading is None:
            raise CallFailed(known.failure)
        try:
            async with asyncio.timeout(CAPABILITIES_TIMEOUT_S):
                return await asyncio.shield(known.reading)
        except TimeoutError:
            known.fail(f"no capabilities document within {CAPABILITIES_TIMEOUT_S:g} s")
            raise CallFailed(known.failure) from None

    def doubt(self, name: str) -> None:
        """What the document says seems not to hold any more: read it again when it is next asked for."""
        known = self._of(name)
        known.read_at = min(known.read_at, asyncio.get_running_loop().time() - self._refresh_s)

    async def stop(self) -> None:
        """Stop reading."""
        reading = [known.reading for known in self._known.values() if known.reading is not None]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    def _of(self, name: str) -> _Known:
        return self._known.setdefault(name, _Known())

    def _read_if_due(self, name: str, known: _Known) -> None:
        now = asyncio.get_running_loop().time()
        is_fresh = known.document is not None and now - known.read_at < self._refresh_s
        has_just_failed = bool(known.failure) and now - known.failed_at < CAPABILITIES_RETRY_S
        if known.reading is None and not is_fresh and not has_just_failed:
            known.reading = asyncio.get_running_loop().create_task(self._read(name))
            known.reading.add_done_callback(lambda done: _finished(known, done))


def _finished(known: _Known, done: asyncio.Task[Capabilities]) -> None:
    known.reading = None
    if done.cancelled():
        return
    error = done.exception()
    if error is None:
        known.document, known.read_at, known.failure = done.result(), done.get_loop().time(), ""
    else:
        known.fail(str(error) or repr(error))
