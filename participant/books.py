"""The stock bank's accounts, in each of the databases: the same four statements, in the words of each.

They differ in how a value stands in SQL (`?`, `$1`, `%s`), in the calls of `tx`, and in how text is compared; no layer
hides that. Owns the SQL. Must never do: decide (`bank.py` does).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from participant.resource import ResourceLimits, ResourceManager
from participant.rm.sqlite import SQLite, Transaction

if TYPE_CHECKING:  # their drivers are extras
    from participant.rm import mariadb, postgres

__all__ = ["ACCOUNT_CHARS_MAX", "BALANCE_MAX_CENTS", "SCHEMA", "Books", "MariaBooks", "PostgresBooks", "SQLiteBooks"]

BALANCE_MAX_CENTS = 2**53 - 1  # exact in every JSON reader
ACCOUNT_CHARS_MAX = 64
_UTF8_BYTES_MAX = 4  # of a character

_CHECK = f"CHECK (balance BETWEEN 0 AND {BALANCE_MAX_CENTS})"

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT NOT NULL PRIMARY KEY,
    balance INTEGER NOT NULL {_CHECK}
) WITHOUT ROWID;
"""
POSTGRES_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS accounts (
    account text COLLATE "C" PRIMARY KEY,
    balance bigint NOT NULL {_CHECK}
);
"""
# Bytes: as text, `bob` and `Bob` would be one account.
MARIADB_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS accounts (
    account VARBINARY({ACCOUNT_CHARS_MAX * _UTF8_BYTES_MAX}) NOT NULL PRIMARY KEY,
    balance BIGINT NOT NULL {_CHECK}
) ENGINE=InnoDB
"""


class Books(Protocol):
    """The accounts in one database."""

    @property
    def resource(self) -> ResourceManager:
        """The manager of that database."""

    async def balance(self, tx: Any, account: str) -> int | None:
        """In cents; None if there is no such account."""

    async def add(self, tx: Any, account: str, balance: int) -> None:
        """A new account."""

    async def change(self, tx: Any, account: str, balance: int) -> None:
        """What it holds from now on."""

    async def balances(self, tx: Any) -> dict[str, int]:
        """Every account, in the order of their names."""


class SQLiteBooks:
    """In the SQLite file at `path`."""

    def __init__(self, path: Path, limits: ResourceLimits | None = None) -> None:
        self.resource = SQLite(path, schema=SCHEMA, limits=limits)

    async def balance(self, tx: Transaction, account: str) -> int | None:
        balance: int | None = await tx.fetch_value("SELECT balance FROM accounts WHERE account = ?", (account,))
        return balance

    async def add(self, tx: Transaction, account: str, balance: int) -> None:
        await tx.execute("INSERT INTO accounts VALUES (?, ?)", (account, balance))

    async def change(self, tx: Transaction, account: str, balance: int) -> None:
        await tx.execute("UPDATE accounts SET balance = ? WHERE account = ?", (balance, account))

    async def balances(self, tx: Transaction) -> dict[str, int]:
        return dict(await tx.execute("SELECT account, balance FROM accounts ORDER BY account"))


class PostgresBooks:
    """In the PostgreSQL database at `url`. Needs asyncpg."""

    def __init__(self, url: str, limits: ResourceLimits | None = None) -> None:
        from participant.rm.postgres import PostgreSQL  # an extra

        self.resource = PostgreSQL(url, schema=POSTGRES_SCHEMA, limits=limits)

    async def balance(self, tx: postgres.Transaction, account: str) -> int | None:
        balance: int | None = await tx.fetchval("SELECT balance FROM accounts WHERE account = $1", account)
        return balance

    async def add(self, tx: postgres.Transaction, account: str, balance: int) -> None:
        await tx.execute("INSERT INTO accounts VALUES ($1, $2)", account, balance)

    async def change(self, tx: postgres.Transaction, account: str, balance: int) -> None:
        await tx.execute("UPDATE accounts SET balance = $2 WHERE account = $1", account, balance)

    async def balances(self, tx: postgres.Transaction) -> dict[str, int]:
        return dict(await tx.fetch("SELECT account, balance FROM accounts ORDER BY account"))


class MariaBooks:
    """In the MariaDB (or MySQL) database at `url`. Needs asyncmy."""

    def __init__(self, url: str, limits: ResourceLimits | None = None) -> None:
        from participant.rm.mariadb import MariaDB  # an extra

        self.resource = MariaDB(url, schema=[MARIADB_SCHEMA], limits=limits)

    async def balance(self, tx: mariadb.Transaction, account: str) -> int | None:
        name = account.encode()
        balance: int | None = await tx.fetch_value("SELECT balance FROM accounts WHERE account = %s", (name,))
        return balance

    async def add(self, tx: mariadb.Transaction, account: str, balance: int) -> None:
        await tx.execute("INSERT INTO accounts VALUES (%s, %s)", (account.encode(), balance))

    async def change(self, tx: mariadb.Transaction, account: str, balance: int) -> None:
        await tx.execute("UPDATE accounts SET balance = %s WHERE account = %s", (balance, account.encode()))

    async def balances(self, tx: mariadb.Transaction) -> dict[str, int]:
        rows = await tx.fetch_all("SELECT account, balance FROM accounts ORDER BY account")
        return {account.decode(): balance for account, balance in rows}
