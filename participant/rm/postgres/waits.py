"""Who waits for whom in PostgreSQL, read from its locks: for the reason of a no, and for how long to wait.

Whoever wants a row that another transaction has changed holds (or waits for) a lock of that row, and waits for that
transaction. The row's `xmax` names it. A prepared transaction has no process; its name says which branch it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from participant.ids import BranchKey
from participant.rm.postgres.connections import Connection
from participant.rm.postgres.names import Names
from participant.rm.server.backend import Blocked

__all__ = ["Waits"]

_WAITING = """
SELECT mine.locktype, mine.transactionid::text::bigint AS xid, row.relation, row.page, row.tuple, class.relname,
       pg_blocking_pids($1) AS pids
  FROM pg_locks AS mine
  LEFT JOIN pg_locks AS row ON row.pid = mine.pid AND row.locktype = 'tuple'
  LEFT JOIN pg_class AS class ON class.oid = coalesce(row.relation, mine.relation)
 WHERE mine.pid = $1 AND NOT mine.granted LIMIT 1
"""
_COUNT = "SELECT count(DISTINCT pid) FROM pg_locks WHERE pid = ANY($1::int[]) AND NOT granted"
_NAMED = "SELECT gid FROM pg_prepared_xacts WHERE transaction::text::bigint = $1"
_KEY_COLUMNS = """
SELECT attribute.attname FROM pg_index, pg_attribute AS attribute
 WHERE indrelid = $1 AND indisprimary AND attrelid = indrelid AND attnum = ANY(indkey) ORDER BY attnum
"""


class Waits:
    """Questions about the locks of one database. All answers are of a moment, and may be over."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def of(self, connection: Connection, pid: int) -> Blocked | None:
        """What the session `pid` waits for."""
        waiting = await connection.fetchrow(_WAITING, pid)
        if waiting is None:
            return None
        row, xid = f"a row of {waiting['relname'] or 'some table'}", waiting["xid"]
        if waiting["tuple"] is not None:
            row, holder_xid = await self._row(connection, waiting)
            xid = xid or holder_xid
        holder = await self._branch(connection, xid)
        if holder is not None:
            return Blocked(row, holder, str(holder))
        pids = [str(each) for each in waiting["pids"] if each]
        return Blocked(row, None, f"session {', '.join(pids)}" if pids else "another transaction")

    async def count(self, connection: Connection, pids: Sequence[int]) -> int:
        """How many of these sessions wait."""
        return int(await connection.fetchval(_COUNT, pids))

    async def _row(self, connection: Connection, waiting: asyncpg.Record) -> tuple[str, int | None]:
        """A row by its primary key, and the transaction that changes it."""
        table = waiting["relname"]
        columns = [record["attname"] for record in await connection.fetch(_KEY_COLUMNS, waiting["relation"])]
        key = ", ".join(f"{_quoted(column)}::text" for column in columns) or "ctid::text"
        name = await connection.fetchval("SELECT $1::oid::regclass::text", waiting["relation"])
        try:
            found = await connection.fetchrow(
                f"SELECT xmax::text::bigint, ARRAY[{key}] FROM {name} WHERE ctid = $1::text::tid",  # noqa: S608
                f"({waiting['page']},{waiting['tuple']})",
            )
        except asyncpg.PostgresError:  # gone, or not for this role to read
            found = None
        if found is None:
            return f"a row of {table}", None
        return f"{table}({', '.join(found[1])})", found[0] or None

    async def _branch(self, connection: Connection, xid: int | None) -> BranchKey | None:
        name = await connection.fetchval(_NAMED, xid) if xid is not None else None
        named = self._names.read(name) if name is not None else None
        return None if named is None else named[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
