"""Every barrier keeps the table's promises on its real database, alone and at once.

A shop (`tests/support/barriers.py`) has 100 pieces that are free. Each step changes its one row and counts itself.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from participant.barrier import RESULT_BYTES_MAX, Contradiction, Done, Outcome, Refused, Row, State, StepKind, Verdict
from participant.barriers.limits import BarrierLimits
from participant.errors import BranchConflict, Reject, ResourceBusy, StepError
from participant.testing.servers import MariaDB, Postgres
from tests.support.barriers import EFFECTS, FREE, SHOPS, Books, Fault, Gate, Order, Shop, step_of
from tests.support.databases import mariadb_database, postgres_database
from tests.support.step_for_ever import audit

TOO_MANY = 1_000
AT_ONCE = 8
ATTEMPTS = 50

# How a branch comes into each state: what is asked, and for how many pieces.
PATHS: dict[State, Sequence[tuple[str, int]]] = {
    State.NEW: [],
    State.TRIED: [("try", 1)],
    State.CONFIRMED: [("try", 1), ("confirm", 1)],
    State.CANCELLED: [("try", 1), ("cancel", 1)],
    State.ACTED: [("action", 1)],
    State.COMPENSATED: [("action", 1), ("compensate", 1)],
    State.RECEIVED: [("message", 1)],
    State.REFUSED: [("try", TOO_MANY)],
}


# Each database and each driver keeps every promise. The rest of SHOPS are levels of isolation, journals and what a
# client decodes: they are tried where these count, with steps at once, and with what comes back.
KINDS = ["postgres", "mariadb", "mariadb-aiomysql", "sqlite", "redis"]
IN_TRANSACTIONS = [kind for kind in SHOPS if not kind.startswith("redis")]

on_all = pytest.mark.parametrize("kind", SHOPS, indirect=True)
# Redis runs one script after the other, so that a step has no middle; and it forgets by itself.
on_all_in_transactions = pytest.mark.parametrize("kind", IN_TRANSACTIONS, indirect=True)
in_transactions = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in IN_TRANSACTIONS], indirect=True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def postgres_place(postgres: Postgres) -> Iterator[str]:
    with for_the_module(postgres_database(postgres)) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def mariadb_place(mariadb: MariaDB) -> Iterator[str]:
    with for_the_module(mariadb_database(mariadb)) as dsn:
        yield dsn


@contextmanager
def for_the_module(database: AbstractAsyncContextManager[str]) -> Iterator[str]:
    """A database is dear; a shop makes its tables anew instead."""
    with asyncio.Runner() as runner:  # pytest gives each test a loop of its own
        yield runner.run(database.__aenter__())
        runner.run(database.__aexit__(None, None, None))


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match kind.partition("-")[0]:
        case "sqlite":
            return str(tmp_path)
        case "redis":
            return str(request.getfixturevalue("redis").url)
        case name:
            return str(request.getfixturevalue(f"{name}_place"))


@pytest.fixture
async def shop(kind: str, place: str) -> AsyncIterator[Shop]:
    async with SHOPS[kind](place).opened() as shop:
        yield shop


async def again(shop: Shop, *order: Any) -> Outcome:
    """As a coordinator does: come again as long as nothing is known."""
    for _ in range(ATTEMPTS):
        try:
            return await shop.run(*order)
        except ResourceBusy:
            pass
    raise AssertionError("busy for ever")


@pytest.mark.parametrize("state", PATHS)
async def test_each_step_does_to_a_branch_in_each_state_what_the_table_says(shop: Shop, state: State) -> None:
    """The pure table goes along as the model. Seen red on each database with its row not written."""
    for kind in StepKind:
        gid = f"{state}-{kind}"
        for asked, pieces in PATHS[state]:
            await shop.run(gid, asked, pieces)
        before, step = await shop.books(), step_of(gid, kind, 2)
        changed = [effect * 2 for effect in EFFECTS[kind]]
        row = _row_after(gid, PATHS[state])
        try:
            rule = row.judge(step)
        except BranchConflict:
            with pytest.raises(BranchConflict):
                await shop.run(gid, kind, 2)
            continue
        outcome = await shop.run(gid, kind, 2)
        if rule.verdict is Verdict.RUN:
            assert outcome == Done({"free": before.free + changed[0]})
            assert await shop.books() == (before.free + changed[0], before.frozen + changed[1], before.runs + 1)
        else:
            expected = row.emptied(step, 0) if rule.verdict is Verdict.EMPTY else row
            assert outcome == expected.outcome(step, rule)
            assert await shop.books() == before


def _row_after(gid: str, path: Sequence[tuple[str, int]]) -> Row:
    """The model: what the table says of a path."""
    row = Row(step_of(gid, "try").key)
    for asked, pieces in path:
        step = step_of(gid, asked, pieces)
        row = row.refused(step, Reject(f"not enough: {FREE - pieces}"), 0) if pieces > FREE else row.done(step, None, 0)
    return row


@on_all
@pytest.mark.parametrize("steps", [("try", "confirm"), ("try", "cancel"), ("action", "compensate"), ("message",)])
async def test_a_repeat_gets_the_answer_of_the_first(shop: Shop, steps: Sequence[str]) -> None:
    """Other branches change what a function would answer now. Seen red with the result not stored."""
    for kind in steps:
        first = await shop.run("g", kind)
        await shop.run(f"other-{kind}", "action", 7)
        runs = (await shop.books()).runs
        assert await shop.run("g", kind) == first
        assert isinstance(first, Done)
        assert first.result is not None
        assert (await shop.books()).runs == runs


async def test_a_late_repeat_of_the_try_gets_its_answer_after_the_confirm(shop: Shop) -> None:
    first = await shop.run("g", "try", 5)
    await shop.run("g", "confirm", 5)
    assert await shop.run("g", "try", 5) == first


async def test_the_same_step_with_another_body_is_refused(shop: Shop) -> None:
    """Seen red with the digests not compared."""
    await shop.run("g", "try", 1)
    with pytest.raises(BranchConflict):
        await shop.run("g", "try", 2)
    await shop.run("g", "confirm", 1)
    with pytest.raises(BranchConflict):
        await shop.run("g", "confirm", 2)
    assert await shop.books() == Books(FREE - 1, 0, 2)


@pytest.mark.parametrize(("first", "undo"), [("try", "cancel"), ("action", "compensate")])
async def test_an_undo_that_overtakes_does_nothing_and_keeps_the_late_step_out(
    shop: Shop, first: str, undo: str
) -> None:
    """Seen red with EMPTY not written."""
    assert await shop.run("g", undo) == await shop.run("g", undo) == Done()
    assert isinstance(await shop.run("g", first), Refused)
    assert await shop.run("g", undo) == Done()
    assert await shop.books() == Books()


async def test_a_confirm_without_a_try_is_a_contradiction_and_leaves_nothing(shop: Shop) -> None:
    """Seen red on PostgreSQL with the row that was claimed committed instead of rolled back."""
    assert isinstance(await shop.run("g", "confirm"), Contradiction)
    assert await shop.rows() == 0
    assert isinstance(await shop.run("g", "try"), Done)


@on_all
@pytest.mark.parametrize(("first", "undo"), [("try", "cancel"), ("action", "compensate")])
async def test_a_no_undoes_what_was_written_and_stays(shop: Shop, first: str, undo: str) -> None:
    """Even when there would be enough later. Seen red with the savepoint not rolled back."""
    refused = await shop.run("g", first, TOO_MANY)
    assert refused == Refused(f"not enough: {FREE - TOO_MANY}")
    assert await shop.books() == Books()
    await shop.run("more", "message", TOO_MANY)
    assert await shop.run("g", first, TOO_MANY) == refused
    assert await shop.run("g", undo) == Done()
    assert await shop.books() == Books(FREE + TOO_MANY, 0, 1)


async def test_any_other_error_undoes_everything_and_the_step_may_be_repeated(shop: Shop) -> None:
    """Seen red on Redis with the keys not put back."""
    with pytest.raises((Fault, StepError)):
        await shop.run("g", "try", 5, is_faulty=True)
    assert await shop.books() == Books()
    assert await shop.rows() == 0
    assert await shop.run("g", "try", 5) == Done({"free": FREE - 5})
    with pytest.raises((Fault, StepError)):
        await shop.run("g", "confirm", 5, is_faulty=True)
    assert await shop.books() == Books(FREE - 5, 5, 1)
    assert isinstance(await shop.run("g", "confirm", 5), Done)
    assert await shop.books() == Books(FREE - 5, 0, 2)


async def test_a_step_that_nobody_can_refuse_is_not_refused(shop: Shop) -> None:
    """A message is decided by its sender. Its no is an error, and nothing of it stays."""
    with pytest.raises(StepError, match="nobody can take that no"):
        await shop.run("g", "message", -TOO_MANY)
    assert await shop.books() == Books()
    assert await shop.rows() == 0


async def test_a_result_that_cannot_be_kept_undoes_the_step(shop: Shop) -> None:
    """Seen red with the limit taken out of the Lua script."""
    with pytest.raises(StepError, match=r"16,?384"):
        await shop.run("g", "try", result="x" * RESULT_BYTES_MAX)
    assert await shop.books() == Books()
    longest = "x" * (RESULT_BYTES_MAX - 3)  # msgpack's own bytes
    assert await shop.run("g", "try", result=longest) == Done(longest)


@on_all
async def test_equal_steps_at_once_run_once_and_are_answered_alike(shop: Shop) -> None:
    """Seen red on PostgreSQL with the row read without its lock."""
    for kind in ("try", "confirm", "action", "message"):
        gid = "tcc" if kind in ("try", "confirm") else kind
        before = await shop.books()
        outcomes = await asyncio.gather(*(again(shop, gid, kind) for _ in range(AT_ONCE)))
        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert isinstance(outcomes[0], Done)
        assert (await shop.books()).runs == before.runs + 1


@on_all
async def test_two_cancels_and_a_try_at_once_leave_nothing(shop: Shop) -> None:
    """Whichever comes first: the try runs and is undone, or is refused."""
    for number in range(12):
        gid = f"g{number}"
        runs = (await shop.books()).runs
        late, *cancels = await asyncio.gather(
            again(shop, gid, "try", 3), again(shop, gid, "cancel", 3), again(shop, gid, "cancel", 3)
        )
        assert all(isinstance(cancel, Done) for cancel in cancels)
        assert cancels[0] == cancels[1]
        assert await shop.books() == (FREE, 0, runs + (2 if isinstance(late, Done) else 0))
        assert isinstance(await shop.run(gid, "try", 3), Refused)


@on_all
async def test_steps_of_many_branches_at_once_all_come_to_an_end(shop: Shop) -> None:
    """New rows of many branches next to each other: nobody locks the gaps between them."""

    async def whole(number: int) -> None:
        await again(shop, f"g{number}", "try", 1)
        await again(shop, f"g{number}", "confirm" if number % 2 else "cancel", 1)

    await asyncio.gather(*(whole(number) for number in range(24)))
    assert await shop.books() == Books(FREE - 12, 0, 48)


@on_all_in_transactions
async def test_a_step_waits_for_another_of_its_branch_and_no_longer_than_its_limit(shop: Shop) -> None:
    """The first stands in the middle of its function."""
    with Gate() as gate:
        first = asyncio.ensure_future(shop.run("g", "try", 5, gate=gate))
        await gate.is_entered()
        brief = BarrierLimits(lock_wait_s=0.2)
        told = await asyncio.gather(
            *(shop.do(Order(step_of("g", kind, 5), 5), brief) for kind in ("try", "cancel", "confirm")),
            return_exceptions=True,
        )
        assert [type(error) for error in told] == [ResourceBusy] * 3
        assert all("come again" in str(error) for error in told)
        patient = [asyncio.ensure_future(again(shop, "g", "try", 5)) for _ in range(3)]
    assert await first == Done({"free": FREE - 5})
    assert await asyncio.gather(*patient) == [Done({"free": FREE - 5})] * 3
    assert await shop.books() == Books(FREE - 5, 5, 1)


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "mariadb-aiomysql"], indirect=True)
async def test_a_step_that_is_cancelled_leaves_nothing_and_may_be_repeated(shop: Shop) -> None:
    """As a web framework does when its caller hangs up."""
    with Gate() as gate:
        step = asyncio.ensure_future(shop.run("g", "try", 5, gate=gate))
        await gate.is_entered()
        step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert await again(shop, "g", "try", 5) == Done({"free": FREE - 5})
    assert await shop.books() == Books(FREE - 5, 5, 1)


@on_all_in_transactions
async def test_steps_that_wait_for_one_that_fails_run_instead(shop: Shop) -> None:
    """On MariaDB those who wait for a row that is rolled back may deadlock among themselves: they begin anew."""
    for number in range(3):
        gid = f"g{number}"
        with Gate() as gate:
            first = asyncio.ensure_future(shop.run(gid, "try", 1, gate=gate, is_faulty=True))
            await gate.is_entered()
            waiting = [asyncio.ensure_future(again(shop, gid, "try", 1)) for _ in range(AT_ONCE)]
            await asyncio.sleep(0.05)  # so that most of them wait; the result is the same if none does
        with pytest.raises(Fault):
            await first
        assert await asyncio.gather(*waiting) == [Done({"free": FREE - number - 1})] * AT_ONCE
    assert (await shop.books()).runs == 3


@in_transactions
async def test_what_has_ended_is_forgotten_after_the_retention_and_what_was_tried_is_not(shop: Shop) -> None:
    """Seen red with the states left out of the statement."""
    for gid, kinds in {"open": ["try"], "ended": ["try", "confirm"], "acted": ["action"], "empty": ["cancel"]}.items():
        for kind in kinds:
            await shop.run(gid, kind)
    assert await shop.forget(BarrierLimits()) == 0
    await asyncio.sleep(0.02)
    assert await shop.forget(BarrierLimits(retention_s=0.001)) == 3
    assert await shop.rows() == 1
    assert (await shop.run("open", "confirm")) == Done({"free": FREE - 3})


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite", "redis"], indirect=True)
async def test_what_was_answered_survives_kill_9_of_the_service_between_any_two_steps(
    shop: Shop, kind: str, place: str
) -> None:
    """A process works as fast as it can and is killed at two moments. Every answer is found again, and nothing is
    half done: when each of its steps has been repeated, the books are right.

    """
    said: list[str] = []
    for seed in range(2):
        said += await _work_until_killed(kind, place, first=len(said) + 1, lines=random.Random(seed).randint(30, 60))
    assert len(said) > 60
    await audit(shop, said)


async def _work_until_killed(kind: str, place: str, *, first: int, lines: int) -> list[str]:
    """What the process had said when it was killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.step_for_ever", kind, place, str(first)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    said = [await process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest = await process.stdout.read()
    await process.wait()
    return (b"".join(said) + rest[: rest.rfind(b"\n") + 1]).decode().splitlines()
