"""One statement in the words of the database below: `?` stands for a value, whoever the driver is."""

from __future__ import annotations

from typing import Any, Protocol

from participant.resource import OpenBranch

__all__ = ["Writable", "branch_tx", "fetch", "run"]


class Writable(Protocol):
    """What is needed of a `tx` to write in it. `dialect`: sqlite, postgresql or mariadb.

    `execute` takes one SQL statement and its values: as one tuple, on PostgreSQL as so many arguments.
    """

    dialect: str
    branch: OpenBranch | None
    execute: Any


async def branch_tx(tx: Any) -> Any:
    """What all below takes as `tx`: of a session (`participant.rm.sqlalchemy`) the branch's own one."""
    below = getattr(tx, "branch_tx", None)
    return tx if below is None else await below()


async def run(tx: Any, sql: str, *values: Any) -> None:
    """Run a statement that gives no rows."""
    match tx.dialect:
        case "sqlite":
            await tx.execute(sql, values)
        case "postgresql":
            await tx.execute(_numbered(sql), *values)
        case _:
            await tx.execute(sql.replace("?", "%s"), values)


async def fetch(tx: Any, sql: str, *values: Any) -> list[Any]:
    """The rows of a query."""
    match tx.dialect:
        case "sqlite":
            rows = await tx.execute(sql, values)
        case "postgresql":
            rows = await tx.fetch(_numbered(sql), *values)
        case _:
            rows = await tx.fetch_all(sql.replace("?", "%s"), values)
    return list(rows)


def _numbered(sql: str) -> str:
    """With $1, $2 … for each ?."""
    first, *rest = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
