"""A sweep over real databases, in which participants that were killed have left branches prepared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncmy
import asyncpg
import pytest
from structlog.testing import capture_logs

from coordinator.ledger.records import Decision, Phase
from coordinator.wire import BranchRequest, TransactionRequest
from participant import Participant, watch
from participant.errors import ConfigError
from participant.ids import BranchKey
from participant.outcomes import HttpOutcomeSource, Outcome
from participant.resource import Call, ResourceLimits
from participant.rm.mariadb.connections import Dsn
from participant.rm.mariadb.names import Names
from participant.sweep import Fate, Sweep, SweepSettings, Swept, databases_of
from participant.testing import servers
from participant.wire import BranchState, Verb
from tests.support.cluster import Cluster, recorded
from tests.support.databases import postgres_database
from tests.support.orphans import NAME, Remote, remote
from tests.support.subjects import SUBJECTS

KINDS = ("postgres", "mariadb", "sqlite")
NOBODY = "http://127.0.0.1:1"
AT_ONCE = SweepSettings(grace_s=0.0)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a participant of this kind keeps its data."""
    return str(tmp_path) if kind == "sqlite" else request.getfixturevalue(f"{kind}_dsn")


def _database(kind: str, place: str) -> str:
    return f"{place}/data.db" if kind == "sqlite" else place


@asynccontextmanager
async def _sweeping(
    databases: Mapping[str, str], *replicas: str, settings: SweepSettings = AT_ONCE
) -> AsyncIterator[Sweep]:
    found = databases_of(f"{name}={database}" for name, database in databases.items())
    sources = {name: HttpOutcomeSource(name, replicas) for name in found}
    for source in sources.values():
        await source.start()
    try:
        yield Sweep(found, sources, settings, asyncio.get_running_loop().time)
    finally:
        for source in sources.values():
            await source.stop()


async def _swept(database: str, *replicas: str, settings: SweepSettings = AT_ONCE) -> Swept:
    async with _sweeping({NAME: database}, *replicas, settings=settings) as sweep:
        (swept,) = await sweep.round()
        return swept


def _fates(swept: Swept) -> dict[str, Fate]:
    assert swept.error == ""
    return {found.key.gid: found.fate for found in swept.found}


def _order(gid: str, value: int) -> TransactionRequest:
    branches = [
        BranchRequest(branch="b2", participant="bank", action="do", body=1),
        BranchRequest(branch="b1", participant=NAME, action="put", body={"key": gid, "value": value}),
    ]
    return TransactionRequest(gid=gid, branches=branches, deadline_ms=600_000)


async def _leave_orphans(made: Cluster, shop: Remote) -> None:
    """`paid` is committed, `slow` undecided, `lost` nobody's; the shop has prepared all three, and is dead."""
    leader = made.replicas["n1"]
    shop.is_cut_off = True
    assert (await leader.transactions.begin(_order("paid", 1), 10.0)).decision is Decision.COMMIT
    made.clerks["bank"].hold(Verb.PREPARE)
    assert (await leader.transactions.begin(_order("slow", 2), 0.0)).decision is None
    await shop.prepare("lost", "lost", 3)
    await shop.has_prepared("slow")
    await shop.kill()


async def _numbers(kind: str, place: str) -> dict[str, int]:
    async with SUBJECTS[kind](place).open() as bench:
        get = bench._subject.get
        read = {key: await bench.manager.read(Call.of("get", get, {"key": key})) for key in ("paid", "slow", "lost")}
        return {key: value for key, value in read.items() if value is not None}


async def test_what_a_dead_participant_has_left_ends_as_its_transaction_did(kind: str, place: str) -> None:
    """Committed, aborted because nobody knows it, and left because it is not decided."""
    async with remote(kind, place) as (made, shop):
        await _leave_orphans(made, shop)
        swept = await _swept(_database(kind, place), made.urls["n1"])
        assert _fates(swept) == {"paid": Fate.COMMITTED, "slow": Fate.DECIDING, "lost": Fate.ABORTED}
        assert not swept.is_well, "one is left"
        assert await _numbers(kind, place) == {"paid": 1}
        lost = made.replicas["n1"].ledger.get("lost")
        assert lost is not None
        assert (lost.phase, lost.decided_by) == (Phase.ABORTED, "inquiry")

        shop.is_cut_off = False
        await shop.start()
        await recorded(made.replicas["n1"], "paid", lambda record: record.phase is Phase.COMMITTED)
        made.clerks["bank"].release(Verb.PREPARE)
        await recorded(made.replicas["n1"], "slow", lambda record: record.phase is Phase.COMMITTED)
    assert await _numbers(kind, place) == {"paid": 1, "slow": 2}


async def test_nothing_changes_for_silence_or_in_a_dry_run_or_while_a_branch_is_young(kind: str, place: str) -> None:
    """Seen red with silence taken for an abort, with an inquiry in the dry run, and without the grace."""
    database = _database(kind, place)
    async with remote(kind, place) as (made, shop):
        await _leave_orphans(made, shop)
        swept = await _swept(database, NOBODY)
        assert _fates(swept) == dict.fromkeys(("paid", "slow", "lost"), Fate.UNANSWERED)
        assert not swept.is_well
        swept = await _swept(database, made.urls["n1"], settings=SweepSettings(grace_s=600.0))
        assert _fates(swept) == dict.fromkeys(("paid", "slow", "lost"), Fate.YOUNG)
        assert swept.is_well
        for _ in range(2):
            swept = await _swept(database, made.urls["n1"], settings=SweepSettings(grace_s=0.0, is_dry=True))
            expected = {"paid": Fate.WOULD_COMMIT, "slow": Fate.DECIDING, "lost": Fate.WOULD_ABORT}
            assert _fates(swept) == expected
        assert made.replicas["n1"].ledger.get("lost") is None, "nobody has inquired"


async def test_a_dry_run_says_of_strange_branches_what_the_sweep_would_do(tmp_path: Path) -> None:
    """One that is no part of its transaction, and one of another participant, for whom the database was taken.

    Seen red with the outcome of the transaction in the place of the branch's: both would have been committed.
    """
    database = _database("sqlite", str(tmp_path))
    async with remote("sqlite", str(tmp_path)) as (made, shop):
        shop.is_cut_off = True
        assert (await made.replicas["n1"].transactions.begin(_order("paid", 1), 10.0)).decision is Decision.COMMIT
        await shop.kill()
        source = HttpOutcomeSource(NAME, [made.urls["n1"]])
        other = HttpOutcomeSource("bank", [made.urls["n1"]])
        for each in (source, other):
            await each.start()
        try:
            for asked, branch in ((source, "b1"), (source, "b9"), (source, "b2"), (other, "b1")):
                key = BranchKey("paid", branch)
                assert await asked.look(key) is await asked.inquire(key)
            assert await source.look(BranchKey("paid", "b1")) is Outcome.COMMITTED
            assert await source.look(BranchKey("paid", "b9")) is Outcome.ABORTED
            assert await other.look(BranchKey("paid", "b1")) is None
        finally:
            for each in (source, other):
                await each.stop()
        dry = SweepSettings(grace_s=0.0, is_dry=True)
        assert _fates(await _swept(database, made.urls["n1"], settings=dry))["paid"] is Fate.WOULD_COMMIT


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
async def test_a_branch_that_a_sweep_commits_is_remembered_for_a_whole_retention(kind: str, place: str) -> None:
    """Its row is as old as its vote. Forgotten early, the coordinator would be told that it is unknown.

    Seen red without the touch.
    """
    limits = ResourceLimits(retention_s=2.0)
    async with remote(kind, place) as (made, shop), SUBJECTS[kind](place).open(limits) as bench:
        await _leave_orphans(made, shop)
        await asyncio.sleep(2.5)
        assert _fates(await _swept(place, made.urls["n1"]))["paid"] is Fate.COMMITTED
        manager: Any = bench.manager
        await manager._backend.forget(manager._wall_ms() - 2_000, 10)
        assert (await manager.outcome(BranchKey("paid", "b1"))).state is BranchState.COMMITTED


async def test_the_list_can_be_read_while_the_participant_runs(kind: str, place: str) -> None:
    """A server takes part in the end of a branch from anywhere; a SQLite file is its participant's alone."""
    async with remote(kind, place) as (made, shop):
        await shop.prepare("lost", "lost", 3)
        await asyncio.sleep(1.5 if kind == "mariadb" else 0.0)  # until it lets go of the connection
        swept = await _swept(_database(kind, place), made.urls["n1"])
        assert _fates(swept) == {"lost": Fate.OWNED if kind == "sqlite" else Fate.ABORTED}
        assert await shop.state("lost") is (BranchState.PREPARED if kind == "sqlite" else BranchState.ABORTED)


async def test_a_database_that_no_participant_has_used_is_an_error_and_stays_as_it_is(
    postgres_dsn: str, mariadb_dsn: str, tmp_path: Path
) -> None:
    """Whoever mistypes the name of a database must not hear that all is well. The others are swept all the same."""
    named = {"a": postgres_dsn, "b": mariadb_dsn, "c": f"{tmp_path}/none.db", "d": "postgresql://127.0.0.1:1/x"}
    (tmp_path / "used").mkdir()
    async with SUBJECTS["sqlite"](str(tmp_path / "used")).open():
        pass
    named |= {"e": f"sqlite:{tmp_path}/used/data.db", "f": f"{postgres_dsn}_x", "g": f"{mariadb_dsn}_x"}
    async with _sweeping(named, NOBODY) as sweep:
        errors = {swept.database: swept.error for swept in await sweep.round()}
    assert errors["a"].startswith("no participant has used this database")
    assert errors["b"].startswith("no participant has used this database")
    assert errors["c"] == f"there is no file {tmp_path}/none.db"
    assert errors["d"].startswith("cannot connect to the database: ")
    assert errors["e"] == ""
    assert errors["f"].startswith("dsn: the server refuses it: database ")
    assert errors["g"].startswith("dsn: the server refuses it: (1049, ")
    assert not (tmp_path / "none.db").exists()
    connection = await asyncpg.connect(postgres_dsn)
    assert await connection.fetchval("SELECT to_regclass('commitd_branch')") is None
    await connection.close()


async def _prepared_in_postgres(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        return [row["gid"] for row in rows]
    finally:
        await connection.close()


async def test_foreign_transactions_of_postgres_are_never_touched_but_their_age_is_told(postgres_dsn: str) -> None:
    async with SUBJECTS["postgres"](postgres_dsn).open():
        pass
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("BEGIN; INSERT INTO numbers VALUES ('theirs', 1); PREPARE TRANSACTION 'commitd/of-others'")
    await connection.close()
    swept = await _swept(postgres_dsn, NOBODY)
    assert [(seen.name, seen.is_least) for seen in swept.foreign] == [("commitd/of-others", False)]
    assert swept.is_well
    swept = await _swept(postgres_dsn, NOBODY, settings=SweepSettings(foreign_max_age_s=0.0))
    assert swept.foreign_old == swept.foreign
    assert not swept.is_well
    assert await _prepared_in_postgres(postgres_dsn) == ["commitd/of-others"]


async def test_a_role_that_may_not_end_a_branch_leaves_it_and_says_why(postgres_dsn: str) -> None:
    """PostgreSQL lets only the role that has prepared it, or a superuser."""
    async with remote("postgres", postgres_dsn) as (made, shop):
        await shop.prepare("lost", "lost", 3)
        await shop.kill()
        admin = await asyncpg.connect(postgres_dsn)
        await admin.execute("DO $$BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN END$$")
        await admin.close()
        swept = await _swept(postgres_dsn.replace("postgres@", "guest@", 1), made.urls["n1"])
        assert _fates(swept) == {"lost": Fate.FAILED}
        assert "permission denied" in swept.found[0].why
        assert len(await _prepared_in_postgres(postgres_dsn)) == 1


async def test_branches_of_another_database_of_the_same_server_are_not_this_ones(
    postgres: servers.Postgres, postgres_dsn: str
) -> None:
    async with remote("postgres", postgres_dsn) as (made, shop), postgres_database(postgres) as other:
        async with SUBJECTS["postgres"](other).open() as bench:
            call = Call.of("put", bench._subject.put, {"key": "theirs", "value": 1})
            assert (await bench.manager.prepare(BranchKey("lost", "b1"), call)).state is BranchState.PREPARED
        await shop.prepare("lost", "lost", 3)
        await shop.kill()
        swept = await _swept(postgres_dsn, made.urls["n1"])
        assert _fates(swept) == {"lost": Fate.ABORTED}
        assert swept.foreign == ()
        assert len(await _prepared_in_postgres(other)) == 1


@asynccontextmanager
async def _maria(dsn: str, *statements: str) -> AsyncIterator[Any]:
    connection = await asyncmy.connect(**Dsn(dsn).parameters)
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            yield cursor
    finally:
        connection.close()


async def test_foreign_transactions_of_mariadb_age_from_when_they_are_first_seen(mariadb_dsn: str) -> None:
    """The server keeps no time of them. Those of another database's participant are for whoever sweeps that."""
    async with SUBJECTS["mariadb"](mariadb_dsn).open():
        pass
    for xid in ("'theirs','1',7", "X'00ff'", f"'other','b1',{Names('another').format_id}"):
        work = f'INSERT INTO numbers VALUES (md5("{xid}"), 1)'
        async with _maria(mariadb_dsn, f"XA START {xid}", work, f"XA END {xid}", f"XA PREPARE {xid}"):
            pass
    now = [100.0]
    found = databases_of([f"{NAME}={mariadb_dsn}"])
    sweep = Sweep(
        found, {NAME: HttpOutcomeSource(NAME, [NOBODY])}, SweepSettings(foreign_max_age_s=60.0), lambda: now[0]
    )
    (first,) = await sweep.round()
    now[0] += 61.0
    (second,) = await sweep.round()
    assert {(seen.name, seen.age_s) for seen in first.foreign} == {("'theirs','1',7", 0.0), ("X'00ff','',1", 0.0)}
    assert first.is_well
    assert {(seen.name, seen.age_s, seen.is_least) for seen in second.foreign} == {
        ("'theirs','1',7", 61.0, True),
        ("X'00ff','',1", 61.0, True),
    }
    assert not second.is_well
    async with _maria(mariadb_dsn, "XA RECOVER") as cursor:
        assert len(await cursor.fetchall()) == 3


async def test_a_branch_that_another_connection_of_mariadb_still_has_is_left(mariadb_dsn: str) -> None:
    """Everybody else is told that it is unknown, although it is prepared: that must not be taken for its end."""
    async with remote("mariadb", mariadb_dsn) as (made, shop):
        await shop.kill()
        xid = Names(Dsn(mariadb_dsn).database).of(BranchKey("lost", "b1"))
        row = "INSERT INTO commitd_branch VALUES ('lost', 'b1', 'committed', '', '', 1, '')"
        async with _maria(mariadb_dsn, f"XA START {xid}", row, f"XA END {xid}", f"XA PREPARE {xid}"):
            swept = await _swept(mariadb_dsn, made.urls["n1"])
            assert _fates(swept) == {"lost": Fate.FAILED}
            assert "is attached to a connection of another process" in swept.found[0].why
        assert _fates(await _swept(mariadb_dsn, made.urls["n1"])) == {"lost": Fate.ABORTED}


async def test_a_branch_that_was_ended_by_hand_against_its_decision_is_not_called_ended(postgres_dsn: str) -> None:
    """What contradicts the record is a person's to look at."""
    async with remote("postgres", postgres_dsn) as (made, shop):
        await _leave_orphans(made, shop)
        connection = await asyncpg.connect(postgres_dsn)
        name = next(name for name in await _prepared_in_postgres(postgres_dsn) if "/paid/" in name)
        async with _sweeping({NAME: postgres_dsn}, made.urls["n1"]) as sweep:
            database = sweep._databases[NAME]
            look = database.look

            async def look_then_lose() -> Any:
                found = await look()
                await connection.execute(f"ROLLBACK PREPARED '{name}'")
                return found

            database.look = look_then_lose  # type: ignore[method-assign]
            (swept,) = await sweep.round()
        await connection.close()
        (paid,) = [found for found in swept.found if found.key.gid == "paid"]
        assert (paid.fate, paid.is_left) == (Fate.FAILED, True)
        assert paid.why.startswith("its transaction is committed, and it is unknown")


async def test_a_participant_says_itself_what_has_been_prepared_for_long(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with no watch started, and with a resource manager that does not list what is foreign."""
    for limit in ("PREPARED_MAX_AGE_S", "FOREIGN_MAX_AGE_S", "WATCH_INTERVAL_S"):
        monkeypatch.setattr(watch, limit, 0.01)
    subject = SUBJECTS["postgres"](postgres_dsn)
    async with subject.open() as bench:
        await bench.manager.prepare(BranchKey("ours", "b1"), Call.of("put", subject.put, {"key": "x", "value": 1}))
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("BEGIN; INSERT INTO numbers VALUES ('y', 1); PREPARE TRANSACTION 'other'")
    await connection.close()
    with capture_logs() as lines:
        async with Participant(NAME, subject.make(ResourceLimits())).serving():
            for _ in range(500):
                if {"prepared.old", "foreign.old"} <= {line["event"] for line in lines}:
                    break
                await asyncio.sleep(0.02)
    assert "prepared.old" in {line["event"] for line in lines}
    assert {line["name"] for line in lines if line["event"] == "foreign.old"} == {"other"}


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["postgresql://u:secret@h/d"], "write each database as NAME=DATABASE"),
        (["a b=x.db"], "write each database as NAME=DATABASE"),
        (["shop=a.db", "shop=b.db"], "shop: is named twice"),
        (["shop=oracle://h/d"], "shop: oracle: is unknown"),
        (["shop=mariadb://h"], "shop: dsn: must be mariadb://user:password@host:port/database"),
    ],
)
def test_a_database_that_is_named_wrongly_is_refused_without_its_password(named: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        databases_of(named)
    assert str(refused.value).startswith(said)
    assert "secret" not in str(refused.value)
