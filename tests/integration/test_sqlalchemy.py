"""ORM sessions in branches, on both servers: what an action may rely on, and what it must not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import JSON, ForeignKey, String, func, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    make_transient_to_detached,
    mapped_column,
    relationship,
    selectinload,
)

from participant.errors import ActionError, Reject, ResourceUnreachable
from participant.ids import BranchKey
from participant.resource import Call
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlalchemy import SQLAlchemy
from participant.rm.sweep import ForeignLister
from participant.testing import servers
from participant.wire import Answer, BranchState

ONE, TWO = BranchKey("gid-1", "b"), BranchKey("gid-2", "b")
LOGIC = {"postgres": ("postgresql+asyncpg", PostgreSQL), "mariadb": ("mysql+asyncmy", MariaDB)}


class Table(AsyncAttrs, DeclarativeBase):
    pass


class Account(Table):
    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    cents: Mapped[int]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy wants it


class Order(Table):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[Any] = mapped_column(JSON, nullable=True)
    lines: Mapped[list[Line]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Line(Table):
    __tablename__ = "order_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    item: Mapped[str] = mapped_column(String(64), unique=True)
    order: Mapped[Order] = relationship(back_populates="lines")


async def _make_tables(dsn: str) -> None:
    kind = "postgres" if dsn.startswith("postgresql") else "mariadb"
    engine = create_async_engine(f"{LOGIC[kind][0]}://{dsn.partition('://')[2]}")
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await engine.dispose()


@asynccontextmanager
async def _open(dsn: str, **options: Any) -> AsyncIterator[SQLAlchemy]:
    below = PostgreSQL if dsn.startswith("postgresql") else MariaDB
    manager = SQLAlchemy(below(dsn, **options))
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


@pytest.fixture(params=sorted(LOGIC))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{kind}_dsn"))


@pytest.fixture
async def dsn(empty: str) -> str:
    """A database with the tables of this file."""
    await _make_tables(empty)
    return empty


@pytest.fixture
async def manager(dsn: str) -> AsyncIterator[SQLAlchemy]:
    async with _open(dsn) as opened:
        yield opened


def _call(function: Callable[[AsyncSession, Any], Awaitable[Any]], body: Any = None) -> Call:
    return Call.of(function.__name__, function, body)  # type: ignore[arg-type, attr-defined]


async def _commit(manager: SQLAlchemy, key: BranchKey, call: Call) -> None:
    assert (await manager.prepare(key, call)).state is BranchState.PREPARED
    assert (await manager.commit(key)).state is BranchState.COMMITTED


async def _open_account(session: AsyncSession, body: Any) -> None:
    session.add(Account(name=body["name"], cents=body["cents"]))


async def _add(session: AsyncSession, body: Any) -> None:
    account = await session.get_one(Account, body["name"])
    account.cents += body["cents"]


async def _accounts(session: AsyncSession, _: Any) -> dict[str, int]:
    return {account.name: account.cents for account in await session.scalars(select(Account))}


async def _order(session: AsyncSession, items: list[str]) -> int:
    order = Order(lines=[Line(item=item) for item in items], note={"first": items[0], "share": "100%"})
    session.add(order)
    await session.flush()
    return order.id


async def _orders(session: AsyncSession, _: Any) -> list[Any]:
    orders = await session.scalars(select(Order).options(selectinload(Order.lines)).order_by(Order.id))
    return [[order.note, sorted(line.item for line in order.lines)] for order in orders]


async def test_a_unit_of_work_is_written_in_its_order_and_can_be_read_by_relationships(manager: SQLAlchemy) -> None:
    """Parents before children, children before parents when they go; keys are there after a flush."""

    async def take_back(session: AsyncSession, _: Any) -> None:
        order = (await session.scalars(select(Order).options(selectinload(Order.lines)))).one()
        await session.delete(order)

    await _commit(manager, ONE, _call(_order, ["mug", "plate"]))
    assert await manager.read(_call(_orders)) == [[{"first": "mug", "share": "100%"}, ["mug", "plate"]]]
    await _commit(manager, TWO, _call(take_back))
    assert await manager.read(_call(_orders)) == []


async def test_what_the_database_refuses_at_the_flush_is_a_no_with_its_reason(manager: SQLAlchemy) -> None:
    """Seen red with the flush left out, and with the error left to the table of errors, which names its type only."""
    await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
    answer = await manager.prepare(TWO, _call(_open_account, {"name": "bob", "cents": 777}))
    assert answer.state is BranchState.ABORTED
    assert answer.reason.startswith("the database refused it: ")
    assert "uplicate" in answer.reason
    assert "777" not in answer.reason


async def test_a_flush_that_failed_spoils_the_branch_although_the_action_goes_on(manager: SQLAlchemy) -> None:
    """Seen red on MariaDB with the checks of `Line.is_undone` and of what failed in the unit left out, both."""

    async def careless(session: AsyncSession, _: Any) -> None:
        session.add(Account(name="eve", cents=1))
        await session.flush()
        session.add(Account(name="bob", cents=1))
        with pytest.raises(IntegrityError):
            await session.flush()

    await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
    answer = await manager.prepare(TWO, _call(careless))
    assert answer.state is BranchState.ABORTED
    assert "the action went on" in answer.reason
    assert await manager.read(_call(_accounts)) == {"bob": 5}


async def test_a_flush_that_fails_without_the_database_spoils_the_branch_as_well(manager: SQLAlchemy) -> None:
    """The first row of the flush is written and the second is not; only SQLAlchemy knows. Seen red with `Line.undo`
    emptied.
    """

    async def careless(session: AsyncSession, _: Any) -> None:
        session.add(Account(name="eve", cents=1))
        await session.flush()
        gone = Account(name="nobody", cents=1, version=1)
        make_transient_to_detached(gone)
        session.add(gone)
        gone.cents = 2
        with pytest.raises(Exception, match="expected to update 1 row"):
            await session.flush()

    answer = await manager.prepare(ONE, _call(careless))
    assert answer == Answer(
        BranchState.ABORTED,
        "its session was rolled back, because a flush failed or it was closed or invalidated, and the action went on",
    )
    assert await manager.read(_call(_accounts)) == {}


async def test_a_part_can_be_undone_alone(manager: SQLAlchemy) -> None:
    """Also one in another, and by hand. Seen red with `Line.undo_savepoint` doing nothing."""

    async def careful(session: AsyncSession, _: Any) -> None:
        session.add(Account(name="ann", cents=1))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(Account(name="bob", cents=1))
        async with session.begin_nested():
            session.add(Account(name="carl", cents=1))
            part = await session.begin_nested()
            session.add(Account(name="dora", cents=1))
            await session.flush()
            await part.rollback()

    await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
    await _commit(manager, TWO, _call(careful))
    assert await manager.read(_call(_accounts)) == {"ann": 1, "bob": 5, "carl": 1}


async def test_a_version_that_the_caller_has_seen_is_compared(manager: SQLAlchemy) -> None:
    """The caller sends the version that it has shown to somebody; who was slower hears no, and why."""

    async def edit(session: AsyncSession, body: Any) -> None:
        account = Account(name=body["name"], version=body["version"])
        make_transient_to_detached(account)
        session.add(account)
        account.cents = body["cents"]

    await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
    await _commit(manager, TWO, _call(edit, {"name": "bob", "version": 1, "cents": 6}))
    answer = await manager.prepare(BranchKey("gid-3", "b"), _call(edit, {"name": "bob", "version": 1, "cents": 7}))
    assert answer.state is BranchState.ABORTED
    assert answer.reason.startswith("a row is not what the caller has seen, or is gone: ")
    assert await manager.read(_call(_accounts)) == {"bob": 6}


async def test_an_update_to_the_value_that_is_there_finds_its_row(manager: SQLAlchemy) -> None:
    """Seen red on MariaDB with `count_found_rows` left out: it counts changed rows, and SQLAlchemy misses one."""

    async def set_note(session: AsyncSession, body: Any) -> None:
        order = Order(id=body)
        make_transient_to_detached(order)
        session.add(order)
        order.note = "same"

    async def insert(session: AsyncSession, _: Any) -> None:
        session.add(Order(id=7, note="same"))

    await _commit(manager, ONE, _call(insert))
    await _commit(manager, TWO, _call(set_note, 7))


@pytest.mark.parametrize("is_part", [False, True])
async def test_an_action_runs_again_with_a_new_session_on_what_it_finds(manager: SQLAlchemy, is_part: bool) -> None:
    """Another branch changes the row between the read and the write. Seen red with the driver's error left wrapped."""
    runs: list[int] = []

    async def slow_add(session: AsyncSession, _: Any) -> int:
        account = await session.get_one(Account, "bob")
        runs.append(account.cents)
        if len(runs) == 1:
            await _commit(manager, TWO, _call(_add, {"name": "bob", "cents": 100}))
        account.cents += 1
        if is_part:
            async with session.begin_nested():
                await session.flush()
        return account.cents

    await _commit(manager, BranchKey("gid-0", "b"), _call(_open_account, {"name": "bob", "cents": 5}))
    await _commit(manager, ONE, _call(slow_add))
    assert runs == [5, 105]
    assert await manager.read(_call(_accounts)) == {"bob": 106}


async def test_prepared_work_outlives_its_session_and_the_death_of_the_server(kind: str) -> None:
    running = servers.Postgres.running() if kind == "postgres" else servers.MariaDB.running()
    async with running as server:
        dsn = server.dsn_of("work")
        await _create_database(kind, server)
        await _make_tables(dsn)
        async with _open(dsn) as manager:
            assert (await manager.prepare(ONE, _call(_order, ["mug"]))).state is BranchState.PREPARED
            assert await manager.read(_call(_orders)) == []
            await server.kill()
            await server.start()
            with suppress(ResourceUnreachable):  # of a connection that is lost and does not know it
                await manager.commit(ONE)
            assert (await manager.commit(ONE)).state is BranchState.COMMITTED
            assert await manager.read(_call(_orders)) == [[{"first": "mug", "share": "100%"}, ["mug"]]]


async def _create_database(kind: str, server: Any) -> None:
    url = f"{LOGIC[kind][0]}://{server.dsn_of('postgres' if kind == 'postgres' else 'mysql').partition('://')[2]}"
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text("CREATE DATABASE work"))
    await engine.dispose()


async def _commits(session: AsyncSession) -> None:
    await session.commit()


async def _rolls_back(session: AsyncSession) -> None:
    await session.rollback()


async def _begins(session: AsyncSession) -> None:
    async with session.begin():
        pass


async def _commits_below(session: AsyncSession) -> None:
    await (await session.connection()).commit()


async def _commits_by_text(session: AsyncSession) -> None:
    await session.execute(text("COMMIT"))


async def _savepoint_by_text(session: AsyncSession) -> None:
    await session.execute(text("SAVEPOINT mine"))


async def _chooses_isolation(session: AsyncSession) -> None:
    await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


async def _connects(session: AsyncSession) -> None:
    async with (await session.connection()).engine.connect():
        pass


ENDINGS = (
    (_commits, "COMMIT is not for an action"),
    (_rolls_back, "ROLLBACK is not for an action"),
    (_begins, "BEGIN is not for an action"),
    (_commits_below, "COMMIT is not for an action"),
    (_commits_by_text, "COMMIT is not for an action"),
    (_savepoint_by_text, "SAVEPOINT MINE is not for an action"),
    (_chooses_isolation, "is not an action's to choose"),
    (_connects, "there is one connection for a session"),
)


@pytest.mark.parametrize(("ending", "said"), ENDINGS, ids=[ending.__name__ for ending, _ in ENDINGS])
async def test_a_session_does_not_end_its_branch(
    manager: SQLAlchemy, ending: Callable[[AsyncSession], Awaitable[None]], said: str
) -> None:
    """Seen red with `do_commit` and `set_isolation_level` doing nothing, and with `BranchSession.rollback` left out."""

    async def action(session: AsyncSession, _: Any) -> None:
        if ending is not _chooses_isolation:
            session.add(Account(name="bob", cents=1))
            await session.flush()
        await ending(session)

    answer = await manager.prepare(ONE, _call(action))
    assert answer.state is BranchState.ABORTED
    assert said in answer.reason
    assert await manager.read(_call(_accounts)) == {}


@pytest.mark.parametrize("kind", ["mariadb"])
async def test_ddl_is_refused_where_it_would_commit(manager: SQLAlchemy) -> None:
    async def action(session: AsyncSession, _: Any) -> None:
        await (await session.connection()).run_sync(Table.metadata.drop_all)

    answer = await manager.prepare(ONE, _call(action))
    assert "DROP TABLE" in answer.reason
    assert await manager.read(_call(_accounts)) == {}


async def test_a_session_that_was_closed_votes_no(manager: SQLAlchemy) -> None:
    """What it had flushed is in the transaction still."""

    async def action(session: AsyncSession, body: Any) -> None:
        await _open_account(session, body)
        await session.flush()
        await session.close()

    answer = await manager.prepare(ONE, _call(action, {"name": "bob", "cents": 1}))
    assert answer.state is BranchState.ABORTED
    assert "or it was closed" in answer.reason


@pytest.mark.parametrize("what", ["session", "connection"])
async def test_work_that_was_invalidated_votes_no(manager: SQLAlchemy, what: str) -> None:
    """SQLAlchemy takes it for lost with its connection. Seen red with a close that does nothing: it voted yes."""

    async def action(session: AsyncSession, body: Any) -> None:
        await _open_account(session, body)
        await session.flush()
        await (session if what == "session" else await session.connection()).invalidate()

    answer = await manager.prepare(ONE, _call(action, {"name": "bob", "cents": 1}))
    assert answer.state is BranchState.ABORTED
    assert "closed or invalidated" in answer.reason


async def test_what_others_have_prepared_is_listed_as_without_sessions(dsn: str) -> None:
    """A participant looks for it, and logs what is old. Seen red without the method."""
    async with _open(dsn) as manager:
        assert isinstance(manager, ForeignLister)
        assert await manager.foreign() == []


async def test_a_session_is_of_no_use_after_its_action(manager: SQLAlchemy) -> None:
    """Nor are its objects attached; nor may a statement outlive it. Seen red with `session.close()` left out."""
    kept: list[Any] = []

    async def keep(session: AsyncSession, body: Any) -> None:
        kept.extend((session, await session.get_one(Account, body["name"])))

    async def leave(session: AsyncSession, _: Any) -> None:
        kept.append(asyncio.ensure_future(session.execute(select(func.count()).select_from(Account))))
        await asyncio.sleep(0)

    await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
    assert (await manager.prepare(TWO, _call(keep, {"name": "bob"}))).state is BranchState.READ_ONLY
    session, account = kept
    assert account not in session
    with pytest.raises(Exception, match="closed"):
        await session.execute(select(Account))
    answer = await manager.prepare(BranchKey("gid-3", "b"), _call(leave))
    assert answer == Answer(BranchState.ABORTED, "its action has ended before one of its statements did: await each")
    await asyncio.gather(kept[-1], return_exceptions=True)


async def test_a_branch_that_only_read_is_done(manager: SQLAlchemy) -> None:
    answer = await manager.prepare(ONE, _call(_accounts))
    assert answer.state is BranchState.READ_ONLY
    assert await manager.in_doubt() == []


async def test_a_view_may_only_read(manager: SQLAlchemy) -> None:
    """Also one that has changed an object and not flushed it. Seen red with the flush left out."""
    await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
    for writing in (_call(_open_account, {"name": "eve", "cents": 1}), _call(_add, {"name": "bob", "cents": 1})):
        with pytest.raises(ActionError, match="may only read, but it wrote"):
            await manager.read(writing)
    assert await manager.read(_call(_accounts)) == {"bob": 5}


async def test_interactive_work_is_flushed_each_time_and_prepared_later(manager: SQLAlchemy) -> None:
    await manager.work(ONE, _call(_open_account, {"name": "bob", "cents": 5}), 0)
    await manager.work(ONE, _call(_add, {"name": "bob", "cents": 2}), 1)
    answer = await manager.work(ONE, _call(_accounts), 2)
    assert answer.result == {"bob": 7}
    assert (await manager.prepare(ONE, None, 3)).state is BranchState.PREPARED
    assert (await manager.commit(ONE)).state is BranchState.COMMITTED
    assert await manager.read(_call(_accounts)) == {"bob": 7}


async def test_a_connection_that_is_lost_in_an_action_leaves_the_vote_unknown(manager: SQLAlchemy, dsn: str) -> None:
    """The server ends the session between two statements, and the branch may be asked for again."""
    runs: list[int] = []

    async def action(session: AsyncSession, body: Any) -> None:
        await _open_account(session, body)
        await session.flush()
        runs.append(1)
        if len(runs) == 1:
            own = "pg_backend_pid()" if dsn.startswith("postgresql") else "connection_id()"
            await _end_session(dsn, (await session.execute(text(f"SELECT {own}"))).scalar_one())
            await session.execute(select(Account))

    with pytest.raises(ResourceUnreachable):
        await manager.prepare(ONE, _call(action, {"name": "bob", "cents": 1}))
    await _commit(manager, ONE, _call(action, {"name": "bob", "cents": 1}))
    assert await manager.read(_call(_accounts)) == {"bob": 1}


async def _end_session(dsn: str, number: int) -> None:
    kind = "postgres" if dsn.startswith("postgresql") else "mariadb"
    engine = create_async_engine(f"{LOGIC[kind][0]}://{dsn.partition('://')[2]}", isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        ending = f"SELECT pg_terminate_backend({number}, 5000)" if kind == "postgres" else f"KILL {number}"
        await connection.execute(text(ending))
    await engine.dispose()


@pytest.mark.parametrize("kind", ["postgres"])
async def test_statements_are_prepared_once_in_a_session_and_anew_after_a_migration(dsn: str) -> None:
    """Seen red with the statements kept in the line, which is a branch's; and with `InvalidCachedStatementError`
    handed on as it is.
    """

    async def prepared(session: AsyncSession, _: Any) -> list[str]:
        rows = await session.scalars(text("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time"))
        return [row for row in rows if "FROM accounts" in row]

    async with _open(dsn, connections_max=1) as manager:
        await _commit(manager, ONE, _call(_open_account, {"name": "bob", "cents": 5}))
        for number in range(3):
            await _commit(manager, BranchKey(f"add-{number}", "b"), _call(_add, {"name": "bob", "cents": 1}))
        assert len(await manager.read(_call(prepared))) == 1
        engine = create_async_engine(f"postgresql+asyncpg://{dsn.partition('://')[2]}")
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE accounts ALTER COLUMN cents TYPE bigint"))
        await engine.dispose()
        await _commit(manager, TWO, _call(_add, {"name": "bob", "cents": 1}))
        assert await manager.read(_call(_accounts)) == {"bob": 9}


async def test_what_is_not_loaded_is_loaded_when_it_is_awaited_only(manager: SQLAlchemy) -> None:
    """As ever with asyncio: SQLAlchemy does not wait where nobody has written `await`."""

    async def lazy(session: AsyncSession, _: Any) -> None:
        order = (await session.scalars(select(Order))).one()
        with pytest.raises(SQLAlchemyError, match="greenlet_spawn has not been called"):
            order.lines  # noqa: B018 - to look at it is what loads it

    async def awaited(session: AsyncSession, _: Any) -> list[str]:
        order = (await session.scalars(select(Order))).one()
        return [line.item for line in await order.awaitable_attrs.lines]

    await _commit(manager, ONE, _call(_order, ["mug"]))
    await manager.read(_call(lazy))
    assert await manager.read(_call(awaited)) == ["mug"]


async def test_rows_can_be_streamed(manager: SQLAlchemy) -> None:
    async def names(session: AsyncSession, _: Any) -> list[str]:
        return [account.name async for account in await session.stream_scalars(select(Account).order_by(Account.name))]

    for name in ("a", "b", "c"):
        await _commit(manager, BranchKey(name, "b"), _call(_open_account, {"name": name, "cents": 1}))
    assert await manager.read(_call(names)) == ["a", "b", "c"]


async def test_two_that_deadlock_both_end(manager: SQLAlchemy) -> None:
    """The server makes one of them its victim; it runs again, and has the rows when the other has ended."""
    both = asyncio.Barrier(2)
    met: set[str] = set()

    async def move(session: AsyncSession, body: Any) -> None:
        first = await session.get_one(Account, body["first"])
        first.cents += 1
        await session.flush()
        if body["first"] not in met:
            met.add(body["first"])
            await both.wait()
        (await session.get_one(Account, body["second"])).cents += 1

    for name in ("x", "y"):
        await _commit(manager, BranchKey(f"open-{name}", "b"), _call(_open_account, {"name": name, "cents": 0}))

    async def whole(gid: str, first: str, second: str) -> Answer:
        return await manager.commit_one_phase(BranchKey(gid, "b"), _call(move, {"first": first, "second": second}))

    answers = await asyncio.gather(whole("a", "x", "y"), whole("b", "y", "x"))
    assert {answer.state for answer in answers} == {BranchState.COMMITTED}, answers
    assert await manager.read(_call(_accounts)) == {"x": 2, "y": 2}


async def test_a_reject_after_a_flush_leaves_nothing(manager: SQLAlchemy) -> None:
    async def change_of_mind(session: AsyncSession, body: Any) -> None:
        await _open_account(session, body)
        await session.flush()
        raise Reject("no, after all")

    answer = await manager.prepare(ONE, _call(change_of_mind, {"name": "bob", "cents": 1}))
    assert answer == Answer(BranchState.ABORTED, "no, after all")
    assert await manager.read(_call(_accounts)) == {}
