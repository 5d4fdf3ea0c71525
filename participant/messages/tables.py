"""The tables of messages, in the SQL of each database, and what is asked of them.

A row of `message_outbox` is written by a branch, and is there for others once the branch has committed. Nothing may be
concluded from a row's place about rows that are not seen yet: a prepared branch may commit minutes later, with a place
before all others. So whoever reads takes what there is, and keeps no mark of how far he has come.

The place. A row that was written after the commit of another one has a place behind it. On a server that is the number
that the row got when it was written: it comes from a counter that no transaction holds. On SQLite, where changes are
recorded first and made at the commit, it is the rowid, which the row gets then. Rows of one branch are made in any
order there, so they are put into that of their numbers.

Rows are only inserted and deleted, under keys of their own: no branch waits for another one here.
"""

# ruff: noqa: S608 - what is put into SQL here are words of our own; all else are parameters

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from participant.errors import ConfigError, ResourceBusy, ResourceUnreachable
from participant.ids import BranchKey
from participant.messages.message import Message, id_of
from participant.resource import Call, OpenBranch
from participant.sql import Writable, branch_tx, fetch, run

__all__ = [
    "COUNTED_MAX",
    "MARIADB",
    "POSTGRESQL",
    "SQLITE",
    "Lease",
    "Waiting",
    "bury",
    "check",
    "count",
    "give_lease",
    "insert",
    "remove",
    "take_lease",
    "waiting",
]

COUNTED_MAX = 100_000  # rows that are counted for the status; there may be more
REASON_CHARS_MAX = 500

SQLITE = """
CREATE TABLE IF NOT EXISTS message_outbox (
    gid TEXT NOT NULL, branch TEXT NOT NULL, number INTEGER NOT NULL,
    subject TEXT NOT NULL, message_key TEXT NOT NULL, body TEXT NOT NULL,
    written_at_ms INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (gid, branch, number)
);
CREATE TABLE IF NOT EXISTS message_dead (
    place TEXT NOT NULL, id TEXT NOT NULL, subject TEXT NOT NULL, message_key TEXT NOT NULL, body TEXT NOT NULL,
    reason TEXT NOT NULL, at_ms INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (place, id)
);
CREATE TABLE IF NOT EXISTS message_relay (
    name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL
);
INSERT OR IGNORE INTO message_relay VALUES ('relay', '', 0);
"""

POSTGRESQL = """
CREATE TABLE IF NOT EXISTS message_outbox (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gid text COLLATE "C" NOT NULL, branch text COLLATE "C" NOT NULL, number integer NOT NULL,
    subject text NOT NULL, message_key text NOT NULL, body text NOT NULL,
    written_at_ms bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
);
CREATE TABLE IF NOT EXISTS message_dead (
    place text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, subject text NOT NULL, message_key text NOT NULL,
    body text NOT NULL, reason text NOT NULL,
    at_ms bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    PRIMARY KEY (place, id)
);
CREATE TABLE IF NOT EXISTS message_relay (name text PRIMARY KEY, holder text NOT NULL, until_ms bigint NOT NULL);
INSERT INTO message_relay VALUES ('relay', '', 0) ON CONFLICT DO NOTHING;
"""

MARIADB = (
    """
CREATE TABLE IF NOT EXISTS message_outbox (
    place BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    gid VARBINARY(64) NOT NULL, branch VARBINARY(64) NOT NULL, number INT NOT NULL,
    subject VARCHAR(128) NOT NULL, message_key VARCHAR(256) NOT NULL, body LONGTEXT NOT NULL,
    written_at_ms BIGINT NOT NULL DEFAULT (round(unix_timestamp(now(3)) * 1000))
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
""",
    """
CREATE TABLE IF NOT EXISTS message_dead (
    place VARCHAR(64) NOT NULL, id VARCHAR(256) NOT NULL, subject VARCHAR(128) NOT NULL,
    message_key VARCHAR(256) NOT NULL, body LONGTEXT NOT NULL, reason VARCHAR(500) NOT NULL,
    at_ms BIGINT NOT NULL DEFAULT (round(unix_timestamp(now(3)) * 1000)),
    PRIMARY KEY (place, id)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
""",
    """
CREATE TABLE IF NOT EXISTS message_relay (
    name VARCHAR(32) NOT NULL PRIMARY KEY, holder VARCHAR(64) NOT NULL, until_ms BIGINT NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
""",
    "INSERT IGNORE INTO message_relay SELECT 'relay', '', 0 FROM DUAL WHERE NOT EXISTS (SELECT * FROM message_relay)",
)

_NOW_MS = {
    "sqlite": "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    "postgresql": "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    "mariadb": "round(unix_timestamp(now(3)) * 1000)",
}
_THERE = {
    "sqlite": "SELECT 1 FROM sqlite_schema WHERE name = 'message_outbox'",
    "postgresql": "SELECT 1 WHERE to_regclass('message_outbox') IS NOT NULL",
    "mariadb": "SELECT 1 FROM information_schema.tables"
    " WHERE table_schema = database() AND table_name = 'message_outbox'",
}
_RELAY = "relay"  # the lease's name, and the place of dead letters that it leaves


class Readable(Protocol):
    """The part of a resource manager that `check` needs."""

    async def read(self, call: Call) -> Any: ...


class Waiting(NamedTuple):
    """A row of the outbox. `place` says what comes first."""

    place: int
    key: BranchKey
    number: int
    message: Message


class Lease(NamedTuple):
    """Who forwards rows now, and for how long; "" and 0 if nobody does."""

    holder: str
    left_ms: int


async def check(resource: Readable) -> None:
    """See that the tables are there, unless the database cannot say so now. Raises ConfigError."""

    async def view(given: Any, _: Any) -> bool:
        tx = await branch_tx(given)
        dialect = getattr(tx, "dialect", "")
        return dialect in _THERE and bool(await fetch(tx, _THERE[dialect]))

    try:
        are_there = await resource.read(Call.of("messages", view, None))
    except (ResourceBusy, ResourceUnreachable):
        return
    if not are_there:
        raise ConfigError(
            "the database has no tables of messages: add participant.messages.outbox.SQLITE, POSTGRESQL or MARIADB to "
            "the schema of the resource manager, or to your migrations"
        )


async def insert(tx: Writable, branch: OpenBranch, message: tuple[int, str, str, str]) -> None:
    """Write a message's number, subject, key and text."""
    columns = "gid, branch, number, subject, message_key, body"
    await run(tx, f"INSERT INTO message_outbox ({columns}) VALUES (?, ?, ?, ?, ?, ?)", *branch.key, *message)


async def waiting(tx: Any, rows_max: int, without: Sequence[str] = ()) -> tuple[list[Waiting], Lease]:
    """The first rows that are not of the subjects `without`, and who forwards them. Of a branch all or, on a server,
    the first ones.
    """
    others = f"subject NOT IN ({', '.join('?' * len(without))})" if without else "1 = 1"
    columns = "gid, branch, number, subject, message_key, body"
    if tx.dialect == "sqlite":
        first = f"SELECT gid, branch FROM message_outbox WHERE {others} ORDER BY rowid LIMIT {rows_max:d}"
        sql = (
            f"SELECT min(rowid) OVER (PARTITION BY gid, branch) AS place, {columns} FROM message_outbox"
            f" WHERE (gid, branch) IN ({first}) AND {others} ORDER BY place, number"
        )
        rows = await fetch(tx, sql, *without, *without)
    else:
        sql = f"SELECT place, {columns} FROM message_outbox WHERE {others} ORDER BY place LIMIT {rows_max:d}"
        rows = await fetch(tx, sql, *without)
    found = []
    for place, gid, branch, number, *rest in rows:
        key = BranchKey(_text(gid), _text(branch))
        found.append(Waiting(place, key, number, Message(id_of(key, number), *map(_text, rest))))
    return found, await _lease(tx)


async def remove(tx: Any, rows: Sequence[Waiting]) -> None:
    """Delete rows; those that are gone already do no harm.

    One by one, by their keys: MariaDB may look for several by reading all rows, and would wait for prepared ones.
    """
    for row in rows:
        if tx.dialect == "sqlite":  # a rowid may have gone to another row meanwhile
            await run(
                tx, "DELETE FROM message_outbox WHERE gid = ? AND branch = ? AND number = ?", *row.key, row.number
            )
        else:
            await run(tx, "DELETE FROM message_outbox WHERE place = ?", row.place)


async def take_lease(tx: Any, holder: str, lease_ms: int) -> bool:
    """Become or stay who forwards rows; False if somebody else is."""
    lease = await _lease(tx)
    if lease.left_ms and lease.holder != holder:
        return False
    until = f"{_NOW_MS[tx.dialect]} + {lease_ms:d}"
    await run(tx, f"UPDATE message_relay SET holder = ?, until_ms = {until} WHERE name = ?", holder, _RELAY)
    return True


async def give_lease(tx: Any, holder: str) -> bool:
    """Let another one have it at once."""
    await run(tx, "UPDATE message_relay SET until_ms = 0 WHERE name = ? AND holder = ?", _RELAY, holder)
    return True


async def _lease(tx: Any) -> Lease:
    sql = f"SELECT holder, until_ms - {_NOW_MS[tx.dialect]} FROM message_relay WHERE name = ?"
    for holder, left_ms in await fetch(tx, sql, _RELAY):
        return Lease(_text(holder), max(0, int(left_ms)))
    return Lease("", 0)


async def bury(tx: Any, message: Message, reason: str, *, group: str = "") -> None:
    """Keep a message that nobody takes, once. `group`: to whom it came; empty for one that no broker takes."""
    place = group or _RELAY
    if await fetch(tx, "SELECT id FROM message_dead WHERE place = ? AND id = ?", place, message.id):
        return
    reason = reason[:REASON_CHARS_MAX].encode("utf-8", "replace").decode().replace("\0", "?")
    columns = "place, id, subject, message_key, body, reason"
    await run(tx, f"INSERT INTO message_dead ({columns}) VALUES (?, ?, ?, ?, ?, ?)", place, *message, reason)


async def count(tx: Any) -> tuple[int, float, int]:
    """How many rows wait (COUNTED_MAX at most), for how many seconds the oldest of them, and how many are dead."""
    some = f"SELECT written_at_ms FROM message_outbox LIMIT {COUNTED_MAX}"
    age_ms = f"coalesce({_NOW_MS[tx.dialect]} - min(written_at_ms), 0)"
    ((rows, oldest_ms),) = await fetch(tx, f"SELECT count(*), {age_ms} FROM ({some}) AS some_rows")
    some = f"SELECT id FROM message_dead LIMIT {COUNTED_MAX}"
    ((dead,),) = await fetch(tx, f"SELECT count(*) FROM ({some}) AS some_rows")
    return int(rows), max(0.0, float(oldest_ms) / 1_000), int(dead)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
