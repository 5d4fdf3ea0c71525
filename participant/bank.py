"""The stock bank: accounts on SQLite, in cents. The participant of the demo, and an example to copy.

Actions: `open {account, balance?}`, `debit {account, amount}`, `credit {account, amount}`. Views: `/v1/accounts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from participant.errors import Reject
from participant.kit import Participant
from participant.recovery import RecoverySettings
from participant.resource import ResourceLimits
from participant.rm.sqlite import SQLite, Transaction
from participant.service import ServiceLimits

__all__ = ["ACCOUNT_CHARS_MAX", "BALANCE_MAX_CENTS", "SCHEMA", "bank_on_sqlite"]

BALANCE_MAX_CENTS = 2**53 - 1  # exact in every JSON reader
ACCOUNT_CHARS_MAX = 64

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT NOT NULL PRIMARY KEY,
    balance INTEGER NOT NULL CHECK (balance BETWEEN 0 AND {BALANCE_MAX_CENTS})
) WITHOUT ROWID;
"""


def bank_on_sqlite(
    name: str,
    path: Path,
    *,
    resource_limits: ResourceLimits | None = None,
    service_limits: ServiceLimits | None = None,
    recovery: RecoverySettings | None = None,
) -> Participant:
    """A bank whose accounts are in the SQLite file at `path`."""
    resource = SQLite(path, schema=SCHEMA, limits=resource_limits)
    bank = Participant(name, resource, limits=service_limits, recovery=recovery)
    bank.action("open")(open_account)
    bank.action("debit")(debit)
    bank.action("credit")(credit)
    bank.view("/v1/accounts")(accounts)
    return bank


async def open_account(tx: Transaction, body: Any) -> None:
    account, balance = _account(body), _cents(body, "balance", least=0, absent=0)
    if await _balance(tx, account) is not None:
        raise Reject(f"account {account!r} exists already")
    await tx.execute("INSERT INTO accounts VALUES (?, ?)", (account, balance))


async def debit(tx: Transaction, body: Any) -> dict[str, int]:
    account, amount = _account(body), _cents(body, "amount", least=1)
    balance = await _known_balance(tx, account)
    if balance < amount:
        raise Reject("insufficient funds")
    return await _set_balance(tx, account, balance - amount)


async def credit(tx: Transaction, body: Any) -> dict[str, int]:
    account, amount = _account(body), _cents(body, "amount", least=1)
    balance = await _known_balance(tx, account) + amount
    if balance > BALANCE_MAX_CENTS:
        raise Reject(f"account {account!r} cannot hold more than {BALANCE_MAX_CENTS} cents")
    return await _set_balance(tx, account, balance)


async def accounts(tx: Transaction, _: Any) -> dict[str, Any]:
    """What an audit reads: every account with its balance, and their total."""
    rows = await tx.execute("SELECT account, balance FROM accounts ORDER BY account")
    return {"accounts": dict(rows), "total": sum(balance for _, balance in rows)}


async def _balance(tx: Transaction, account: str) -> int | None:
    balance: int | None = await tx.fetch_value("SELECT balance FROM accounts WHERE account = ?", (account,))
    return balance


async def _known_balance(tx: Transaction, account: str) -> int:
    balance = await _balance(tx, account)
    if balance is None:
        raise Reject(f"unknown account {account!r}")
    return balance


async def _set_balance(tx: Transaction, account: str, balance: int) -> dict[str, int]:
    await tx.execute("UPDATE accounts SET balance = ? WHERE account = ?", (balance, account))
    return {"balance": balance}


def _account(body: Any) -> str:
    account = body.get("account") if isinstance(body, dict) else None
    if not isinstance(account, str) or not 0 < len(account) <= ACCOUNT_CHARS_MAX:
        raise Reject(f"account: must be text of 1 to {ACCOUNT_CHARS_MAX} characters")
    return account


def _cents(body: Any, field: str, *, least: int, absent: int | None = None) -> int:
    value = body.get(field, absent)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= BALANCE_MAX_CENTS:
        raise Reject(f"{field}: must be whole cents from {least} to {BALANCE_MAX_CENTS}")
    return value
