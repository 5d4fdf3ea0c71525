"""What does it cost to prepare and commit a branch, against the same statements in a plain local transaction?

    python -m benchmarks.resource_managers [--quick] [--json] [--directory DIR]

Throw-away servers on loopback, forced writes everywhere. A branch is a SELECT and an UPDATE of one row, prepared and
then committed through the resource manager. The plain side runs the same two statements between BEGIN and COMMIT, with
the same driver, on the same server, over the same number of connections. Rows are not shared: what is measured is the
way, not the waiting. The embedded SQLite has one connection; there it is how many are under way at once.

*By hand* is what can hardly be done with less: the same two statements and a row that names the branch, prepared and
committed in the server's own words, in as few round trips as ours, on a connection for each line. What a branch takes
beyond that is ours.

Every round measures all sides in turn; a ratio is taken within a round, and the median over the rounds is told. CPU is
that of this process and of the server's together.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import apsw
import asyncmy
import asyncpg

from benchmarks.harness import Options, Report, data_directory, options, progress, quiet, use_uvloop
from benchmarks.spending import cpu_s
from participant.ids import BranchKey
from participant.resource import Call, ResourceManager
from participant.rm import mariadb, postgres, sqlite
from participant.testing.servers import MariaDB, Postgres
from participant.wire import BranchState

LINES = (1, 16, 64)
ROWS = max(LINES)
GOALS = {"PostgreSQL": (2.2, LINES), "MariaDB": (2.2, LINES), "SQLite": (1.5, LINES[-1:])}  # of the time, and for which

SIDES = BRANCH, PLAIN, BY_HAND = "branch", "plain", "by hand"  # the last one where a database can prepare

_GIDS = itertools.count()
_HAND = "CREATE TABLE by_hand (gid VARCHAR(64) PRIMARY KEY)"
_CREATE = "CREATE TABLE numbers (name INTEGER PRIMARY KEY, value INTEGER NOT NULL)"
_INSERT = "INSERT INTO numbers VALUES " + ", ".join(f"({row}, 0)" for row in range(ROWS))

Once: TypeAlias = Callable[[int], Awaitable[None]]
"""Do it once, on the row of this number."""


@dataclass(frozen=True, slots=True)
class Sides:
    """One database: what each line does, by the name of the side. `pids`: whose CPU counts."""

    lines: Mapping[str, Sequence[Once]]
    pids: Callable[[], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one side, in one round."""

    per_s: float
    cpu_us: float


def _through(manager: ResourceManager, action: Any) -> Once:
    async def branch(row: int) -> None:
        key = BranchKey(f"bench-{next(_GIDS)}", "b")
        answer = await manager.prepare(key, Call.of("bump", action, {"row": row}))
        if answer.state is not BranchState.PREPARED:
            raise RuntimeError(f"a measured branch must be prepared: {answer}")
        await manager.commit(key)

    return branch


def _family(pid: int) -> list[int]:
    """A server's process with those that it has begun."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


@asynccontextmanager
async def _postgres(directory: Path, lines: int) -> AsyncIterator[Sides]:
    async def bump(tx: postgres.Transaction, body: Any) -> None:
        await tx.fetchval("SELECT value FROM numbers WHERE name = $1", body["row"])
        await tx.execute("UPDATE numbers SET value = value + 1 WHERE name = $1", body["row"])

    async def plain(connection: asyncpg.Connection, row: int) -> None:
        await connection.execute("BEGIN")
        await connection.fetchval("SELECT value FROM numbers WHERE name = $1", row)
        await connection.execute("UPDATE numbers SET value = value + 1 WHERE name = $1", row)
        await connection.execute("COMMIT")

    async def by_hand(connection: asyncpg.Connection, row: int) -> None:
        gid = f"hand-{next(_GIDS)}"
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT value FROM numbers WHERE name = $1", row)
        await connection.execute("UPDATE numbers SET value = value + 1 WHERE name = $1", row)
        await connection.execute(f"INSERT INTO by_hand VALUES ('{gid}'); PREPARE TRANSACTION '{gid}'")
        await connection.execute(f"COMMIT PREPARED '{gid}'")

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Postgres.running(directory))
        connections = [await asyncpg.connect(server.dsn) for _ in range(lines)]
        for connection in connections:
            stack.push_async_callback(connection.close)
        await connections[0].execute(f"{_CREATE}; {_INSERT}; {_HAND}")
        manager = postgres.PostgreSQL(server.dsn, connections_max=lines)
        await manager.open()
        stack.push_async_callback(manager.close)
        yield Sides(
            {
                BRANCH: [_through(manager, bump)] * lines,
                PLAIN: [partial(plain, connection) for connection in connections],
                BY_HAND: [partial(by_hand, connection) for connection in connections],
            },
            lambda: _family(server.pid),
        )


@asynccontextmanager
async def _mariadb(directory: Path, lines: int) -> AsyncIterator[Sides]:
    async def bump(tx: mariadb.Transaction, body: Any) -> None:
        await tx.fetch_value("SELECT value FROM numbers WHERE name = %s", (body["row"],))
        await tx.execute("UPDATE numbers SET value = value + 1 WHERE name = %s", (body["row"],))

    async def run(connection: Any, sql: str, *values: Any) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(sql, values or None)
            await cursor.fetchall()

    async def plain(connection: Any, row: int) -> None:
        await run(connection, "BEGIN")
        await run(connection, "SELECT value FROM numbers WHERE name = %s", row)
        await run(connection, "UPDATE numbers SET value = value + 1 WHERE name = %s", row)
        await run(connection, "COMMIT")

    async def by_hand(connection: Any, row: int) -> None:
        gid = f"hand-{next(_GIDS)}"
        await run(connection, f"XA START '{gid}'")
        await run(connection, "SELECT value FROM numbers WHERE name = %s", row)
        await run(connection, "UPDATE numbers SET value = value + 1 WHERE name = %s", row)
        await run(connection, f"INSERT INTO by_hand VALUES ('{gid}'); XA END '{gid}'; XA PREPARE '{gid}'")
        await run(connection, f"XA COMMIT '{gid}'")

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(MariaDB.running(directory))
        where = {"host": "127.0.0.1", "port": server.port, "user": "root", "password": "", "autocommit": True}
        connections = [await asyncmy.connect(**where) for _ in range(lines)]
        for connection in connections:
            stack.callback(connection.close)
        await run(connections[0], "CREATE DATABASE bench")
        for connection in connections:
            await run(connection, "USE bench")
        for statement in (_CREATE, _INSERT, _HAND):
            await run(connections[0], statement)
        manager = mariadb.MariaDB(server.dsn_of("bench"), connections_max=lines)
        await manager.open()
        stack.push_async_callback(manager.close)
        yield Sides(
            {
                BRANCH: [_through(manager, bump)] * lines,
                PLAIN: [partial(plain, connection) for connection in connections],
                BY_HAND: [partial(by_hand, connection) for connection in connections],
            },
            lambda: _family(server.pid),
        )


@asynccontextmanager
async def _sqlite(directory: Path, lines: int) -> AsyncIterator[Sides]:
    async def bump(tx: sqlite.Transaction, body: Any) -> None:
        await tx.fetch_value("SELECT value FROM numbers WHERE name = ?", (body["row"],))
        await tx.execute("UPDATE numbers SET value = value + 1 WHERE name = ?", (body["row"],))

    async def plain(connection: apsw.Connection, row: int) -> None:
        """It has one writer, so those who come at once come one after the other."""
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SELECT value FROM numbers WHERE name = ?", (row,)).fetchall()
        connection.execute("UPDATE numbers SET value = value + 1 WHERE name = ?", (row,))
        connection.execute("COMMIT")
        await asyncio.sleep(0)

    folder = directory / f"sqlite-{next(_GIDS)}"
    folder.mkdir()
    connection = apsw.Connection(str(folder / "plain.db"))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    for statement in (_CREATE, _INSERT):
        connection.execute(statement)
    schema = _CREATE.replace("TABLE", "TABLE IF NOT EXISTS", 1) + f"; {_INSERT.replace('INSERT', 'INSERT OR IGNORE')}"
    manager = sqlite.SQLite(folder / "branches.db", schema=schema)
    await manager.open()
    try:
        yield Sides({BRANCH: [_through(manager, bump)] * lines, PLAIN: [partial(plain, connection)] * lines}, list)
    finally:
        await manager.close()
        connection.close()


KINDS = {"PostgreSQL": _postgres, "MariaDB": _mariadb, "SQLite": _sqlite}


async def _speed(lines: Sequence[Once], pids: Callable[[], Sequence[int]], seconds: float) -> Speed:
    """All lines at once, each again and again."""
    begun = time.perf_counter()
    end = begun + seconds
    servers = pids()
    before = cpu_s(servers) + time.process_time()

    async def again_and_again(row: int, once: Once) -> int:
        done = 0
        while time.perf_counter() < end:
            await once(row)
            done += 1
        return done

    done = sum(await asyncio.gather(*(again_and_again(row, once) for row, once in enumerate(lines))))
    spent = cpu_s(servers) + time.process_time() - before
    return Speed(done / (time.perf_counter() - begun), spent / done * 1e6)


async def _case(kind: str, lines: int, directory: Path, rounds: int, seconds: float) -> list[dict[str, Speed]]:
    """Every side, round by round; the first round warms up and is not told."""
    async with KINDS[kind](directory, lines) as sides:
        measured = [
            {side: await _speed(each, sides.pids, seconds) for side, each in sides.lines.items()}
            for _ in range(rounds + 1)
        ]
        return measured[1:]


def _measure(chosen: Options) -> None:
    rounds, seconds = (1, 1.0) if chosen.quick else (5, 3.0)
    report = Report("The cost of being transactional: prepare and commit, against a local commit", chosen)
    report.machine()
    rows, summary = [], {}
    with data_directory(chosen) as directory:
        directory.chmod(0o755)  # servers run as users of their own
        for kind, lines in itertools.product(KINDS, LINES):
            progress(f"{kind}, {lines} at once")
            measured = asyncio.run(_case(kind, lines, directory, rounds, seconds))
            rows.append(
                [
                    f"{kind}, {lines}",
                    *(_told(measured, side, lambda each, _: each.per_s, "{:,.0f}") for side in (BRANCH, PLAIN)),
                    *(_told(measured, side, _times, "{:.2f} ×") for side in (BRANCH, BY_HAND)),
                    *(_told(measured, side, lambda each, _: each.cpu_us, "{:,.0f} µs") for side in SIDES),
                ]
            )
            for side in measured[0].keys() - {PLAIN}:
                name = f"{kind.lower()}_{lines}" + ("_by_hand" if side is BY_HAND else "")
                summary[name] = round(_median(measured, side, _times), 2)
    titles = ["database, at once", "branches/s", "plain/s", "time", "by hand", "CPU of a branch", "plain", "by hand"]
    report.table(titles, rows)
    for kind in GOALS:
        report.text(_verdict(kind, summary))
    report.end(summary)


def _times(side: Speed, plain: Speed) -> float:
    """How many times the time of a plain transaction."""
    return plain.per_s / side.per_s


def _median(measured: Sequence[Mapping[str, Speed]], side: str, value: Callable[[Speed, Speed], float]) -> float:
    """Over the rounds, each with the plain side of its own."""
    return median(value(each[side], each[PLAIN]) for each in measured)


def _told(measured: Sequence[Mapping[str, Speed]], side: str, value: Callable[[Speed, Speed], float], form: str) -> str:
    return form.format(_median(measured, side, value)) if side in measured[0] else ""


def _verdict(kind: str, times: Mapping[str, float]) -> str:
    goal, at = GOALS[kind]
    said = (f"at {lines} {'met' if times[f'{kind.lower()}_{lines}'] <= goal else 'not met'}" for lines in at)
    return f"{kind}: goal at most {goal:g} × the time: {', '.join(said)}."


if __name__ == "__main__":
    quiet()
    use_uvloop()
    _measure(options("What a prepared branch costs, against a plain local transaction"))
