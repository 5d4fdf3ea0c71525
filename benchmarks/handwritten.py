"""Two-phase commit as people write it by hand: what the commit path is compared with.

    python -m benchmarks.handwritten coordinator --port 8000 --database log.db --bank bank-a=http://127.0.0.1:8001 …
    python -m benchmarks.handwritten bank --port 8001 --database bank-a.db [--tuned]

One coordinator, not replicated, and banks. Every operation is one HTTP request in JSON, every record of the log and
every change at a bank is one SQLite transaction of its own (`synchronous=FULL`), and nothing is batched. It is an
honest program: it aborts, restarts and repeats correctly, asks both banks at the same time, and its event loop never
waits for the disk. All libraries are as they come; with `--tuned` SQLite has a write-ahead log, the event loop is
uvloop with a patient garbage collector, and there is no limit on connections, as in `commitd`.

The log has three records a transaction, and needs them: without the first, nobody would know after a crash whom to
tell that it was aborted; without the last, everybody would be told everything again. A client hears its answer when
both banks have done what was decided.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from benchmarks.clients import Caller, Calling
from benchmarks.harness import free_ports
from benchmarks.spending import Reading, cpu_s
from benchmarks.subject import BANKS, Child, fill
from coordinator.client import Branch
from participant.process import run

__all__ = ["ByHand", "HandCaller"]

HOST = "127.0.0.1"
AGAIN_S = 0.2
CONNECTIONS_MAX = 100  # as aiohttp has it
READY_TIMEOUT_S = 30.0

_LOG_SCHEMA = "CREATE TABLE IF NOT EXISTS log (gid TEXT PRIMARY KEY, state TEXT NOT NULL, branches TEXT NOT NULL)"
_BANK_SCHEMA = """
CREATE TABLE IF NOT EXISTS promised (gid TEXT PRIMARY KEY, account TEXT NOT NULL UNIQUE, change INTEGER NOT NULL)
"""


class _Database:
    """One SQLite file, and the one thread that uses it. Every call is a transaction, durable when it returns."""

    def __init__(self, file: Path, schema: str, *, tuned: bool) -> None:
        self.commits = 0
        self._thread = ThreadPoolExecutor(1)
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        if tuned:
            self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(schema)

    async def do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)

    def rows(self, sql: str) -> list[Any]:
        return self._db.execute(sql).fetchall()

    def _transaction(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            result = work(self._db)
        self.commits += 1
        return result


# The coordinator ---------------------------------------------------------------------------------------------


class _Coordinator:
    def __init__(self, database: _Database, banks: Mapping[str, str], connections_max: int) -> None:
        self._database = database
        self._banks = banks
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def started(self, _: web.Application) -> Any:
        """Open the connections, and end what an earlier process has begun."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._connections_max))
        for gid, state, branches in self._database.rows("SELECT * FROM log WHERE state <> 'done'"):
            await self._end(gid, "commit" if state == "commit" else "abort", json.loads(branches))
        yield
        await self._session.close()

    async def transact(self, request: web.Request) -> web.Response:
        gid, branches = str(uuid.uuid4()), (await request.json())["branches"]
        await self._record(
            "INSERT INTO log (state, branches, gid) VALUES (?, ?, ?)", "begun", json.dumps(branches), gid
        )
        votes = await asyncio.gather(*(self._ask(branch, "prepare", {"gid": gid, **branch}) for branch in branches))
        reasons = [vote["reason"] for vote in votes if vote["vote"] != "yes"]
        decision = "abort" if reasons else "commit"
        await self._record("UPDATE log SET state = ? WHERE gid = ?", decision, gid)
        await self._end(gid, decision, branches)
        return web.json_response({"outcome": decision, "reason": "; ".join(reasons)})

    async def _end(self, gid: str, decision: str, branches: Sequence[Any]) -> None:
        await asyncio.gather(*(self._tell(branch, decision, {"gid": gid}) for branch in branches))
        await self._record("UPDATE log SET state = ? WHERE gid = ?", "done", gid)

    async def _record(self, sql: str, *values: str) -> None:
        await self._database.do(lambda db: db.execute(sql, values))

    async def _ask(self, branch: Any, verb: str, body: Any) -> Any:
        """The answer of a bank; a no if there is none."""
        try:
            return await self._post(branch, verb, body)
        except aiohttp.ClientError as error:
            return {"vote": "no", "reason": str(error)}

    async def _tell(self, branch: Any, verb: str, body: Any) -> None:
        """Until the bank has heard it."""
        while True:
            try:
                await self._post(branch, verb, body)
            except aiohttp.ClientError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _post(self, branch: Any, verb: str, body: Any) -> Any:
        if self._session is None:
            raise RuntimeError("the application is not started")
        url = f"{self._banks[branch['bank']]}/{verb}"
        async with self._session.post(url, json=body, raise_for_status=True) as response:
            return await response.json()


# A bank ------------------------------------------------------------------------------------------------------


class _Bank:
    def __init__(self, database: _Database) -> None:
        self._database = database

    async def prepare(self, request: web.Request) -> web.Response:
        body = await request.json()
        reason = await self._database.do(lambda db: _promise(db, body["gid"], body["account"], body["change"]))
        return web.json_response({"vote": "no" if reason else "yes", "reason": reason})

    async def commit(self, request: web.Request) -> web.Response:
        gid = (await request.json())["gid"]
        await self._database.do(lambda db: _keep(db, gid))
        return web.json_response({})

    async def abort(self, request: web.Request) -> web.Response:
        gid = (await request.json())["gid"]
        await self._database.do(lambda db: db.execute("DELETE FROM promised WHERE gid = ?", (gid,)))
        return web.json_response({})


def _promise(db: sqlite3.Connection, gid: str, account: str, change: int) -> str:
    """Keep the account for this transaction; why not, or nothing."""
    found = db.execute("SELECT balance FROM accounts WHERE account = ?", (account,)).fetchone()
    if found is None or found[0] + change < 0:
        return "unknown account" if found is None else "insufficient funds"
    try:
        db.execute("INSERT INTO promised VALUES (?, ?, ?)", (gid, account, change))
    except sqlite3.IntegrityError:
        return "the account is in use"
    return ""


def _keep(db: sqlite3.Connection, gid: str) -> None:
    found = db.execute("DELETE FROM promised WHERE gid = ? RETURNING account, change", (gid,)).fetchall()
    for account, change in found:
        db.execute("UPDATE accounts SET balance = balance + ? WHERE account = ?", (change, account))


# The processes -----------------------------------------------------------------------------------------------


def _coordinator(file: Path, banks: Mapping[str, str], *, tuned: bool) -> tuple[web.Application, _Database]:
    app, log = web.Application(), _Database(file, _LOG_SCHEMA, tuned=tuned)
    coordinator = _Coordinator(log, banks, 0 if tuned else CONNECTIONS_MAX)
    app.cleanup_ctx.append(coordinator.started)
    app.router.add_post("/transactions", coordinator.transact)
    return app, log


def _bank(file: Path, *, tuned: bool) -> tuple[web.Application, _Database]:
    app, database = web.Application(), _Database(file, _BANK_SCHEMA, tuned=tuned)
    bank = _Bank(database)
    for verb in (bank.prepare, bank.commit, bank.abort):
        app.router.add_post(f"/{verb.__name__}", verb)
    return app, database


async def _serve(app: web.Application, database: _Database, port: int) -> None:
    async def syncs(_: web.Request) -> web.Response:
        return web.json_response({"syncs": database.commits})

    app.router.add_get("/syncs", syncs)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await asyncio.Event().wait()


def _main() -> None:
    parser = ArgumentParser()
    parser.add_argument("role", choices=("coordinator", "bank"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--bank", action="append", default=[], help="name=URL")
    parser.add_argument("--tuned", action="store_true")
    chosen = parser.parse_args()
    banks, tuned = dict(each.split("=", 1) for each in chosen.bank), chosen.tuned
    if chosen.role == "bank":
        app, database = _bank(chosen.database, tuned=tuned)
    else:
        app, database = _coordinator(chosen.database, banks, tuned=tuned)
    (run if tuned else asyncio.run)(_serve(app, database, chosen.port))


# For the measuring processes ---------------------------------------------------------------------------------


class HandCaller(AbstractAsyncContextManager[Caller]):
    """What one process's clients ask this coordinator through."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._url = f"{urls[0]}/transactions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def commit(self, branches: Sequence[Branch]) -> str:
        asked = [_asked(branch) for branch in branches]
        async with self._session.post(self._url, json={"branches": asked}, raise_for_status=True) as response:
            ended = await response.json()
        return "" if ended["outcome"] == "commit" else str(ended["reason"])


def _asked(branch: Branch) -> dict[str, Any]:
    sign = -1 if branch.action == "debit" else 1
    return {
        "bank": branch.participant,
        "account": branch.body["account"],
        "change": sign * branch.body["amount"],
    }


class ByHand:
    """The three processes. Used with `async with`; leaving it kills them."""

    calling: Calling = HandCaller

    def __init__(self, directory: Path, *, tuned: bool) -> None:
        ports = dict(zip(("coordinator", *BANKS), free_ports(1 + len(BANKS)), strict=True))
        self._all = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
        self.urls = (self._all["coordinator"],)
        known = [word for bank in BANKS for word in ("--bank", f"{bank}={self._all[bank]}")]
        self._children: dict[str, Child] = {}
        for name, port in ports.items():
            file = directory / f"{name}.db"
            if name in BANKS:
                fill(file)
            where = ("--port", str(port), "--database", str(file))
            words = ("bank", *where) if name in BANKS else ("coordinator", *where, *known)
            words = (*words, "--tuned") if tuned else words
            self._children[name] = Child(name, words, directory / f"{name}.log", module="benchmarks.handwritten")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        try:
            await asyncio.gather(*(child.start() for child in self._children.values()))
            async with asyncio.timeout(READY_TIMEOUT_S):
                await asyncio.gather(*map(self._ready, self._all))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await asyncio.gather(*(child.kill() for child in self._children.values()))

    async def read(self) -> Reading:
        """What the processes have spent until now. Each commit to SQLite is counted as one forced write; it is more."""
        syncs = sum(await asyncio.gather(*map(self._syncs, self._all.values())))
        pids = {name: child.pid for name, child in self._children.items()}
        cpu = {"coordinators": cpu_s([pids.pop("coordinator")]), "participants": cpu_s(pids.values())}
        return Reading.now(cpu, syncs)

    async def _ready(self, name: str) -> None:
        while True:
            self._children[name].check()
            try:
                await self._syncs(self._all[name])
            except aiohttp.ClientError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _syncs(self, url: str) -> int:
        async with self._session.get(f"{url}/syncs", raise_for_status=True) as response:
            return int((await response.json())["syncs"])


if __name__ == "__main__":
    _main()
