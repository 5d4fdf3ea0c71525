"""Who waits for whom in MariaDB, read from its tables of locks.

The server reads these tables anew only if nobody has read them for 100 ms; who looks more often sees the same for ever.
So all who want to know share one look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from participant.ids import BranchKey
from participant.rm.mariadb.connections import Connection
from participant.rm.server.backend import Blocked

__all__ = ["LOOK_INTERVAL_S", "WAITS", "Waits"]

LOOK_INTERVAL_S = 0.2

WAITS = """
SELECT waiter.trx_mysql_thread_id, lock_table, lock_data, holder.trx_mysql_thread_id, holder.trx_id
  FROM information_schema.innodb_lock_waits
  JOIN information_schema.innodb_trx AS waiter ON waiter.trx_id = requesting_trx_id
  JOIN information_schema.innodb_trx AS holder ON holder.trx_id = blocking_trx_id
  JOIN information_schema.innodb_locks ON lock_id = requested_lock_id
 ORDER BY holder.trx_state <> 'LOCK WAIT'
"""

_Row: TypeAlias = tuple[str, str | None, int, int]


class Waits:
    """Answers are of a moment not long ago, and may be over. `is_seen`: whether this role may ask at all."""

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager[Connection]], *, is_seen: bool) -> None:
        self._connection = connection
        self._is_seen = is_seen
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._waits: Mapping[int, _Row] = {}
        self._detached: dict[int, BranchKey] = {}  # who holds what others wait for, once he has no session any more

    async def of(self, thread_id: int, holders: Mapping[int, BranchKey]) -> Blocked | None:
        """What a session waits for. `holders`: branches by the session that has prepared them."""
        found = (await self._look()).get(thread_id)
        if found is None:
            return None
        table, data, holder_thread, holder_trx = found
        name = table.split(".")[-1].strip("`")
        row = f"{name}({data.replace(chr(39), '')})" if data else f"a row of {name}"
        holder = holders.get(holder_thread) or self._detached.get(holder_trx)
        if holder is not None:
            self._detached[holder_trx] = holder
            return Blocked(row, holder, str(holder))
        return Blocked(row, None, f"session {holder_thread}" if holder_thread else "a prepared transaction")

    async def count(self, thread_ids: Sequence[int]) -> int:
        """How many of these sessions wait; 0 if that is not for this role to know."""
        waits = await self._look()
        return sum(thread_id in waits for thread_id in thread_ids)

    async def _look(self) -> Mapping[int, _Row]:
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._is_seen and now >= self._looked_at + LOOK_INTERVAL_S:
                async with self._connection() as connection:
                    rows = await connection.fetch(WAITS)
                # The last row of a waiter counts: it names one who does not wait himself, if there is one.
                self._waits = {row[0]: row[1:] for row in rows}
                holding = {row[-1] for row in rows}
                self._detached = {trx: key for trx, key in self._detached.items() if trx in holding}
                self._looked_at = asyncio.get_running_loop().time()
        return self._waits
