"""The MariaDB resource manager where it meets the world: settings, roles, other processes, lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncmy
import pytest
from asyncmy import errors
from structlog.testing import capture_logs

from participant.errors import ConfigError, Reject, ResourceUnreachable, SchemaError
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.mariadb import MariaDB, Transaction, office
from participant.rm.mariadb.connections import Connection, Dsn, connect
from participant.rm.mariadb.sweep import MariaSweep
from participant.testing import servers
from participant.wire import CONFLICT, BranchState
from tests.support.databases import mariadb_database
from tests.support.eavesdropper import Eavesdropper
from tests.support.subjects import MARIADB_SCHEMA

ONE, TWO = BranchKey("gid-1", "b"), BranchKey("gid-2", "b")


async def _add(tx: Transaction, body: Any) -> None:
    await tx.execute(
        "INSERT INTO numbers VALUES (%s, %s) ON DUPLICATE KEY UPDATE value = value + %s",
        (body["key"], body["amount"], body["amount"]),
    )


def _adding(key: str, amount: int = 1) -> Call:
    return Call.of("add", _add, {"key": key, "amount": amount})


@asynccontextmanager
async def _open(dsn: str, **options: Any) -> AsyncIterator[MariaDB]:
    manager = MariaDB(dsn, schema=[MARIADB_SCHEMA], **options)
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


async def _run(server: servers.MariaDB, *statements: str) -> Any:
    """As root; the rows of the last one."""
    connection = await asyncmy.connect(host="127.0.0.1", port=server.port, user="root", password="", autocommit=True)
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return await cursor.fetchall()
    finally:
        connection.close()


async def _numbers(server: servers.MariaDB, dsn: str) -> dict[str, int]:
    return dict(await _run(server, f"SELECT name, value FROM {dsn.rpartition('/')[2]}.numbers"))


@pytest.fixture
def numbers(mariadb: servers.MariaDB, mariadb_dsn: str) -> Any:
    """What is committed in the test's own database."""
    return lambda: _numbers(mariadb, mariadb_dsn)


async def test_a_schema_that_is_there_already_is_nothing_to_warn_of(
    mariadb_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red (the driver logs what the server notes) with the notes left on."""
    for _ in range(2):
        async with _open(mariadb_dsn):
            pass
    assert caplog.messages == []


@pytest.mark.parametrize("flushed", ["0", "2"])
async def test_a_server_that_could_lose_a_yes_is_refused(flushed: str) -> None:
    async with servers.MariaDB.running(settings={"innodb-flush-log-at-trx-commit": flushed}) as server:
        await _run(server, "CREATE DATABASE d")
        with pytest.raises(ConfigError, match="set `innodb_flush_log_at_trx_commit = 1` in"):
            await MariaDB(server.dsn_of("d")).open()
        await _run(server, "SET GLOBAL innodb_flush_log_at_trx_commit = 1", "SET GLOBAL read_only = 1")
        with pytest.raises(ConfigError, match="read-only: connect to the primary"):
            await MariaDB(server.dsn_of("d")).open()


async def test_an_ordinary_role_is_enough(mariadb: servers.MariaDB, mariadb_dsn: str, numbers: Any) -> None:
    """Who may not see who waits gets a no for a lock, too, which does not name the row."""
    database = mariadb_dsn.rpartition("/")[2]
    await _run(mariadb, "CREATE OR REPLACE USER plain", f"GRANT ALL ON {database}.* TO plain")
    limits = ResourceLimits(lock_wait_s=0.5)
    async with _open(mariadb_dsn.replace("root@", "plain@"), limits=limits) as manager:
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        answer = await manager.prepare(TWO, _adding("x"))
        assert (answer.state, answer.reason) == (
            BranchState.ABORTED,
            f"{CONFLICT}a row stayed locked by another transaction",
        )
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED
    assert await numbers() == {"x": 1}


async def test_a_role_that_may_not_make_the_table_is_told_what_to_run(
    mariadb: servers.MariaDB, mariadb_dsn: str
) -> None:
    database = mariadb_dsn.rpartition("/")[2]
    await _run(mariadb, "CREATE OR REPLACE USER poor", f"GRANT SELECT, INSERT ON {database}.* TO poor")
    with pytest.raises(SchemaError, match=r"(?s)let its owner run, once:.*CREATE TABLE IF NOT EXISTS commitd_branch"):
        await MariaDB(mariadb_dsn.replace("root@", "poor@")).open()


async def test_work_of_which_a_statement_failed_is_never_prepared(mariadb_dsn: str, numbers: Any) -> None:
    """MariaDB would prepare the rest of it. Seen red with the failure forgotten: the branch voted yes."""

    async def stubborn(tx: Transaction, _: Any) -> None:
        await _add(tx, {"key": "x", "amount": 1})
        with pytest.raises(errors.IntegrityError):
            await tx.execute("INSERT INTO numbers VALUES ('x', 5)")

    async with _open(mariadb_dsn) as manager:
        answer = await manager.prepare(ONE, Call.of("stubborn", stubborn, None))
        assert (answer.state, answer.reason) == (
            BranchState.ABORTED,
            "a statement of its action failed, and the action went on: IntegrityError in INSERT INTO NUMBERS",
        )
        assert await numbers() == {}


async def test_a_part_can_be_undone_alone(mariadb_dsn: str, numbers: Any) -> None:
    async def careful(tx: Transaction, _: Any) -> None:
        await _add(tx, {"key": "x", "amount": 1})
        try:
            async with tx.savepoint():
                await _add(tx, {"key": "y", "amount": 1})
                await tx.execute("INSERT INTO numbers VALUES ('x', 5)")
        except errors.IntegrityError:
            await _add(tx, {"key": "z", "amount": 1})

    async with _open(mariadb_dsn) as manager:
        assert (await manager.prepare(ONE, Call.of("careful", careful, None))).state is BranchState.PREPARED
        await manager.commit(ONE)
    assert await numbers() == {"x": 1, "z": 1}


async def test_work_of_which_a_request_failed_is_never_prepared(mariadb_dsn: str, numbers: Any) -> None:
    async def refused(tx: Transaction, body: Any) -> None:
        await _add(tx, body)
        raise Reject("not this")

    async with _open(mariadb_dsn) as manager:
        assert (await manager.work(ONE, _adding("x"), 0)).state is BranchState.WORKING
        answer = await manager.work(ONE, Call.of("refused", refused, {"key": "y", "amount": 1}), 1)
        assert (answer.state, answer.reason) == (BranchState.ABORTED, "not this")
        assert (await manager.prepare(ONE, None, 1)).state is BranchState.ABORTED
    assert await numbers() == {}


async def test_a_select_that_writes_by_a_function_is_no_reader(
    mariadb: servers.MariaDB, mariadb_dsn: str, numbers: Any
) -> None:
    async def sly(tx: Transaction, _: Any) -> Any:
        return await tx.fetch_value("SELECT bump()")

    database = mariadb_dsn.rpartition("/")[2]
    async with _open(mariadb_dsn) as manager:
        await _run(
            mariadb,
            f"CREATE FUNCTION {database}.bump() RETURNS INT BEGIN INSERT INTO numbers VALUES ('x', 1); RETURN 1; END",
        )
        assert (await manager.prepare(ONE, Call.of("sly", sly, None))).state is BranchState.PREPARED
        await manager.abort(ONE)
    assert await numbers() == {}


async def test_a_statement_that_outlives_its_action_is_never_voted_on(mariadb_dsn: str, numbers: Any) -> None:
    """The driver would give its answer to the statement after it: PREPARED was said before the server had prepared, and
    the next branch on the connection read what this one had asked for."""
    left = []

    async def hasty(tx: Transaction, _: Any) -> None:
        await _add(tx, {"key": "x", "amount": 1})
        left.append(asyncio.ensure_future(tx.fetch_value("SELECT sleep(0.3)")))
        await asyncio.sleep(0.05)

    async def twice_at_once(tx: Transaction, _: Any) -> None:
        await asyncio.gather(*(_add(tx, {"key": key, "amount": 1}) for key in "abc"))

    async def seven(tx: Transaction, _: Any) -> Any:
        return await tx.fetch_value("SELECT 7")

    async with _open(mariadb_dsn, connections_max=1) as manager:
        for key, action in ((ONE, hasty), (TWO, twice_at_once)):
            answer = await manager.prepare(key, Call.of("hasty", action, None))
            assert answer.state is BranchState.ABORTED
            assert "await each" in answer.reason
        await asyncio.gather(*left, return_exceptions=True)
        assert (await manager.work(BranchKey("gid-3", "b"), Call.of("seven", seven, None), 0)).result == 7
    assert await numbers() == {}


async def test_of_several_statements_in_one_text_a_later_one_that_fails_is_heard(mariadb_dsn: str) -> None:
    """A vote is such a text, and relies on the driver for it: its yes is the last statement."""
    connection = await connect(Dsn(mariadb_dsn), "DO 0", lambda: None, 10)
    try:
        with pytest.raises(errors.ProgrammingError, match="nothing' doesn't exist"):
            await connection.execute("DO 0; SELECT * FROM nothing; DO 0")
        assert await connection.fetch("SELECT 2") == [(2,)]
    finally:
        connection.abandon()


async def test_any_process_may_finish_what_another_has_prepared(mariadb_dsn: str, numbers: Any) -> None:
    """At once, although the first one's connection holds the branches: it lets go of them after a moment."""
    async with _open(mariadb_dsn) as first, _open(mariadb_dsn) as second:
        for key in (ONE, TWO):
            assert (await first.prepare(key, _adding(key.gid))).state is BranchState.PREPARED
            assert (await second.prepare(key, _adding(key.gid))).state is BranchState.PREPARED, "a repeat elsewhere"
        assert await second.in_doubt() == [ONE, TWO]
        assert (await second.commit(ONE)).state is BranchState.COMMITTED
        assert (await second.abort(TWO)).state is BranchState.ABORTED
        assert (await first.commit(ONE)).state is BranchState.COMMITTED
        assert (await first.prepare(TWO, _adding(TWO.gid))).state is BranchState.ABORTED
        assert (await first.status()).prepared == 0
    assert await numbers() == {"gid-1": 1}


async def test_prepared_branches_give_their_connections_to_those_who_need_one(mariadb_dsn: str, numbers: Any) -> None:
    async with _open(mariadb_dsn, connections_max=2) as manager:
        keys = [BranchKey(f"gid-{number}", "b") for number in range(10)]
        answers = await asyncio.gather(*(manager.prepare(key, _adding(key.gid)) for key in keys))
        assert {answer.state for answer in answers} == {BranchState.PREPARED}
        answers = await asyncio.gather(*(manager.commit(key) for key in keys))
        assert {answer.state for answer in answers} == {BranchState.COMMITTED}
    assert sum((await numbers()).values()) == len(keys)


async def test_what_others_have_prepared_is_left_alone(mariadb: servers.MariaDB, mariadb_dsn: str) -> None:
    """Also branches of ours in another database of the server."""
    async with mariadb_database(mariadb) as other_dsn, _open(mariadb_dsn) as here, _open(other_dsn) as there:
        database = mariadb_dsn.rpartition("/")[2]
        await _run(mariadb, "XA START 'theirs'", f"INSERT INTO {database}.numbers VALUES ('t', 1)", "XA END 'theirs'",
                   "XA PREPARE 'theirs'")  # fmt: skip
        assert (await here.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        assert (await there.prepare(TWO, _adding("x"))).state is BranchState.PREPARED
        assert await here.in_doubt() == [ONE]
        assert await there.in_doubt() == [TWO]
        assert (await there.outcome(ONE)).state is BranchState.UNKNOWN
        for _ in range(2):
            assert (await there.abort(ONE)).state is BranchState.ABORTED
        assert (await here.commit(ONE)).state is BranchState.COMMITTED, "it was another branch of the same name"
        assert (await there.commit(TWO)).state is BranchState.COMMITTED
        assert [row[3] for row in await _run(mariadb, "XA RECOVER")] == [b"theirs"]


async def test_a_yes_that_was_lost_on_its_way_is_found_by_the_repeat(mariadb_dsn: str, numbers: Any) -> None:
    async with Eavesdropper.at(mariadb_dsn) as wire, _open(wire.dsn, connections_max=1) as manager:
        wire.cut_after(b"XA PREPARE")
        with pytest.raises(ResourceUnreachable):
            await manager.prepare(ONE, _adding("x"))
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        wire.cut_after(b"XA COMMIT")
        with pytest.raises(ResourceUnreachable):
            await manager.commit(ONE)
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED
    assert await numbers() == {"x": 1}


async def test_branches_outlive_the_death_of_the_server() -> None:
    """Three times `kill -9`, each with a prepared branch and with one whose work is open."""
    async with servers.MariaDB.running() as server:
        await _run(server, "CREATE DATABASE d")
        async with _open(server.dsn_of("d")) as manager:
            for round_ in range(3):
                prepared, open_ = BranchKey(f"p-{round_}", "b"), BranchKey(f"o-{round_}", "b")
                assert (await manager.prepare(prepared, _adding("x"))).state is BranchState.PREPARED
                assert (await manager.work(open_, _adding("y"), 0)).state is BranchState.WORKING
                await server.kill()
                with pytest.raises(ResourceUnreachable):
                    await manager.commit(prepared)
                await server.start()
                assert await manager.in_doubt() == [prepared]
                assert (await manager.commit(prepared)).state is BranchState.COMMITTED
                with pytest.raises(ResourceUnreachable):
                    await manager.prepare(open_, None, 1)
                assert (await manager.prepare(open_, None, 1)).state is BranchState.ABORTED
            assert await _numbers(server, server.dsn_of("d")) == {"x": 3}


async def test_a_commit_that_comes_while_a_session_ends_is_not_mislaid(
    mariadb_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes it, does nothing, and lists the branch no more, if the session that has prepared it just ends.

    Seen in two runs of the demo of ten, when leaders died, and here with 8 of 2,880, without the wait for that end,
    on a machine with other work.
    """
    monkeypatch.setattr("participant.rm.mariadb.backend.DETACH_AFTER_S", 0.02)
    async with _open(mariadb_dsn) as manager:

        async def commit(number: int) -> BranchState:
            key = BranchKey(f"gid-{number}", "b")
            assert (await manager.prepare(key, _adding(f"x{number}"))).state is BranchState.PREPARED
            await asyncio.sleep(0.018 + number % 40 * 0.0002)
            assert (await manager.commit(key)).state is BranchState.COMMITTED
            return (await manager.outcome(key)).state

        for first in range(0, 160, 16):
            ended = await asyncio.gather(*(commit(number) for number in range(first, first + 16)))
            assert set(ended) == {BranchState.COMMITTED}


@pytest.mark.parametrize("verb", ["commit", "abort"])
async def test_an_end_that_the_row_does_not_bear_out_is_not_believed(
    mariadb_dsn: str, numbers: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Goal: what the server says that it has done, and has not, is told to nobody. Seen red without the look."""
    async with _open(mariadb_dsn) as manager:
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
    async with _open(mariadb_dsn) as manager:
        with monkeypatch.context() as patch:
            patch.setattr("participant.rm.mariadb.office.Office.finish", _say_yes)
            with pytest.raises(ResourceUnreachable, match="says that branch gid-1/b has ended, and has not ended it"):
                await getattr(manager, verb)(ONE)
        assert await manager.in_doubt() == [ONE]
        await getattr(manager, verb)(ONE)
    assert await numbers() == ({"x": 1} if verb == "commit" else {})


async def _say_yes(_office: object, _statement: str) -> bool:
    return True


@pytest.mark.parametrize("verb", ["outcome", "commit", "abort"])
async def test_a_mislaid_branch_is_not_answered_as_one_that_never_was(
    mariadb_dsn: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Goal: what the server has, and does not list until it is started again, is neither *unknown* nor aborted.

    Its row is there as that of a transaction that has not ended is: such a one stands for it. Seen red without the look
    at what is uncommitted.
    """
    monkeypatch.setattr("participant.rm.mariadb.office.FINISH_ATTEMPTS", 3)
    async with _open(mariadb_dsn) as manager:
        with closing(await asyncmy.connect(**Dsn(mariadb_dsn).parameters)) as server:
            cursor = server.cursor()
            await cursor.execute("BEGIN")
            await cursor.execute(f"INSERT INTO commitd_branch VALUES ('{ONE.gid}', 'b', 'committed', '', '', 1, '')")
            with (
                capture_logs() as lines,
                pytest.raises(ResourceUnreachable, match="has branch gid-1/b, and neither lists nor shows it"),
            ):
                await getattr(manager, verb)(ONE)
            assert "mariadb.branch_mislaid" in {line["event"] for line in lines}
            await cursor.execute("ROLLBACK" if verb == "abort" else "COMMIT")  # as its start anew lets it be ended
        ended = BranchState.ABORTED if verb == "abort" else BranchState.COMMITTED
        assert (await getattr(manager, verb)(ONE)).state is ended


async def test_who_forgets_waits_for_nobody_and_forgets_nothing_that_was_renewed(
    mariadb: servers.MariaDB, mariadb_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red when a lock of another process counts as a failure, or ends it, and when only the search asks for the
    age."""
    monkeypatch.setattr(office, "_KEYS_MAX", 1)
    async with _open(mariadb_dsn) as manager:
        for key in (ONE, TWO):
            await manager.prepare(key, _adding("x"))
            await manager.commit(key)
        later_ms = manager._wall_ms() + 1
        table = f"{mariadb_dsn.rpartition('/')[2]}.commitd_branch"
        with closing(await asyncmy.connect(**Dsn(mariadb_dsn).parameters)) as other:
            await other.query(f"BEGIN; SELECT 1 FROM {table} WHERE gid = '{ONE.gid}' FOR UPDATE")
            assert await manager._backend.forget(later_ms, 10) == 1
        search = Connection.fetch

        async def renewed_after(connection: Connection, sql: str, *values: Any) -> Any:
            found = await search(connection, sql, *values)
            await _run(mariadb, f"UPDATE {table} SET changed_at_ms = changed_at_ms + 60000")
            return found

        monkeypatch.setattr(Connection, "fetch", renewed_after)
        assert await manager._backend.forget(later_ms, 10) == 0
        monkeypatch.undo()
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.COMMITTED


async def test_work_in_which_the_server_dies_is_not_voted_on() -> None:
    """Goal: it is unknown, and runs again; a no would abort a transaction for nothing that it has done.

    Seen red with the driver's own word for whether a connection is lost: it gives none after it has lost it.
    """
    async with servers.MariaDB.running() as server:

        async def kill_and_start() -> None:
            await server.kill()
            await server.start()

        async def unlucky(tx: Transaction, _: Any) -> None:
            await _add(tx, {"key": "x", "amount": 1})
            again = asyncio.ensure_future(kill_and_start())
            try:
                await tx.fetch_value("SELECT SLEEP(60)")
            finally:
                await again  # it would take a no

        async with _open(server.dsn) as manager:
            with pytest.raises(ResourceUnreachable, match="the connection to the database was lost"):
                await manager.prepare(ONE, Call.of("add", unlucky, {}))
            assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
            assert (await manager.commit(ONE)).state is BranchState.COMMITTED
        assert await _numbers(server, server.dsn) == {"x": 1}


@pytest.mark.parametrize(
    ("replaced", "by", "said"),
    [
        ("root@", "root:s3cret@", "Access denied"),
        ("root@", "nobody@", "Access denied"),
        ("/test_", "/no_such_", "Unknown database"),
    ],
)
async def test_who_may_not_log_in_is_told_so_at_the_start(mariadb_dsn: str, replaced: str, by: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"dsn: the server refuses it: .*{said}") as error:
        await MariaDB(mariadb_dsn.replace(replaced, by)).open()
    assert "s3cret" not in str(error.value)


async def test_who_may_not_log_in_any_more_comes_again_later(mariadb: servers.MariaDB, mariadb_dsn: str) -> None:
    """Goal: nothing is known of a branch then, and it is asked for again; a password may be mended while this runs."""
    name = mariadb_dsn.rpartition("/")[2]
    await _run(mariadb, "CREATE USER IF NOT EXISTS moody", f"GRANT ALL ON {name}.* TO moody")
    async with _open(mariadb_dsn.replace("root@", "moody@")) as manager:
        await _run(mariadb, "ALTER USER moody ACCOUNT LOCK")
        with pytest.raises(ResourceUnreachable, match="account is locked"):
            await manager.prepare(ONE, _adding("x"))
        await _run(mariadb, "ALTER USER moody ACCOUNT UNLOCK")
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        await manager.abort(ONE)


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_server_that_greets_nobody_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts a connection, and says nothing. Seen red with the driver's limit alone, which ends with the accept."""
    monkeypatch.setattr("participant.rm.mariadb.connections.CONNECT_TIMEOUT_S", 0.2)
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(ResourceUnreachable, match="the database: no answer within"):
            await asyncio.wait_for(MariaDB(f"mariadb://root@127.0.0.1:{port}/d").open(), 20.0)


async def test_two_that_want_each_others_rows_both_end(mariadb_dsn: str, numbers: Any) -> None:
    async def both(tx: Transaction, body: Any) -> None:
        for key in body:
            await tx.execute("UPDATE numbers SET value = value + 1 WHERE name = %s", (key,))
            await asyncio.sleep(0.1)

    async with _open(mariadb_dsn, limits=ResourceLimits(lock_wait_s=5.0, deadlock_wait_s=0.3)) as manager:
        for key in ("x", "y"):
            await manager.commit_one_phase(BranchKey(f"set-{key}", "b"), _adding(key))
        answers = await asyncio.gather(
            manager.commit_one_phase(ONE, Call.of("both", both, ["x", "y"])),
            manager.commit_one_phase(TWO, Call.of("both", both, ["y", "x"])),
        )
    assert [answer.state for answer in answers] == [BranchState.COMMITTED] * 2, "the server's victim runs again"
    assert await numbers() == {"x": 3, "y": 3}


async def test_a_branch_that_is_aborted_while_it_waits_leaves_no_session_behind(
    mariadb: servers.MariaDB, mariadb_dsn: str
) -> None:
    """Its thread in the server would wait on, and then have the rows. Seen red without the KILL."""
    async with _open(mariadb_dsn) as manager:
        await manager.prepare(ONE, _adding("x"))
        waiting = asyncio.ensure_future(manager.prepare(TWO, _adding("x")))
        await asyncio.sleep(0.3)
        assert (await manager.abort(TWO)).state is BranchState.ABORTED
        assert (await waiting).state is BranchState.ABORTED
        listed = await _run(mariadb, "SELECT info FROM information_schema.processlist WHERE info LIKE 'INSERT INTO n%'")
        assert not listed
        await manager.commit(ONE)


EARLIER = """
CREATE TABLE commitd_branch (gid VARBINARY(64) NOT NULL, branch VARBINARY(64) NOT NULL, state VARBINARY(16) NOT NULL,
    digest VARBINARY(16) NOT NULL, reason VARCHAR(500) CHARACTER SET utf8mb4 NOT NULL, changed_at_ms BIGINT NOT NULL,
    PRIMARY KEY (gid, branch), KEY commitd_branch_changed (changed_at_ms)) ENGINE=InnoDB
"""


async def test_a_table_of_an_earlier_release_is_refused_with_the_statements_that_mend_it(
    mariadb: servers.MariaDB, mariadb_dsn: str
) -> None:
    """Seen red without the look: it was opened, and its first branch failed on a column that is not there."""
    use = f"USE {mariadb_dsn.rpartition('/')[2]}"
    old = "INSERT INTO commitd_branch VALUES ('old', 'b', 'committed', '', '', 1)"
    await _run(mariadb, use, EARLIER, old)
    with pytest.raises(SchemaError, match=r"is an earlier release's; .* while no branch is prepared:") as refused:
        await MariaDB(mariadb_dsn).open()
    with pytest.raises(SchemaError):
        await MariaSweep(mariadb_dsn).open()
    statements = str(refused.value).partition(":\n")[2].splitlines()
    assert len(statements) == 2
    await _run(mariadb, use, *statements)
    async with _open(mariadb_dsn) as manager:
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED


async def test_a_table_of_a_release_that_is_newer_is_left_alone(mariadb: servers.MariaDB, mariadb_dsn: str) -> None:
    async with _open(mariadb_dsn):
        pass
    database = mariadb_dsn.rpartition("/")[2]
    await _run(mariadb, f"ALTER TABLE {database}.commitd_branch ADD COLUMN more TEXT")
    with pytest.raises(SchemaError, match=r"changed_at_ms, result, more, and this release needs .*, result: use"):
        await MariaDB(mariadb_dsn).open()
