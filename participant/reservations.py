"""Stock that can be reserved, then settled or released: the three actions of a reservation (TCC) over one table.

    @hotel.action("reserve")
    async def reserve(tx, body):
        await reservations.reserve(tx, body["kind"], body["rooms"])

Each item has what is *free* and what is *held*. To reserve moves from the one to the other, to release moves it back,
to settle takes it out. So others see at once what is left, nothing stays locked, and `free + held` changes only by what
is offered and what is settled. Repeats and late calls are no concern here: each action of a step counts once, and an
undo only after what it undoes (`participant.branch`).

`SQLITE`, `POSTGRESQL` and `MARIADB` are the schemas of the table; they go into the `schema` of the resource manager, or
into your migrations. `tx` is what the action was given: with SQLAlchemy, its session.

After the escrow of P. O'Neil, "The Escrow Transactional Method", ACM TODS 11(4), 1986.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from participant.errors import ActionError, Reject
from participant.sql import Writable, branch_tx, fetch, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = [
    "AMOUNT_MAX",
    "ITEM_CHARS_MAX",
    "MARIADB",
    "POSTGRESQL",
    "SQLITE",
    "Level",
    "levels",
    "offer",
    "release",
    "reserve",
    "settle",
]

AMOUNT_MAX = 10**12  # of one action
ITEM_CHARS_MAX = 128

SQLITE = """
CREATE TABLE IF NOT EXISTS reservation_stock (
    item TEXT NOT NULL PRIMARY KEY,
    free INTEGER NOT NULL CHECK (free >= 0), held INTEGER NOT NULL CHECK (held >= 0)
);
"""

POSTGRESQL = """
CREATE TABLE IF NOT EXISTS reservation_stock (
    item text COLLATE "C" PRIMARY KEY,
    free bigint NOT NULL CHECK (free >= 0), held bigint NOT NULL CHECK (held >= 0)
);
"""

MARIADB = (
    """
CREATE TABLE IF NOT EXISTS reservation_stock (
    item VARCHAR(128) NOT NULL PRIMARY KEY,
    free BIGINT NOT NULL CHECK (free >= 0), held BIGINT NOT NULL CHECK (held >= 0)
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
""",
)


class Level(NamedTuple):
    """Of one item."""

    free: int
    held: int


async def offer(tx: Writable | AsyncSession, item: str, amount: int) -> None:
    """More of an item, which may be new. Raises ActionError for what is no item or no amount."""
    below = await _checked(tx, item, amount)
    if await _level(below, item) is None:
        await run(below, "INSERT INTO reservation_stock (item, free, held) VALUES (?, ?, 0)", item, amount)
    else:
        await run(below, "UPDATE reservation_stock SET free = free + ? WHERE item = ?", amount, item)


async def reserve(tx: Writable | AsyncSession, item: str, amount: int) -> None:
    """Hold so much of an item: the action that is tried.

    Raises: Reject, if less is free; ActionError for what is no item or no amount. The branch votes no with either.
    """
    below = await _checked(tx, item, amount)
    level = await _level(below, item)
    if level is None or level.free < amount:
        raise Reject(f"{0 if level is None else level.free} of {item} are free")
    sql = "UPDATE reservation_stock SET free = free - ?, held = held + ? WHERE item = ?"
    await run(below, sql, amount, amount, item)


async def settle(tx: Writable | AsyncSession, item: str, amount: int) -> None:
    """What was held is gone for good: the confirm, with the body of the try. Raises ActionError if that is not held."""
    below = await _held(tx, item, amount)
    await run(below, "UPDATE reservation_stock SET held = held - ? WHERE item = ?", amount, item)


async def release(tx: Writable | AsyncSession, item: str, amount: int) -> None:
    """What was held is free again: the cancel, with the body of the try. Raises ActionError if that is not held."""
    below = await _held(tx, item, amount)
    sql = "UPDATE reservation_stock SET free = free + ?, held = held - ? WHERE item = ?"
    await run(below, sql, amount, amount, item)


async def levels(tx: Writable | AsyncSession) -> dict[str, Level]:
    """All items, by name; also in a view."""
    below = await branch_tx(tx)
    rows = await fetch(below, "SELECT item, free, held FROM reservation_stock ORDER BY item")
    return {str(item): Level(int(free), int(held)) for item, free, held in rows}


async def _held(tx: Writable | AsyncSession, item: str, amount: int) -> Any:
    below = await _checked(tx, item, amount)
    level = await _level(below, item)
    if level is None or level.held < amount:
        held = 0 if level is None else level.held
        raise ActionError(f"{held} of {item} are held, and {amount} are wanted: somebody has changed reservation_stock")
    return below


async def _checked(tx: Writable | AsyncSession, item: str, amount: int) -> Any:
    if not isinstance(item, str) or not 0 < len(item) <= ITEM_CHARS_MAX:
        raise ActionError(f"an item is a text of 1 to {ITEM_CHARS_MAX} characters")
    if type(amount) is not int or not 0 < amount <= AMOUNT_MAX:
        raise ActionError(f"an amount is a number from 1 to {AMOUNT_MAX}")
    below = await branch_tx(tx)
    if not hasattr(below, "dialect"):
        raise ActionError("stock is reserved by an action, with its tx or session, on SQLite, PostgreSQL or MariaDB")
    return below


async def _level(tx: Any, item: str) -> Level | None:
    """The row, which is locked until the branch has ended, so that others wait instead of running again. SQLite has one
    writer at a time anyway."""
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"
    rows = await fetch(tx, f"SELECT free, held FROM reservation_stock WHERE item = ?{lock}", item)  # noqa: S608
    return next((Level(int(free), int(held)) for free, held in rows), None)
