"""The banks of the system world: accounts on the memory resource manager, and what can be asked of them."""

from __future__ import annotations

from typing import Any

from participant.errors import Reject
from participant.resource import Action
from participant.rm.memory import Transaction

__all__ = ["ACTIONS", "INITIAL"]

INITIAL = 1_000
"""What an account holds that nobody has touched."""


async def _balance(tx: Transaction, account: str) -> int:
    balance = await tx.get(account)
    return INITIAL if balance is None else int(balance)


async def _debit(tx: Transaction, body: Any) -> None:
    balance = await _balance(tx, body["account"])
    if balance < body["amount"]:
        raise Reject("insufficient funds")
    await tx.put(body["account"], balance - body["amount"])


async def _credit(tx: Transaction, body: Any) -> None:
    await tx.put(body["account"], await _balance(tx, body["account"]) + body["amount"])


async def _move(tx: Transaction, body: Any) -> None:
    """Within one bank: the only branch of its transaction."""
    await _debit(tx, {"account": body["from"], "amount": body["amount"]})
    await _credit(tx, {"account": body["to"], "amount": body["amount"]})


async def _look(tx: Transaction, body: Any) -> int:
    return await _balance(tx, body["account"])


ACTIONS: dict[str, Action] = {"debit": _debit, "credit": _credit, "move": _move, "look": _look}
