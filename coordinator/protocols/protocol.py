"""Which protocol drives a transaction: that of its path. Pure."""

from __future__ import annotations

from coordinator.effects import Step
from coordinator.facts import Facts
from coordinator.ledger.records import Path, TransactionRecord
from coordinator.protocols import steps, three_phase, two_phase
from coordinator.protocols.notices import with_notice
from coordinator.protocols.two_phase import Plan

__all__ = ["decide"]


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction; see `protocols.two_phase.decide`."""
    begun = plan if record is None else record
    protocol = two_phase.decide
    if begun is not None and begun.path is Path.STEPS:
        protocol = steps.decide
    elif begun is not None and begun.path.is_three_phase:
        protocol = three_phase.decide
    step = protocol(plan, record, facts, now)
    is_ours = record is not None and (plan is None or plan.digest == record.digest)
    return with_notice(step, record, facts, now) if record is not None and is_ours else step
