"""The user's schema: made at the opening, or as soon as nobody keeps what it wants.

A statement of it may want a row or a table that a prepared branch keeps, and that branch ends through the participant
that opens. So a schema that has to wait, or takes long, does not keep it from opening: it ends branches and says what
is true of them, and asks whoever wants an action to come again until the schema is made.

A statement that waits for a table holds up whoever comes after it, also in other processes. So it is tried by one
process at a time, for a short while, and again once the branches that were prepared have ended; or after a pause.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from structlog import get_logger

from participant.errors import ResourceBusy, ResourceFailed, ResourceUnreachable
from participant.ids import BranchKey
from participant.rm.server.backend import Backend
from participant.rm.server.known import Known

__all__ = ["SCHEMA_LOCK_WAIT_S", "SCHEMA_PAUSE_MAX_S", "SCHEMA_PAUSE_S", "SCHEMA_TIMEOUT_S", "Schema"]

SCHEMA_LOCK_WAIT_S = 1  # of one attempt, for each row or table
SCHEMA_TIMEOUT_S = 600  # of one attempt, which may make an index; then the connection counts as lost
SCHEMA_OPENING_S = 5.0  # how long the opening waits for the first attempt
SCHEMA_PAUSE_S, SCHEMA_PAUSE_MAX_S = 1.0, 30.0  # after the first attempt; each pause is twice the one before
_LOOK_S = 0.5  # between two looks at what is prepared

_LOG = get_logger(__name__)


class Schema:
    """Whether it `is_made`; `run` sees to it."""

    def __init__(self, backend: Backend, known: Known) -> None:
        self.is_made = False
        self._backend = backend
        self._known = known
        self._in_the_way: set[BranchKey] = set()
        self._failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._tried = asyncio.Event()

    async def run(self) -> None:
        """Try until it is made or cannot be. Raises nothing: see `failed`."""
        pause_s = SCHEMA_PAUSE_S
        try:
            while why := await self._attempt():
                _LOG.warning("resource.schema_waits", why=why)
                self._tried.set()
                await self._rest(pause_s)
                pause_s = min(2 * pause_s, SCHEMA_PAUSE_MAX_S)
        except Exception as error:  # noqa: BLE001 - whoever waits for `failed` has it
            _LOG.error("resource.schema_failed", why=str(error))
            self._failure.set_result(error)
        else:
            self.is_made = True
            if self._tried.is_set():
                _LOG.info("resource.schema_made")
        finally:
            self._tried.set()

    async def tried(self) -> None:
        """Wait until it was tried, for `SCHEMA_OPENING_S` at most. Raises SchemaError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SCHEMA_OPENING_S):
                await self._tried.wait()
        if self._failure.done():
            raise self._failure.result()

    async def failed(self) -> BaseException:
        """Wait until it cannot be made; why."""
        return await asyncio.shield(self._failure)

    def check(self) -> None:
        """Raises ResourceBusy until it is made, and ResourceFailed if it cannot be."""
        if self._failure.done():
            raise ResourceFailed(str(self._failure.result()))
        if not self.is_made:
            raise ResourceBusy("the schema waits for what other transactions keep; come again")

    async def _attempt(self) -> str:
        """What it has to wait for; "" when it is made."""
        try:
            self._in_the_way = await self._prepared()
            return await self._backend.make_schema()
        except ResourceUnreachable as later:
            return str(later)

    async def _prepared(self) -> set[BranchKey]:
        return {each.key for each in await self._known.listed()}

    async def _rest(self, pause_s: float) -> None:
        """A pause, which ends when the branches have that were prepared at the attempt."""
        loop = asyncio.get_running_loop()
        until = loop.time() + pause_s
        waits_for_branches = bool(self._in_the_way)
        while loop.time() < until and (self._in_the_way or not waits_for_branches):
            await asyncio.sleep(min(_LOOK_S, pause_s))
            if waits_for_branches:
                with suppress(ResourceUnreachable):
                    self._in_the_way &= await self._prepared()
