"""A participant's own alarm: a log line when its oldest prepared branch is old, or something foreign in its database.

Both keep rows locked, and nobody may be waiting who would complain. Must never do: end anything.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from structlog import get_logger

from participant.errors import ResourceBusy, ResourceError, ResourceUnreachable
from participant.foreign import FOREIGN_MAX_AGE_S, Sightings
from participant.resource import ResourceStatus
from participant.rm.sweep import ForeignLister

__all__ = ["PREPARED_MAX_AGE_S", "WATCH_INTERVAL_S", "Watch"]

PREPARED_MAX_AGE_S = 30.0  # then it is an alarm
WATCH_INTERVAL_S = 15.0

_LOG = get_logger(__name__)


class Watched(Protocol):
    """The part of a resource manager that this needs. It may be a `ForeignLister`, too."""

    async def status(self) -> ResourceStatus: ...


class Watch:
    """The loop. `run` it as a task of its own."""

    def __init__(self, resource: Watched) -> None:
        self._resource = resource
        self._sightings = Sightings()

    async def run(self) -> None:
        """Until cancelled, or until the resource manager is closed or has failed."""
        while True:
            try:
                await self.look()
            except (ResourceBusy, ResourceUnreachable) as later:
                _LOG.info("watch.later", why=str(later))
            except ResourceError as error:
                _LOG.info("watch.stopped", why=str(error))
                return
            except Exception:  # noqa: BLE001 - the border: a defect must not end the watch without a word
                _LOG.exception("watch.failed")
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def look(self) -> None:
        """Look once, and say what is old. Raises ResourceError."""
        status = await self._resource.status()
        if status.oldest_prepared_s >= PREPARED_MAX_AGE_S:
            _LOG.warning("prepared.old", branches=status.prepared, oldest_s=round(status.oldest_prepared_s, 1))
        if isinstance(self._resource, ForeignLister):
            seen = self._sightings.aged(await self._resource.foreign(), asyncio.get_running_loop().time())
            old = [each for each in seen if each.age_s >= FOREIGN_MAX_AGE_S]
            if old:
                oldest = max(old, key=lambda each: each.age_s)
                _LOG.warning("foreign.old", transactions=len(old), name=oldest.name, oldest_s=round(oldest.age_s, 1))
