"""The PostgreSQL resource manager where it meets the world: settings, roles, other processes, lost connections."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from yarl import URL

from participant.errors import ConfigError, Reject, ResourceUnreachable, SchemaError
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.postgres import PostgreSQL, Transaction
from participant.rm.postgres.connections import LOST
from participant.rm.postgres.sweep import PostgresSweep
from participant.testing.servers import Postgres
from participant.wire import CONFLICT, Answer, BranchState
from tests.support.databases import postgres_database
from tests.support.eavesdropper import Eavesdropper
from tests.support.subjects import SCHEMA

ONE, TWO = BranchKey("gid-1", "b"), BranchKey("gid-2", "b")


async def _add(tx: Transaction, body: Any) -> None:
    await tx.execute(
        "INSERT INTO numbers VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = numbers.value + excluded.value",
        *(body["key"], body["amount"]),
    )


def _adding(key: str, amount: int = 1) -> Call:
    return Call.of("add", _add, {"key": key, "amount": amount})


@asynccontextmanager
async def _open(dsn: str, **options: Any) -> AsyncIterator[PostgreSQL]:
    manager = PostgreSQL(dsn, schema=SCHEMA, **options)
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


async def _run(dsn: str, statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def _numbers(dsn: str) -> dict[str, int]:
    connection = await asyncpg.connect(dsn)
    try:
        return dict(await connection.fetch("SELECT name, value FROM numbers"))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_prepared_transactions": "0"}, "set `max_prepared_transactions = 100`"),
        ({"fsync": "off"}, "set `fsync = on` in postgresql.conf"),
    ],
)
async def test_a_server_that_could_lose_a_yes_is_refused(settings: dict[str, str], said: str) -> None:
    async with Postgres.running(settings=settings) as server:
        with pytest.raises(ConfigError, match=said):
            await PostgreSQL(server.dsn, schema=SCHEMA).open()


async def test_a_commit_in_one_phase_is_on_the_disk_though_the_server_says_it_need_not_be() -> None:
    async with (
        Postgres.running(settings={"synchronous_commit": "off"}) as server,
        _open(server.dsn) as manager,
    ):
        setting = Call.of("show", _show_synchronous_commit, None)
        assert (await manager.work(ONE, setting, 0)).result == "on"


async def _show_synchronous_commit(tx: Transaction, _: Any) -> Any:
    return await tx.fetchval("SHOW synchronous_commit")


async def test_a_role_that_could_not_finish_branches_is_refused(postgres: Postgres, postgres_dsn: str) -> None:
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(
        "DO $$BEGIN CREATE ROLE first LOGIN; CREATE ROLE second LOGIN; EXCEPTION WHEN duplicate_object THEN END$$;"
        "GRANT ALL ON SCHEMA public TO first, second"
    )
    dsn = postgres_dsn.replace("postgres@", "{}@", 1)
    async with _open(dsn.format("first")) as manager:
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        await admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO second")
        with pytest.raises(ConfigError, match="that role 'first' has prepared can be finished by that role or a sup"):
            await PostgreSQL(dsn.format("second")).open()
        await manager.commit(ONE)
    async with _open(dsn.format("second").replace("second", "second")) as manager:
        assert (await manager.outcome(ONE)).state is BranchState.COMMITTED
    await admin.close()


async def test_a_role_that_may_not_make_the_table_is_told_what_to_run(postgres_dsn: str) -> None:
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute("DO $$BEGIN CREATE ROLE poor LOGIN; EXCEPTION WHEN duplicate_object THEN END$$")
    with pytest.raises(SchemaError, match=r"(?s)let its owner run, once:.*CREATE TABLE IF NOT EXISTS commitd_branch"):
        await PostgreSQL(postgres_dsn.replace("postgres@", "poor@", 1)).open()
    await admin.close()


async def test_work_of_which_a_statement_failed_is_never_prepared(postgres_dsn: str) -> None:
    """PostgreSQL answers PREPARE TRANSACTION with the tag ROLLBACK then, and with no error."""

    async def stubborn(tx: Transaction, _: Any) -> None:
        await _add(tx, {"key": "x", "amount": 1})
        with pytest.raises(asyncpg.UndefinedTableError):
            await tx.execute("UPDATE nothing SET x = 1")

    async with _open(postgres_dsn) as manager:
        answer = await manager.prepare(ONE, Call.of("stubborn", stubborn, None))
        assert (answer.state, answer.reason) == (
            BranchState.ABORTED,
            "a statement of its action failed, and the action went on",
        )
        assert await _numbers(postgres_dsn) == {}


async def test_a_part_can_be_undone_alone(postgres_dsn: str) -> None:
    async def careful(tx: Transaction, _: Any) -> None:
        await _add(tx, {"key": "x", "amount": 1})
        try:
            async with tx.savepoint():
                await _add(tx, {"key": "y", "amount": 1})
                await tx.execute("UPDATE nothing SET x = 1")
        except asyncpg.UndefinedTableError:
            await _add(tx, {"key": "z", "amount": 1})

    async with _open(postgres_dsn) as manager:
        assert (await manager.prepare(ONE, Call.of("careful", careful, None))).state is BranchState.PREPARED
        await manager.commit(ONE)
    assert await _numbers(postgres_dsn) == {"x": 1, "z": 1}


async def test_nothing_that_an_action_does_to_its_session_outlives_it(postgres_dsn: str) -> None:
    """Neither durability nor a lock: the next branch would commit without a forced write."""

    async def careless(tx: Transaction, _: Any) -> None:
        await tx.fetchval("SELECT set_config('synchronous_commit', 'off', false)")
        await tx.fetchval("SELECT pg_advisory_lock(42)")

    async def look(tx: Transaction, _: Any) -> Any:
        locks = await tx.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42")
        return [await _show_synchronous_commit(tx, None), locks]

    async with _open(postgres_dsn, connections_max=1) as manager:
        await manager.commit_one_phase(ONE, Call.of("careless", careless, None))
        assert (await manager.work(TWO, Call.of("look", look, None), 0)).result == ["on", 0]


async def test_nothing_that_a_failed_action_does_to_its_session_outlives_it(postgres_dsn: str) -> None:
    """A rollback gives no lock of a session back. Seen red: what had soiled it was heard of by success only."""

    async def careless(tx: Transaction, _: Any) -> None:
        await tx.fetchval("SELECT pg_advisory_lock(43)")
        raise Reject("no")

    async def look(tx: Transaction, _: Any) -> Any:
        return await tx.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 43")

    async with _open(postgres_dsn, connections_max=1) as manager:
        await manager.prepare(ONE, Call.of("careless", careless, None))
        assert (await manager.work(TWO, Call.of("look", look, None), 0)).result == 0


async def test_branches_end_on_idle_connections_and_give_them_back(postgres_dsn: str) -> None:
    async with _open(postgres_dsn, connections_max=1) as manager:
        for number in range(3):
            key = BranchKey(f"again-{number}", "b")
            assert (await manager.prepare(key, _adding("x"))).state is BranchState.PREPARED
            assert (await manager.commit(key)).state is BranchState.COMMITTED
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        assert (await manager.work(TWO, _adding("y"), 0)).state is BranchState.WORKING
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED, "though the only one is at work"
        assert (await manager.prepare(TWO, None, 1)).state is BranchState.PREPARED
        assert (await manager.abort(TWO)).state is BranchState.ABORTED
    assert await _numbers(postgres_dsn) == {"x": 4}


async def test_a_branch_ends_although_an_action_has_changed_who_its_session_is(postgres_dsn: str) -> None:
    """By a function, in which nobody sees it. Seen red: each attempt took the session that was refused before."""
    role = f"another_in_{URL(postgres_dsn).path[1:]}"
    become_it = f"LANGUAGE sql AS $$ SELECT set_config('role', '{role}', false) $$"

    async def become(tx: Transaction, _: Any) -> None:
        await tx.fetchval("SELECT become()")

    async with _open(postgres_dsn, connections_max=1) as manager:
        await _run(postgres_dsn, f"CREATE ROLE {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await _run(postgres_dsn, f"CREATE FUNCTION become() RETURNS text {become_it}")
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        assert (await manager.prepare(TWO, Call.of("become", become, None))).state is BranchState.READ_ONLY
        with suppress(ResourceUnreachable):
            await manager.commit(ONE)
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED
    assert await _numbers(postgres_dsn) == {"x": 1}


async def test_a_late_commit_is_remembered_as_long_as_any(postgres_dsn: str) -> None:
    """Its row is as old as its vote; forgotten early, a repeated prepare would run again, and count twice."""
    limits = ResourceLimits(retention_s=2.0)
    async with _open(postgres_dsn, limits=limits) as first, _open(postgres_dsn, limits=limits) as second:
        assert (await first.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        await asyncio.sleep(2.5)
        assert (await second.commit(ONE)).state is BranchState.COMMITTED
        backend: Any = second._backend
        assert await backend.forget(second._wall_ms() - 2_000, 10) == 0
        assert (await second.prepare(ONE, _adding("x"))).state is BranchState.COMMITTED


async def test_who_forgets_waits_for_nobody_who_is_at_it_too(postgres_dsn: str) -> None:
    """Goal: processes that forget at once do not deadlock. Seen red, by the time limit, without SKIP LOCKED in either
    statement."""
    async with _open(postgres_dsn) as manager:
        backend: Any = manager._backend
        for key in (ONE, TWO):
            await manager.prepare(key, _adding("x"))
            await manager.commit(key)
            await backend.swap_note(key, None, b"", changed_at_ms=manager._wall_ms(), is_finished=True)
        later_ms = manager._wall_ms() + 1
        other = await asyncpg.connect(postgres_dsn)
        await other.execute("BEGIN; DELETE FROM commitd_branch WHERE gid = 'gid-1'")
        await other.execute("DELETE FROM commitd_note WHERE gid = 'gid-1'")
        try:
            async with asyncio.timeout(5):
                assert await backend.forget(later_ms, 10) == 1
        finally:
            await other.close()
        assert [await backend.note(key) for key in (ONE, TWO)] == [b"", None]
        assert await backend.forget(later_ms, 10) == 1
        assert await backend.note(ONE) is None


async def test_an_action_ends_at_its_limit_although_nobody_could_look_at_it(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look that fails is not the last."""

    async def endless(_tx: Transaction, _: Any) -> None:
        await asyncio.sleep(60)

    async with _open(postgres_dsn, limits=ResourceLimits(unprepared_limit_s=0.5, deadlock_wait_s=0.1)) as manager:

        async def unseen(_: object) -> None:
            raise ResourceUnreachable("not now")

        monkeypatch.setattr(manager._backend, "blocked_by", unseen)
        answer = await manager.prepare(ONE, Call.of("endless", endless, None))
        assert (answer.state, answer.reason) == (BranchState.ABORTED, "its action took longer than 0.5 s")


async def test_half_a_work_is_never_voted_on(postgres_dsn: str) -> None:
    """What asks somebody else in an action may raise his errors. A repeat would be done on top of it."""
    fails = [ResourceUnreachable("the other one is not there")]

    async def asking(tx: Transaction, body: Any) -> None:
        await _add(tx, body)
        if fails:
            raise fails.pop()

    call = Call.of("asking", asking, {"key": "x", "amount": 1})
    async with _open(postgres_dsn) as manager:
        assert (await manager.work(ONE, _adding("x"), 0)).state is BranchState.WORKING
        with pytest.raises(ResourceUnreachable):
            await manager.work(ONE, call, 1)
        assert (await manager.work(ONE, call, 1)).state is BranchState.ABORTED, "the work before it is lost"
    assert await _numbers(postgres_dsn) == {}


async def test_the_row_of_a_branch_is_written_where_it_belongs(postgres_dsn: str) -> None:
    """Whatever search path an action sets for itself: services with a schema for each tenant do."""

    async def elsewhere(tx: Transaction, _: Any) -> None:
        await tx.execute("CREATE SCHEMA other")
        await tx.execute("SET LOCAL search_path = other")
        await tx.execute("CREATE TABLE numbers (x int)")

    async def only_there(tx: Transaction, _: Any) -> None:
        await tx.execute("SET LOCAL search_path = other")
        await tx.execute("INSERT INTO numbers VALUES (1)")

    async with _open(postgres_dsn) as manager:
        for key, action in ((ONE, elsewhere), (TWO, only_there)):
            assert (await manager.prepare(key, Call.of("there", action, None))).state is BranchState.PREPARED
            assert (await manager.commit(key)).state is BranchState.COMMITTED
            assert (await manager.outcome(key)).state is BranchState.COMMITTED


async def test_a_row_is_what_it_is_however_an_action_lets_texts_be_read(postgres_dsn: str) -> None:
    """Seen red with a plain text: its backslash is eaten, and the vote fails."""

    async def old_ways(tx: Transaction, body: Any) -> int:
        await tx.execute("SET LOCAL standard_conforming_strings = off")
        await tx.execute("SET LOCAL escape_string_warning = off")
        await tx.execute("SET LOCAL bytea_output = escape")
        await _add(tx, body)
        return 7

    call = Call.of("old ways", old_ways, {"key": "x", "amount": 1})
    async with _open(postgres_dsn) as manager:
        for _ in range(2):  # what was kept of the request, and of its result, is compared and given
            answer = await manager.commit_one_phase(ONE, call)
            assert (answer.state, answer.result) == (BranchState.COMMITTED, 7)
        assert (await manager.prepare(TWO, call)).state is BranchState.PREPARED
        assert (await manager.commit(TWO)).state is BranchState.COMMITTED
    assert await _numbers(postgres_dsn) == {"x": 2}


async def test_a_constraint_that_is_checked_at_the_end_votes_no(postgres_dsn: str) -> None:
    async def orphan(tx: Transaction, _: Any) -> None:
        await tx.execute("INSERT INTO children VALUES ('nobody')")

    admin = await asyncpg.connect(postgres_dsn)
    async with _open(postgres_dsn) as manager:
        await admin.execute("CREATE TABLE children (name text REFERENCES numbers DEFERRABLE INITIALLY DEFERRED)")
        answer = await manager.prepare(ONE, Call.of("orphan", orphan, None))
        assert answer.state is BranchState.ABORTED
        assert "violates foreign key constraint" in answer.reason
        assert not await manager.in_doubt()
    await admin.close()


async def test_any_process_may_finish_what_another_has_prepared(postgres_dsn: str) -> None:
    async with _open(postgres_dsn) as first, _open(postgres_dsn) as second:
        for key in (ONE, TWO):
            assert (await first.prepare(key, _adding(key.gid))).state is BranchState.PREPARED
            assert (await second.prepare(key, _adding(key.gid))).state is BranchState.PREPARED, "a repeat elsewhere"
        assert await second.in_doubt() == [ONE, TWO]
        assert (await second.commit(ONE)).state is BranchState.COMMITTED
        assert (await second.abort(TWO)).state is BranchState.ABORTED
        assert (await first.commit(ONE)).state is BranchState.COMMITTED
        assert (await first.prepare(TWO, _adding(TWO.gid))).state is BranchState.ABORTED
        assert (await first.status()).prepared == 0
    assert await _numbers(postgres_dsn) == {"gid-1": 1}


async def test_a_branch_that_runs_elsewhere_is_not_voted_on(postgres_dsn: str) -> None:
    """Its open transaction holds the branch: whoever else is asked says so, instead of waiting for it."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, body: Any) -> None:
        await _add(tx, body)
        started.set()
        await go_on.wait()

    async with _open(postgres_dsn) as first, _open(postgres_dsn) as second:
        await first.work(ONE, _adding("x"), 0)
        assert (await second.abort(ONE)).state is BranchState.ABORTED, "open work has no lock on its row yet"
        assert (await first.prepare(ONE, None, 1)).state is BranchState.ABORTED
        running = asyncio.ensure_future(first.prepare(TWO, Call.of("slow", slow, {"key": "y", "amount": 1})))
        await started.wait()
        assert (await second.prevent(TWO, "too slow")).state is BranchState.ABORTED
        go_on.set()
        answer = await running
        assert (answer.state, answer.reason) == (BranchState.ABORTED, "too slow")
    assert await _numbers(postgres_dsn) == {}


async def test_what_others_have_prepared_is_left_alone(postgres: Postgres, postgres_dsn: str) -> None:
    """Also branches of ours in another database of the server, with the same keys."""
    foreign = await asyncpg.connect(postgres_dsn)
    await foreign.execute("BEGIN; CREATE TABLE theirs (x int); PREPARE TRANSACTION 'theirs'")
    async with postgres_database(postgres) as other_dsn, _open(postgres_dsn) as here, _open(other_dsn) as there:
        for manager in (here, there):
            assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        assert (await here.abort(ONE)).state is BranchState.ABORTED
        assert await here.in_doubt() == []
        assert await there.in_doubt() == [ONE]
        assert (await there.commit(ONE)).state is BranchState.COMMITTED
    assert await foreign.fetchval("SELECT gid FROM pg_prepared_xacts") == "theirs"
    await foreign.close()


async def test_a_branch_without_a_slot_is_asked_to_come_again() -> None:
    async with (
        Postgres.running(settings={"max_prepared_transactions": "1"}) as server,
        _open(server.dsn) as first,
        _open(server.dsn) as second,
    ):
        assert (await first.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        answer = await first.prepare(TWO, _adding("y"))
        assert (answer.state, answer.retry) == (BranchState.UNKNOWN, True), "known before it is tried"
        with pytest.raises(Exception, match="cannot prepare now: maximum number of prepared transactions reached"):
            await second.prepare(TWO, _adding("y"))
        await first.commit(ONE)
        assert (await second.prepare(TWO, _adding("y"))).state is BranchState.PREPARED


async def test_an_action_runs_again_whose_table_another_release_has_changed(postgres_dsn: str) -> None:
    """A rolling update. Seen red (a vote of no) with the driver's error taken for one of the action."""

    async def look(tx: Transaction, _body: Any) -> None:
        await tx.fetch("SELECT * FROM numbers")
        await _add(tx, {"key": "a", "amount": 1})

    async with _open(postgres_dsn, connections_max=1) as manager:
        assert (await manager.commit_one_phase(ONE, Call.of("look", look, None))).state is BranchState.COMMITTED
        await _run(postgres_dsn, "ALTER TABLE numbers ADD COLUMN note TEXT")
        assert (await manager.commit_one_phase(TWO, Call.of("look", look, None))).state is BranchState.COMMITTED
    assert (await _numbers(postgres_dsn))["a"] == 2


async def test_a_yes_that_was_lost_on_its_way_is_found_by_the_repeat(postgres_dsn: str) -> None:
    """The answer to PREPARE TRANSACTION never arrives; so what became of it is unknown until the server is asked."""
    async with Eavesdropper.at(postgres_dsn) as wire, _open(wire.dsn, connections_max=1) as manager:
        wire.cut_after(b"PREPARE TRANSACTION")
        with pytest.raises(ResourceUnreachable):
            await manager.prepare(ONE, _adding("x"))
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        wire.cut_after(b"COMMIT PREPARED")
        with pytest.raises(ResourceUnreachable):
            await manager.commit(ONE)
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED
    assert await _numbers(postgres_dsn) == {"x": 1}


async def test_branches_outlive_the_death_of_the_server() -> None:
    """Three times `kill -9`, each with a prepared branch and with one whose work is open."""
    async with Postgres.running() as server, _open(server.dsn) as manager:
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
        assert await _numbers(server.dsn) == {"x": 3}


async def test_work_in_which_the_server_dies_is_not_voted_on() -> None:
    """Goal: it is unknown, and runs again; a no would abort a transaction for nothing that it has done."""
    async with Postgres.running() as server, _open(server.dsn) as manager:

        async def kill_and_start() -> None:
            await server.kill()
            await server.start()

        async def unlucky(tx: Transaction, _: Any) -> None:
            await _add(tx, {"key": "x", "amount": 1})
            again = asyncio.ensure_future(kill_and_start())
            try:
                await tx.fetchval("SELECT pg_sleep(60)")
            finally:
                await again  # it would take a no

        await _unknown_and_then_right(manager, server.dsn, unlucky)


async def test_work_in_which_one_process_of_the_server_dies_is_not_voted_on() -> None:
    """Goal: the same, when the server ends all sessions because one has died, as it does when memory runs out."""
    async with Postgres.running() as server, _open(server.dsn) as manager:

        async def unlucky(tx: Transaction, _: Any) -> None:
            await _add(tx, {"key": "x", "amount": 1})
            other = await asyncpg.connect(server.dsn)
            os.kill(other.get_server_pid(), signal.SIGKILL)
            with pytest.raises(LOST):
                await other.fetchval("SELECT pg_sleep(60)")
            await tx.fetchval("SELECT pg_sleep(60)")

        await _unknown_and_then_right(manager, server.dsn, unlucky)


async def _unknown_and_then_right(manager: PostgreSQL, dsn: str, unlucky: Any) -> None:
    with pytest.raises(ResourceUnreachable, match="the connection to the database was lost"):
        await manager.prepare(ONE, Call.of("add", unlucky, {}))
    async with asyncio.timeout(30.0):
        while (prepared := await _prepare_if_there(manager)) is None:  # noqa: ASYNC110 - it sets no event of ours
            await asyncio.sleep(0.05)
    assert prepared.state is BranchState.PREPARED
    assert (await manager.commit(ONE)).state is BranchState.COMMITTED
    assert await _numbers(dsn) == {"x": 1}


async def _prepare_if_there(manager: PostgreSQL) -> Answer | None:
    try:
        return await manager.prepare(ONE, _adding("x"))
    except ResourceUnreachable:  # the server still recovers
        return None


@pytest.mark.parametrize(
    ("replaced", "by", "said"),
    [
        ("postgres@", "nobody:s3cret@", 'role "nobody" does not exist'),
        ("/test_", "/no_such_", "database .* does not exist"),
    ],
)
async def test_who_may_not_log_in_is_told_so_at_the_start(postgres_dsn: str, replaced: str, by: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"dsn: the server refuses it: .*{said}") as error:
        await PostgreSQL(postgres_dsn.replace(replaced, by)).open()
    assert "s3cret" not in str(error.value)


async def test_who_may_not_log_in_any_more_comes_again_later(postgres_dsn: str) -> None:
    """Goal: nothing is known of a branch then, and it is asked for again; a role may be mended while this runs."""
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(
        "DO $$BEGIN CREATE ROLE moody LOGIN; EXCEPTION WHEN duplicate_object THEN ALTER ROLE moody LOGIN; END$$;"
        "GRANT ALL ON SCHEMA public TO moody"
    )
    async with _open(postgres_dsn.replace("postgres@", "moody@")) as manager:
        await admin.execute("ALTER ROLE moody NOLOGIN")
        with pytest.raises(ResourceUnreachable, match='role "moody" is not permitted to log in'):
            await manager.prepare(ONE, _adding("x"))
        await admin.execute("ALTER ROLE moody LOGIN")
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        await manager.abort(ONE)
    await admin.close()


async def test_two_that_want_each_others_rows_both_end(postgres_dsn: str) -> None:
    """One of them may be the victim, of the database or of our patience; nothing hangs, nothing is half done."""

    async def both(tx: Transaction, body: Any) -> None:
        for key in body:
            await tx.execute("UPDATE numbers SET value = value + 1 WHERE name = $1", key)
            await asyncio.sleep(0.1)

    async with _open(postgres_dsn, limits=ResourceLimits(lock_wait_s=5.0, deadlock_wait_s=0.3)) as manager:
        for key in ("x", "y"):
            await manager.commit_one_phase(BranchKey(f"set-{key}", "b"), _adding(key))
        answers = await asyncio.gather(
            manager.commit_one_phase(ONE, Call.of("both", both, ["x", "y"])),
            manager.commit_one_phase(TWO, Call.of("both", both, ["y", "x"])),
        )
    committed = [answer for answer in answers if answer.state is BranchState.COMMITTED]
    assert answers[0] in committed, "the older one is never the victim of patience"
    assert all(answer.reason.startswith(CONFLICT) for answer in answers if answer not in committed)
    assert await _numbers(postgres_dsn) == {"x": 1 + len(committed), "y": 1 + len(committed)}


EARLIER = """
CREATE TABLE commitd_branch (gid text COLLATE "C" NOT NULL, branch text COLLATE "C" NOT NULL, state text NOT NULL,
    digest bytea NOT NULL, reason text NOT NULL, changed_at_ms bigint NOT NULL, PRIMARY KEY (gid, branch));
INSERT INTO commitd_branch VALUES ('old', 'b', 'committed', '', '', 1)
"""


async def test_a_table_of_an_earlier_release_is_refused_with_the_statements_that_mend_it(postgres_dsn: str) -> None:
    """Seen red without the look: it was opened, and its first branch failed on a column that is not there."""
    await _run(postgres_dsn, EARLIER)
    with pytest.raises(SchemaError, match=r"is an earlier release's; .* while no branch is prepared:") as refused:
        await PostgreSQL(postgres_dsn).open()
    with pytest.raises(SchemaError):
        await PostgresSweep(postgres_dsn).open()
    await _run(postgres_dsn, str(refused.value).partition(":\n")[2])
    async with _open(postgres_dsn) as manager:
        assert (await manager.prepare(ONE, _adding("x"))).state is BranchState.PREPARED
        assert (await manager.commit(ONE)).state is BranchState.COMMITTED


async def test_a_table_of_a_release_that_is_newer_is_left_alone(postgres_dsn: str) -> None:
    async with _open(postgres_dsn):
        pass
    await _run(postgres_dsn, "ALTER TABLE commitd_branch ADD COLUMN more text")
    with pytest.raises(SchemaError, match=r"changed_at_ms, result, more, and this release needs .*, result: use"):
        await PostgreSQL(postgres_dsn).open()


@pytest.mark.parametrize("last", [b"pg_is_in_recovery", b"pg_advisory_xact_lock"])
async def test_a_server_that_falls_silent_while_it_is_opened_is_not_waited_for(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    """Seen red without a limit for its answers."""
    monkeypatch.setattr("participant.rm.postgres.backend.ANSWER_TIMEOUT_S", 0.3)
    async with Eavesdropper.at(postgres_dsn) as wire:
        wire.fall_silent_after(last)
        with pytest.raises(ResourceUnreachable, match="cannot open the database: TimeoutError"):
            await asyncio.wait_for(PostgreSQL(wire.dsn, schema=SCHEMA).open(), 10.0)
        await asyncio.sleep(0.5)  # the driver also asks the server to cancel, and gives that up as late
