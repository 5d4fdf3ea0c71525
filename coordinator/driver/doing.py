"""What the leader is doing about one transaction now, for people: whom it asks what, how often, and why in vain.

Facts of one driver: another leader begins with none. Nothing follows from them here.
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.facts import Facts
from coordinator.ledger.records import Notice
from participant.wire import BranchState

__all__ = ["Attempt", "Doing", "doing_of"]


class Attempt(NamedTuple):
    """One question to one party. `to`: a branch, as it is called at its participant; "" is the application.

    `heard`: what a branch has said last. `error`: why the last time brought no useful answer.
    """

    to: str
    asks: str
    times: int
    is_under_way: bool
    heard: BranchState | None
    error: str


class Doing(NamedTuple):
    """`next_s`: in so many seconds the leader looks again, if nothing happens before; None: it waits for an answer."""

    attempts: tuple[Attempt, ...]
    next_s: float | None


def doing_of(facts: Facts, next_s: float | None) -> Doing:
    """What these facts say."""
    attempts = [
        Attempt(name, str(known.question), known.attempts, known.in_flight, known.state, known.error)
        for name, known in facts.asked()
    ]
    notice = facts.notice
    if isinstance(notice.question, Notice):
        attempts.append(
            Attempt("", notice.question.value, notice.attempts, notice.in_flight, heard=None, error=notice.error)
        )
    return Doing(tuple(attempts), next_s)
