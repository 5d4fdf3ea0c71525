"""Telling the application how its transaction ends, if it wants to be told. What comes next; pure.

That it is to be told stands in the record from the beginning, that it has been told is noted there: so whoever leads
goes on with what is owed, and what was taken by the application, but not noted, is told again. It is told *decided*
when the record holds the decision, never by implication; and *ended* when nothing is owed to any branch any more. Who
has heard *ended* is owed nothing, so that a transaction which has ended in the meantime is told of once. Nor is one
whose notices an operator has dropped.
"""

from __future__ import annotations

from coordinator.effects import Haste, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import Notified
from coordinator.ledger.records import Notice, TransactionRecord
from coordinator.protocols.todo import BACKOFF_DECIDED, Todo

__all__ = ["with_notice"]


def with_notice(step: Step, record: TransactionRecord, facts: Facts, now: float) -> Step:
    """What the protocol does now, and what the application is told beside it."""
    owed = record.notice_owed
    if owed is Notice.NONE:
        return step
    todo = Todo(facts, now, BACKOFF_DECIDED)
    if facts.notice.taken is owed:
        todo.propose(Notified(record.gid, owed), Haste.LATER)
    else:
        todo.tell(owed)
    if step.wake_at is not None:
        todo.wake(step.wake_at)
    return step._replace(effects=(*step.effects, *todo.effects), wake_at=todo.wake_at, done=False)
