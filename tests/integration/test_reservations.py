"""Stock that is reserved, settled and released, on each database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from participant import Participant, reservations
from participant.reservations import AMOUNT_MAX, Level
from participant.resource import Call, ResourceManager
from participant.rm.mariadb import MariaDB
from participant.rm.memory import Memory
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlite import SQLite
from participant.wire import Answer, BranchState

ACTIONS = {each.__name__: each for each in (reservations.offer, reservations.reserve)}
ACTIONS |= {each.__name__: each for each in (reservations.settle, reservations.release)}


class Shop:
    """A participant with these four actions."""

    def __init__(self, resource: ResourceManager) -> None:
        self.resource = resource
        self.participant = Participant("shop", resource)
        self.calls = 0
        for name, function in ACTIONS.items():
            self.participant.action(name)(self._calling(function))

    def _calling(self, function: Any) -> Any:
        async def act(tx: Any, body: Any) -> None:
            await function(tx, *body)

        return act

    async def do(self, action: str, *body: Any) -> Answer:
        """A branch of its own, which commits at once, or is refused."""
        self.calls += 1
        return await self.participant.commit(f"t{self.calls}", "b", action, list(body))

    async def levels(self) -> dict[str, Level]:
        async def view(tx: Any, _: Any) -> dict[str, Level]:
            return await reservations.levels(tx)

        found: dict[str, Level] = await self.resource.read(Call.of("levels", view, None))
        return found


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def resource(request: pytest.FixtureRequest, tmp_path: Path) -> ResourceManager:
    match request.param:
        case "sqlite":
            return SQLite(tmp_path / "shop.db", schema=reservations.SQLITE)
        case "postgres":
            return PostgreSQL(request.getfixturevalue("postgres_dsn"), schema=reservations.POSTGRESQL)
    return MariaDB(request.getfixturevalue("mariadb_dsn"), schema=reservations.MARIADB)


@pytest.fixture
async def shop(resource: ResourceManager) -> AsyncIterator[Shop]:
    shop = Shop(resource)
    async with shop.participant.serving():
        yield shop


async def test_what_is_reserved_is_settled_or_released(shop: Shop) -> None:
    await shop.do("offer", "cup", 5)
    await shop.do("offer", "cup", 2)
    assert await shop.levels() == {"cup": Level(7, 0)}
    assert (await shop.do("reserve", "cup", 4)).state is BranchState.COMMITTED
    assert (await shop.do("reserve", "cup", 3)).state is BranchState.COMMITTED
    assert await shop.levels() == {"cup": Level(0, 7)}
    await shop.do("settle", "cup", 4)
    await shop.do("release", "cup", 3)
    assert await shop.levels() == {"cup": Level(3, 0)}


async def test_no_more_is_reserved_than_is_free(shop: Shop) -> None:
    await shop.do("offer", "cup", 1)
    for item, amount, free in (("cup", 2, 1), ("horse", 1, 0)):
        answer = await shop.do("reserve", item, amount)
        assert (answer.state, answer.reason) == (BranchState.ABORTED, f"{free} of {item} are free")
    assert await shop.levels() == {"cup": Level(1, 0)}


async def test_of_many_who_want_the_last_ones_as_many_get_them_as_there_are(shop: Shop) -> None:
    """Goal: those who come at the same time are told so, and not that the database has said no."""
    await shop.do("offer", "cup", 3)
    answers = await asyncio.gather(*(shop.do("reserve", "cup", 1) for _ in range(8)))
    assert [answer.state for answer in answers].count(BranchState.COMMITTED) == 3
    assert {answer.reason for answer in answers} == {"", "0 of cup are free"}
    assert await shop.levels() == {"cup": Level(0, 3)}


@pytest.mark.parametrize("action", ["settle", "release"])
async def test_what_is_not_held_is_neither_settled_nor_released(shop: Shop, action: str) -> None:
    await shop.do("offer", "cup", 3)
    await shop.do("reserve", "cup", 1)
    answer = await shop.do(action, "cup", 2)
    assert answer.state is BranchState.ABORTED
    assert "1 of cup are held, and 2 are wanted" in answer.reason
    assert await shop.levels() == {"cup": Level(2, 1)}


@pytest.mark.parametrize(
    ("item", "amount"), [("", 1), ("x" * 129, 1), (7, 1), ("cup", 0), ("cup", True), ("cup", AMOUNT_MAX + 1)]
)
async def test_what_is_no_item_and_no_amount_is_refused(tmp_path: Path, item: Any, amount: Any) -> None:
    shop = Shop(SQLite(tmp_path / "shop.db", schema=reservations.SQLITE))
    async with shop.participant.serving():
        answer = await shop.do("reserve", item, amount)
        assert answer.state is BranchState.ABORTED
        assert "is a" in answer.reason


async def test_a_participant_without_sql_is_told_so(tmp_path: Path) -> None:
    shop = Shop(Memory(tmp_path))
    async with shop.participant.serving():
        assert "on SQLite, PostgreSQL or MariaDB" in (await shop.do("reserve", "cup", 1)).reason
