"""Keeping the table of finished branches bounded, on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog import get_logger

from participant.errors import ResourceError
from participant.rm.retention import FORGET_BRANCHES_MAX, FORGET_INTERVAL_S
from participant.rm.server.backend import Backend

__all__ = ["forget"]

_LOG = get_logger(__name__)


async def forget(backend: Backend, retention_s: float, wall_ms: Callable[[], int]) -> None:
    """Drop what is past its retention, again and again, until cancelled."""
    while True:
        await asyncio.sleep(FORGET_INTERVAL_S)
        before_ms = wall_ms() - int(retention_s * 1_000)
        try:
            while await backend.forget(before_ms, FORGET_BRANCHES_MAX) == FORGET_BRANCHES_MAX:
                pass  # in steps, so that others are served in between
        except ResourceError as later:
            _LOG.warning("resource.busy", why=str(later))
