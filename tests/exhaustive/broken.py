"""What the canaries share: ways to look at, and to break, one rule."""

from __future__ import annotations

from types import MappingProxyType

import pytest

import participant.branch
from coordinator.facts import Facts
from coordinator.ledger.records import TransactionRecord
from coordinator.protocols.two_phase import Plan
from participant.branch import RULES, Ask, Rule
from participant.wire import BranchState

__all__ = ["breaks", "votes"]


def votes(work: Plan | TransactionRecord | None, facts: Facts) -> set[BranchState | None]:
    """What the branches have said; None for one that has not."""
    return set() if work is None else {facts.of(branch.branch).state for branch in work.branches}


def breaks(monkeypatch: pytest.MonkeyPatch, state: BranchState, ask: Ask, rule: Rule) -> None:
    """One cell of the participant's table."""
    monkeypatch.setattr(participant.branch, "RULES", MappingProxyType({**RULES, (state, ask): rule}))
