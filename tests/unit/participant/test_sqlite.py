"""SQLite: what a changeset cannot hold is refused, what it locks is right, and what was answered is on the disk."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from participant.branch import Ask
from participant.errors import ActionError, AlreadyOwned, ResourceBusy, ResourceFailed, SchemaError
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.engine import Engine
from participant.rm.requests import BranchRequest, Forget
from participant.rm.sqlite import SQLite, Transaction, store
from participant.rm.sqlite.store import SqliteStore
from participant.wire import Answer, BranchState
from tests.support.powerless import PowerlessDisk

ACCOUNTS = "CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, balance INTEGER NOT NULL, mail TEXT UNIQUE)"
HASTY = ResourceLimits(lock_wait_s=0.05)
KEY = BranchKey("g", "b")


def sql(text: str, *parameters: Any) -> Call:
    """An action that runs one statement; its result is the rows."""

    async def run(tx: Transaction, body: list[Any]) -> Any:
        return [list(row) for row in await tx.execute(text, body)]

    return Call.of(text, run, list(parameters))


@asynccontextmanager
async def opened(path: Path, schema: str = ACCOUNTS) -> AsyncIterator[SQLite]:
    manager = SQLite(path, schema=schema, limits=HASTY)
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


async def do(manager: SQLite, text: str, *parameters: Any) -> Answer:
    """Run and commit one statement, as a transaction of its own."""
    do.number += 1  # type: ignore[attr-defined]
    key = BranchKey(f"do-{do.number}", "b")  # type: ignore[attr-defined]
    return await manager.commit_one_phase(key, sql(text, *parameters))


do.number = 0  # type: ignore[attr-defined]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("CREATE TABLE IF NOT EXISTS t (a)", "table t has no primary key"),
        ("CREATE TABLE IF NOT EXISTS t (a, b, PRIMARY KEY (a, b))", "declare a, b NOT NULL"),
        ("CREATE VIRTUAL TABLE IF NOT EXISTS t USING fts5(a)", "virtual table"),
        ("CREATE TABLE IF NOT EXISTS t (a PRIMARY KEY ON CONFLICT ROLLBACK)", "says ROLLBACK"),
        ("CREATE TABLE t (", "the schema for .*bank.db does not run"),
        ("BEGIN; CREATE TABLE IF NOT EXISTS t (a PRIMARY KEY)", "leaves a transaction open"),
    ],
)
async def test_tables_that_cannot_be_recorded_are_refused_at_the_start(path: Path, schema: str, why: str) -> None:
    """SQLite's sessions would lose their changes without a word."""
    with pytest.raises(SchemaError, match=why):
        await SQLite(path, schema=schema).open()
    async with opened(path.with_name("other.db")):
        pass


async def test_two_processes_cannot_own_one_database(path: Path) -> None:
    async with opened(path):
        with pytest.raises(AlreadyOwned, match=r"bank\.db\.lock is locked by another process"):
            await SQLite(path, schema=ACCOUNTS).open()
    async with opened(path):
        pass


async def test_a_link_to_a_database_is_that_database(path: Path) -> None:
    """The lock stands beside the file itself. Seen red with the lock beside the link: there were two owners."""
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with opened(path):
        with pytest.raises(AlreadyOwned):
            await SQLite(link, schema=ACCOUNTS).open()


def test_a_file_that_is_no_database_is_a_clear_error(path: Path) -> None:
    path.write_text("this is no database" * 100)
    with pytest.raises(ResourceFailed, match="file is not a database"):
        _engine(path)


async def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    async with opened(tmp_path / "new" / "deep" / "bank.db") as manager:
        assert (await do(manager, "INSERT INTO accounts VALUES ('bob', 1, NULL)")).state is BranchState.COMMITTED


async def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    async with opened(tmp_path / "file"):
        with pytest.raises(ResourceFailed, match=r"cannot open .*Not a directory"):
            await SQLite(tmp_path / "file" / "bank.db", schema=ACCOUNTS).open()


async def test_a_database_of_another_format_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    db = apsw.Connection(str(path))
    db.execute("UPDATE commitd_meta SET value = 99")
    db.close()
    with pytest.raises(SchemaError, match="format 99"):
        await SQLite(path, schema=ACCOUNTS).open()


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE more (a PRIMARY KEY)",
        "DROP TABLE accounts",
        "PRAGMA synchronous = OFF",
        "COMMIT",
        "SAVEPOINT s",
        "ROLLBACK",
        "INSERT OR ROLLBACK INTO accounts VALUES ('bob', 1, NULL)",
        "DELETE FROM commitd_branch",
        "UPDATE sqlite_schema SET sql = ''",
        "ATTACH 'other.db' AS other",
        "CREATE TEMP TABLE t (a)",
        "VACUUM",
    ],
)
async def test_an_action_does_only_what_a_changeset_can_hold(path: Path, text: str) -> None:
    """Red with the authorizer taken out: COMMIT alone would make half a batch durable."""
    async with opened(path) as manager:
        await do(manager, "INSERT INTO accounts VALUES ('bob', 1, NULL)")
        answer = await manager.prepare(KEY, sql(text))
        assert answer.state is BranchState.ABORTED
        assert "action" in answer.reason
        assert (await do(manager, "UPDATE accounts SET balance = 2")).state is BranchState.COMMITTED


async def test_a_row_without_a_key_is_refused(path: Path) -> None:
    async with opened(path) as manager:
        answer = await do(manager, "INSERT INTO accounts VALUES (NULL, 1, NULL)")
        assert "primary key is NULL" in answer.reason


async def _conflict(manager: SQLite, first: Call, second: Call) -> Answer:
    """Prepare the first, then the second; the answer to the second."""
    assert (await manager.prepare(BranchKey("first", "b"), first)).state is BranchState.PREPARED
    return await manager.prepare(BranchKey("second", "b"), second)


@pytest.mark.parametrize(
    ("first", "second", "row"),
    [
        ("INSERT INTO accounts VALUES ('eve', 1, NULL)", "INSERT INTO accounts VALUES ('eve', 2, NULL)", "('eve')"),
        ("INSERT INTO accounts VALUES ('eve', 1, 'm')", "INSERT INTO accounts VALUES ('joe', 2, 'm')", "mail('m')"),
        ("INSERT INTO accounts VALUES ('eve', 1, 'm')", "UPDATE accounts SET mail = 'm' WHERE id = 'bob'", "mail('m')"),
        ("DELETE FROM accounts WHERE id = 'bob'", "UPDATE accounts SET balance = 5 WHERE id = 'bob'", "('bob')"),
        ("UPDATE accounts SET id = 'rob' WHERE id = 'bob'", "UPDATE accounts SET balance = 5", "('bob')"),
        ("UPDATE accounts SET id = 'rob' WHERE id = 'bob'", "INSERT INTO accounts VALUES ('rob', 1, NULL)", "('rob')"),
        ("INSERT INTO folded VALUES ('Ab')", "INSERT INTO folded VALUES ('aB')", "folded('ab')"),
        ("INSERT INTO folded VALUES ('Ab')", "INSERT INTO folded VALUES ('xy')", None),
        ("INSERT INTO pairs VALUES (1, 1, 7, 8)", "UPDATE pairs SET c = 7 WHERE a = 2", "pairs.c+d(7, 8)"),
        ("INSERT INTO pairs VALUES (1, 1, 7, 9)", "UPDATE pairs SET c = 7 WHERE a = 2", None),
        ("INSERT INTO pairs VALUES (1, 1, 7, NULL)", "INSERT INTO pairs VALUES (3, 3, 7, NULL)", None),
        ("INSERT INTO partial VALUES (1, 7, 1)", "UPDATE partial SET active = 1 WHERE id = 2", "partial_active"),
        ("UPDATE accounts SET balance = 5 WHERE id = 'bob'", "UPDATE accounts SET balance = 5 WHERE id = 'al'", None),
    ],
)
async def test_a_branch_locks_the_rows_and_the_unique_values_that_it_promises(
    path: Path, first: str, second: str, row: str | None
) -> None:
    """Without the lock, both would be prepared and the second commit could not keep its promise."""
    schema = (
        ACCOUNTS
        + """;
        CREATE TABLE IF NOT EXISTS folded (name TEXT COLLATE NOCASE NOT NULL PRIMARY KEY);
        CREATE TABLE IF NOT EXISTS pairs (a INT NOT NULL, b INT NOT NULL, c, d, PRIMARY KEY (a, b), UNIQUE (c, d));
        CREATE TABLE IF NOT EXISTS partial (id INTEGER PRIMARY KEY, v, active);
        CREATE UNIQUE INDEX IF NOT EXISTS partial_active ON partial (v) WHERE active;
        """
    )
    async with opened(path, schema) as manager:
        await do(manager, "INSERT INTO accounts VALUES ('bob', 1, 'b'), ('al', 1, 'a')")
        await do(manager, "INSERT INTO pairs VALUES (2, 2, 1, 8)")
        await do(manager, "INSERT INTO partial VALUES (2, 7, 0)")
        answer = await _conflict(manager, sql(first), sql(second))
        if row is None:
            assert answer.state is BranchState.PREPARED
            assert (await manager.commit(BranchKey("second", "b"))).state is BranchState.COMMITTED
        else:
            assert answer.state is BranchState.ABORTED
            assert row in answer.reason
            assert "stayed locked by first/b" in answer.reason
        assert (await manager.commit(BranchKey("first", "b"))).state is BranchState.COMMITTED


async def test_triggers_work_once(path: Path) -> None:
    """At prepare they run and are recorded; at commit they must not run again."""
    schema = (
        ACCOUNTS
        + """;
        CREATE TABLE IF NOT EXISTS journal (n INTEGER PRIMARY KEY, what);
        CREATE TRIGGER IF NOT EXISTS noted AFTER UPDATE ON accounts
            BEGIN INSERT INTO journal (what) VALUES (new.id); END;
        """
    )
    async with opened(path, schema) as manager:
        await do(manager, "INSERT INTO accounts VALUES ('bob', 1, NULL)")
        await manager.prepare(KEY, sql("UPDATE accounts SET balance = 2"))
        await manager.commit(KEY)
        assert await manager.read(sql("SELECT what FROM journal")) == [["bob"]]
        await do(manager, "UPDATE accounts SET balance = 3")
        assert len(await manager.read(sql("SELECT what FROM journal"))) == 2, "and triggers are on again"


async def test_a_yes_can_be_kept_however_unique_values_change_places(path: Path) -> None:
    """SQLite applies changes one by one, and some circles of them fit in no order (which, depends on its version).

    So a yes is rehearsed. Seen red: with 3.54, u = (1, 2, 0), v = (2, 0, 1) was prepared, and could never be committed.
    """

    async def shuffle(tx: Transaction, body: Any) -> None:
        await tx.execute("UPDATE circles SET u = NULL, v = NULL")
        for row, (u, v) in enumerate(body):
            await tx.execute("UPDATE circles SET u = ?, v = ? WHERE id = ?", (u, v, row))

    schema = "CREATE TABLE IF NOT EXISTS circles (id INTEGER PRIMARY KEY, u UNIQUE, v UNIQUE)"
    orders = list(itertools.permutations(range(3)))
    async with opened(path, schema) as manager:
        for number, (us, vs) in enumerate(itertools.product(orders, orders)):
            await do(manager, "DELETE FROM circles")
            await do(manager, "INSERT INTO circles VALUES (0, 0, 0), (1, 1, 1), (2, 2, 2)")
            key, wanted = BranchKey(f"g{number}", "b"), [list(pair) for pair in zip(us, vs, strict=True)]
            answer = await manager.prepare(key, Call.of("shuffle", shuffle, wanted))
            if answer.state is BranchState.ABORTED:
                assert "in no order" in answer.reason
                continue
            assert (await manager.commit(key)).state in (BranchState.COMMITTED, BranchState.READ_ONLY)
            assert await manager.read(sql("SELECT u, v FROM circles ORDER BY id")) == wanted


async def test_a_key_that_changes_in_the_eyes_of_bytes_only_is_no_yes_that_cannot_be_kept(path: Path) -> None:
    """Under NOCASE it is one key, in a changeset it is two rows. Seen red: it was prepared, and each try to commit it
    ended the participant.
    """
    schema = "CREATE TABLE IF NOT EXISTS folded (name TEXT COLLATE NOCASE NOT NULL PRIMARY KEY)"
    async with opened(path, schema) as manager:
        await do(manager, "INSERT INTO folded VALUES ('bob')")
        answer = await manager.prepare(KEY, sql("UPDATE folded SET name = 'Bob'"))
        if answer.state is BranchState.PREPARED:
            assert (await manager.commit(KEY)).state is BranchState.COMMITTED
        else:
            assert "in no order" in answer.reason


async def test_a_write_from_outside_is_found_and_not_overwritten(path: Path) -> None:
    """The branch stays prepared, with a clear reason, until somebody has put the row right."""
    async with opened(path) as manager:
        await do(manager, "INSERT INTO accounts VALUES ('bob', 10, NULL)")
        await manager.prepare(KEY, sql("UPDATE accounts SET balance = balance - 3"))
        outside = apsw.Connection(str(path))
        outside.execute("UPDATE accounts SET balance = 1000")
        answer = await manager.commit(KEY)
        assert (answer.state, answer.retry) == (BranchState.PREPARED, True)
        assert "wrote outside the protocol: UPDATE of accounts('bob'): data" in answer.reason
        assert await manager.in_doubt() == [KEY]
        outside.execute("UPDATE accounts SET balance = 10")
        outside.close()
        assert (await manager.commit(KEY)).state is BranchState.COMMITTED
        assert await manager.read(sql("SELECT balance FROM accounts")) == [[7]]


async def test_a_promise_outlives_its_table_and_says_so(path: Path) -> None:
    """SQLite skips the changes of a table that is gone, without a word."""
    async with opened(path) as manager:
        await do(manager, "INSERT INTO accounts VALUES ('bob', 10, NULL)")
        await manager.prepare(KEY, sql("UPDATE accounts SET balance = 7"))
    db = apsw.Connection(str(path))
    db.execute("ALTER TABLE accounts RENAME TO old")
    db.close()
    async with opened(path, "") as manager:
        answer = await manager.commit(KEY)
        assert answer.state is BranchState.PREPARED
        assert "table accounts is gone" in answer.reason


async def test_a_connection_from_outside_that_holds_the_database_delays_us_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 10)
    async with opened(path) as manager:
        outside = apsw.Connection(str(path))
        outside.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResourceBusy, match="locked by a connection outside"):
            await manager.outcome(KEY)
        outside.close()
        assert (await manager.outcome(KEY)).state is BranchState.UNKNOWN


async def test_a_view_may_not_write_and_may_fail(path: Path) -> None:
    async with opened(path) as manager:
        with pytest.raises(ActionError, match="may only read"):
            await manager.read(sql("INSERT INTO accounts VALUES ('x', 1, NULL)"))
        with pytest.raises(ActionError, match="failed with SQLError"):
            await manager.read(sql("SELECT nonsense"))
        assert await manager.read(sql("SELECT * FROM accounts")) == []


class _NothingMore(random.Random):
    """A power cut that leaves what was synced, and nothing else."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


_NOTHING_MORE = _NothingMore(0)


def _engine(path: Path) -> Engine:
    engine = Engine(SqliteStore(path, ACCOUNTS), HASTY)
    engine.open(0.0)
    return engine


def _step(engine: Engine, *requests: Any) -> list[Any]:
    return [result for _, result in engine.step(list(enumerate(requests)), 0.0, 1_000)]


def _insert(number: int, ask: Ask = Ask.PREPARE) -> BranchRequest:
    call = sql("INSERT INTO accounts VALUES (?, 1, NULL)", f"a{number}")
    return BranchRequest(ask, BranchKey(f"g{number}", "b"), call)


def test_a_late_repeat_of_the_first_work_after_a_restart_is_not_prepared_alone(path: Path) -> None:
    """Red when `Engine._effects` does not compare: one of two inserts would be prepared."""
    works = [_insert(number, Ask.WORK)._replace(key=BranchKey("g", "b"), seq=number) for number in range(2)]
    engine = _engine(path)
    assert [answer.state for answer in _step(engine, *works)] == [BranchState.WORKING] * 2
    engine.close()
    engine = _engine(path)
    _step(engine, works[0])
    [answer] = _step(engine, BranchRequest(Ask.PREPARE, BranchKey("g", "b"), works=2))
    assert (answer.state, answer.reason) == (BranchState.ABORTED, "lost work: 1 of 2")
    engine.close()
    engine = _engine(path)
    [again] = _step(engine, BranchRequest(Ask.PREPARE, BranchKey("g", "b"), works=2))
    assert again == answer, "a no is durable"
    engine.close()


def test_a_batch_is_one_forced_write_and_a_look_is_none(path: Path) -> None:
    with PowerlessDisk() as disk:
        engine = _engine(path)
        _step(engine, _insert(100))  # the first write also begins the log
        before = disk.syncs
        assert len(_step(engine, *(_insert(number) for number in range(50)))) == 50
        assert disk.syncs == before + 1
        _step(engine, BranchRequest(Ask.OUTCOME, KEY))
        assert disk.syncs == before + 1
        engine.close()


def test_what_was_answered_survives_a_power_cut(path: Path) -> None:
    """The power goes after each answer, ten times with other luck. Red with `synchronous = NORMAL`."""

    def then(number: int, ask: Ask) -> Callable[[Engine], Answer]:
        return lambda engine: _step(engine, _insert(number, ask))[0]

    story = [then(1, Ask.PREPARE), then(2, Ask.COMMIT_ONE_PHASE), then(1, Ask.COMMIT), then(3, Ask.PREPARE)]
    story += [then(4, Ask.ABORT), then(3, Ask.ABORT)]
    keys = [BranchKey(f"g{number}", "b") for number in range(1, 5)]
    with PowerlessDisk() as disk:
        engine = _engine(path)
        for number, act in enumerate(story):
            act(engine)
            said = _step(engine, *(BranchRequest(Ask.OUTCOME, key) for key in keys))
            for seed in range(10):
                ruin = path.parent / f"ruin-{number}-{seed}"
                disk.power_cut(ruin, random.Random(seed))
                after = _engine(ruin / path.name)
                assert _step(after, *(BranchRequest(Ask.OUTCOME, key) for key in keys)) == said
                after.close()
        engine.close()


def test_what_a_killed_process_left_unsynced_is_durable_before_it_is_said(path: Path) -> None:
    """Killed between the write and the sync of a yes; the next process finds that yes in the page cache, and says so.

    Then the power goes. Seen red with the checkpoint in `_configure` taken out: the yes was said, and gone.
    """
    with PowerlessDisk() as disk:
        engine = _engine(path)
        _step(engine, _insert(1))
        disk.fail_next_sync()
        with pytest.raises(ResourceFailed, match="cannot write"):
            _step(engine, _insert(2))
        killed = path.parent / "killed"
        disk.kill(killed)
        engine.close()
        after = _engine(killed / path.name)
        keys = [BranchRequest(Ask.OUTCOME, BranchKey(f"g{number}", "b")) for number in (1, 2)]
        said = _step(after, *keys)
        assert [answer.state for answer in said] == ["prepared", "prepared"]
        disk.power_cut(path.parent / "ruin", _NOTHING_MORE, of=killed)
        after.close()
        last = _engine(path.parent / "ruin" / path.name)
        assert _step(last, *keys) == said
        last.close()


async def test_a_failed_sync_answers_nobody_and_ends_the_resource_manager(path: Path) -> None:
    """Neither the branch whose commit failed nor any later one hears anything but that."""
    with PowerlessDisk() as disk:
        manager = SQLite(path, schema=ACCOUNTS, limits=HASTY)
        await manager.open()
        disk.fail_next_sync()
        for number in (1, 2):
            with pytest.raises(ResourceFailed, match="must be restarted: cannot write"):
                await manager.prepare(BranchKey(f"g{number}", "b"), _insert(number).call)
        assert isinstance(await manager.failed(), ResourceFailed)
        await manager.close()
        async with opened(path) as again:
            assert (await again.outcome(BranchKey("g2", "b"))).state is BranchState.UNKNOWN


async def test_a_reader_from_outside_that_keeps_the_log_from_being_synced_delays_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier process left unsynced must not be said. Seen red: the checkpoint's "busy" was not looked at."""
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 10)
    async with opened(path) as manager:
        await do(manager, "INSERT INTO accounts VALUES ('bob', 1, NULL)")
        outside = apsw.Connection(str(path))
        outside.execute("BEGIN; SELECT * FROM accounts")
        await do(manager, "UPDATE accounts SET balance = 2")
    with pytest.raises(ResourceBusy, match="outside"):
        await SQLite(path, schema=ACCOUNTS).open()
    outside.close()
    async with opened(path):
        pass


def test_an_action_that_cannot_be_undone_ends_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red: the branch was answered "aborted", and its change was committed with the batch."""
    engine = _engine(path)
    monkeypatch.setattr(store, "_UNDO", "ROLLBACK TO nowhere")
    with pytest.raises(ResourceFailed, match="cannot undo"):
        _step(engine, _insert(1))
    engine.close()


def test_a_database_that_rolls_back_by_itself_answers_nobody(path: Path) -> None:
    """As SQLite may when the disk is full: the other branches of the batch are gone too, so none may be answered.

    Provoked by a trigger that somebody made from outside. Red with the look at `in_transaction` taken out.
    """
    engine = _engine(path)
    _step(engine, _insert(1, Ask.COMMIT_ONE_PHASE))
    outside = apsw.Connection(str(path))
    outside.execute("CREATE TRIGGER t BEFORE UPDATE ON accounts BEGIN SELECT RAISE(ROLLBACK, 'no'); END")
    outside.close()
    poison = BranchRequest(Ask.PREPARE, BranchKey("g3", "b"), sql("UPDATE accounts SET balance = 2"))
    with pytest.raises(ResourceFailed, match="rolled the whole transaction back"):
        _step(engine, _insert(2), poison)
    engine.close()
    engine = _engine_without_that_trigger(path)
    assert _step(engine, BranchRequest(Ask.OUTCOME, BranchKey("g2", "b"))) == [Answer(BranchState.UNKNOWN)]
    engine.close()


def _engine_without_that_trigger(path: Path) -> Engine:
    with pytest.raises(SchemaError, match="t says ROLLBACK"):
        _engine(path)
    outside = apsw.Connection(str(path))
    outside.execute("DROP TRIGGER t")
    outside.close()
    return _engine(path)


def test_finished_branches_are_forgotten_in_time_and_prepared_ones_never(path: Path) -> None:
    engine = _engine(path)
    _step(engine, _insert(1), _insert(2, Ask.COMMIT_ONE_PHASE), _insert(3, Ask.ABORT))
    assert _step(engine, Forget(before_ms=1_000, branches_max=9)) == [0]
    assert _step(engine, Forget(before_ms=1_001, branches_max=1)) == [1]
    assert _step(engine, Forget(before_ms=1_001, branches_max=9)) == [1]
    outcomes = _step(engine, *(BranchRequest(Ask.OUTCOME, BranchKey(f"g{n}", "b")) for n in (1, 2, 3)))
    assert [answer.state for answer in outcomes] == ["prepared", "unknown", "unknown"]
    engine.close()
