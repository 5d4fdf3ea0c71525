"""Which protocol drives a transaction: that of its path. Pure."""

from __future__ import annotations

from coordinator.effects import Step
from coordinator.facts import Facts
from coordinator.ledger.records import Path, TransactionRecord
from coordinator.protocols import steps, two_phase
from coordinator.protocols.two_phase import Plan

__all__ = ["decide"]


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction; see `protocols.two_phase.decide`."""
    begun = plan if record is None else record
    if begun is not None and begun.path is Path.STEPS:
        return steps.decide(plan, record, facts, now)
    return two_phase.decide(plan, record, facts, now)
