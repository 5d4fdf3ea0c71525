"""The user's schema: made at the opening, or as soon as nobody keeps what it wants.

A statement of it may want a row or a table that a prepared branch keeps, and that branch ends through the participant
that opens. So a schema that would have to wait does not keep it from opening: it ends branches, refuses nothing, and
asks whoever wants an action to come again until the schema is made.
"""

from __future__ import annotations

import asyncio

from structlog import get_logger

from participant.errors import ResourceUnreachable, SchemaError
from participant.rm.server.backend import Backend

__all__ = ["SCHEMA_LOCK_WAIT_S", "SCHEMA_TIMEOUT_S", "Schema"]

SCHEMA_LOCK_WAIT_S = 2  # of one attempt, for each row or table; a statement that waits for a table holds up others
SCHEMA_PAUSE_S = 1.0  # between two attempts
SCHEMA_TIMEOUT_S = 600  # of one attempt, which may make an index; then the connection counts as lost

_LOG = get_logger(__name__)


class Schema:
    """Whether it `is_made`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.is_made = False

    async def make(self) -> None:
        """Try once. Raises SchemaError, ResourceUnreachable."""
        self.is_made = await self._backend.make_schema()

    async def insist(self) -> None:
        """Try until it is made. Raises nothing: see `failed`."""
        while not self.is_made:
            _LOG.warning("resource.schema_waits", why="other transactions keep what it wants; actions wait until then")
            await asyncio.sleep(SCHEMA_PAUSE_S)
            try:
                await self.make()
            except ResourceUnreachable as later:
                _LOG.warning("resource.busy", why=str(later))
            except SchemaError as error:
                self._failure.set_result(error)
                return

    async def failed(self) -> BaseException:
        """Waits for an attempt that could not succeed, and says why it did not."""
        return await asyncio.shield(self._failure)
