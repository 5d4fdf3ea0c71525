"""The stock bank: accounts in cents, on any of the databases. The participant of the demo, and an example to copy.

Actions: `open {account, balance?}`, `debit {account, amount}`, `credit {account, amount}`. Views: `/v1/accounts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from participant.books import ACCOUNT_CHARS_MAX, BALANCE_MAX_CENTS, Books, SQLiteBooks
from participant.errors import Reject
from participant.kit import Participant
from participant.recovery import RecoverySettings
from participant.resource import ResourceLimits
from participant.service import ServiceLimits

__all__ = ["Bank", "bank_on", "bank_on_sqlite"]


def bank_on(
    name: str,
    books: Books,
    *,
    service_limits: ServiceLimits | None = None,
    recovery: RecoverySettings | None = None,
    proof_secret: bytes | None = None,
) -> Participant:
    """A bank that keeps its accounts in `books`."""
    participant = Participant(name, books.resource, limits=service_limits, recovery=recovery, proof_secret=proof_secret)
    bank = Bank(books)
    participant.action("open")(bank.open)
    participant.action("debit")(bank.debit)
    participant.action("credit")(bank.credit)
    participant.view("/v1/accounts")(bank.accounts)
    return participant


def bank_on_sqlite(
    name: str,
    path: Path,
    *,
    resource_limits: ResourceLimits | None = None,
    service_limits: ServiceLimits | None = None,
    recovery: RecoverySettings | None = None,
) -> Participant:
    """A bank whose accounts are in the SQLite file at `path`."""
    return bank_on(name, SQLiteBooks(path, resource_limits), service_limits=service_limits, recovery=recovery)


class Bank:
    """What a bank does: its actions and its view. `tx` is whatever the database of `books` gives."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def open(self, tx: Any, body: Any) -> None:
        account, balance = _account(body), _cents(body, "balance", least=0, absent=0)
        if await self._books.balance(tx, account) is not None:
            raise Reject(f"account {account!r} exists already")
        await self._books.add(tx, account, balance)

    async def debit(self, tx: Any, body: Any) -> dict[str, int]:
        account, amount = _account(body), _cents(body, "amount", least=1)
        balance = await self._known_balance(tx, account)
        if balance < amount:
            raise Reject("insufficient funds")
        return await self._set_balance(tx, account, balance - amount)

    async def credit(self, tx: Any, body: Any) -> dict[str, int]:
        account, amount = _account(body), _cents(body, "amount", least=1)
        balance = await self._known_balance(tx, account) + amount
        if balance > BALANCE_MAX_CENTS:
            raise Reject(f"account {account!r} cannot hold more than {BALANCE_MAX_CENTS} cents")
        return await self._set_balance(tx, account, balance)

    async def accounts(self, tx: Any, _: Any) -> dict[str, Any]:
        """What an audit reads: every account with its balance, and their total."""
        balances = await self._books.balances(tx)
        return {"accounts": balances, "total": sum(balances.values())}

    async def _known_balance(self, tx: Any, account: str) -> int:
        balance = await self._books.balance(tx, account)
        if balance is None:
            raise Reject(f"unknown account {account!r}")
        return balance

    async def _set_balance(self, tx: Any, account: str, balance: int) -> dict[str, int]:
        await self._books.change(tx, account, balance)
        return {"balance": balance}


def _account(body: Any) -> str:
    account = body.get("account") if isinstance(body, dict) else None
    if not isinstance(account, str) or not 0 < len(account) <= ACCOUNT_CHARS_MAX or "\0" in account:
        raise Reject(f"account: must be text of 1 to {ACCOUNT_CHARS_MAX} characters, none of them NUL")
    return account


def _cents(body: Any, field: str, *, least: int, absent: int | None = None) -> int:
    value = body.get(field, absent)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= BALANCE_MAX_CENTS:
        raise Reject(f"{field}: must be whole cents from {least} to {BALANCE_MAX_CENTS}")
    return value
