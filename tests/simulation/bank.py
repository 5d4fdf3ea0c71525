"""The banks of the system world: accounts on the memory resource manager, and what can be asked of which bank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from coordinator.ledger.records import Path
from coordinator.simulation.servers import Kind
from participant.errors import Reject
from participant.resource import Action
from participant.rm.memory import Transaction

__all__ = ["ABLE", "ACTIONS", "FOREIGN", "INITIAL", "STEADY", "draw_kinds", "path_over"]

INITIAL = 1_000
"""What an account holds that nobody has touched."""


ABLE = Kind("able", prevent=True, one_phase=True)
STEADY = Kind("steady", prevent=True, one_phase=False)
FOREIGN = Kind("foreign", prevent=False, one_phase=False)
_CLAIMING = Kind("claiming", prevent=False, one_phase=True)  # one phase is of no use to anybody who cannot be prevented


def draw_kinds(rng: Random, names: list[str]) -> dict[str, Kind]:
    """The banks of a run: all three kinds are there, and at least two banks can be prevented."""
    kinds = [ABLE, STEADY, rng.choice((FOREIGN, FOREIGN, _CLAIMING)), *rng.choice(((), (ABLE,), (STEADY,), (FOREIGN,)))]
    rng.shuffle(kinds)
    return dict(zip(names, kinds, strict=False))


def path_over(banks: Iterable[str], kinds: Mapping[str, Kind]) -> Path:
    """The path of a transaction with one branch for each of `banks`, a bank as often as it has branches."""
    able = [kinds[bank] for bank in banks]
    if not all(kind.prevent for kind in able):
        return Path.CLASSIC
    return Path.ONE_PHASE if len(able) == 1 and able[0].one_phase else Path.STAGED


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
