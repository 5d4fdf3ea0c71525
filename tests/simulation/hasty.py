"""Production code broken on purpose, for more than one canary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.driver.driver import Driver, Shared
from coordinator.driver.performer import Performer
from coordinator.effects import Propose
from coordinator.ledger.commands import Decide
from coordinator.ledger.records import Decision, Phase, TransactionRecord

__all__ = ["act_before_it_is_logged"]

_COMMITTING = {Decision.COMMIT: Phase.COMMITTING, Decision.ABORT: Phase.ABORTING}


def act_before_it_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver takes a decision that it has proposed for one that is recorded, and tells the branches."""
    early: dict[str, Decision] = {}
    begin, propose = Driver.__init__, Performer.propose

    class Hasty:
        def __init__(self, ledger: Any) -> None:
            self._ledger = ledger

        def get(self, gid: str) -> TransactionRecord | None:
            record = self._ledger.get(gid)
            return record if record is None else _as_if(record, early)

    def begin_hastily(self: Any, gid: str, plan: Any, shared: Shared) -> None:
        hasty: Any = Hasty(shared.ledger)
        begin(self, gid, plan, replace(shared, ledger=hasty))

    def propose_and_note(self: Any, effect: Propose, done: Any) -> None:
        if isinstance(effect.command, Decide):
            early[effect.command.gid] = effect.command.decision
            done.__self__.wake()
        propose(self, effect, done)

    monkeypatch.setattr(Driver, "__init__", begin_hastily)
    monkeypatch.setattr(Performer, "propose", propose_and_note)


def _as_if(record: TransactionRecord, early: dict[str, Decision]) -> TransactionRecord:
    """The record, decided as soon as that was proposed."""
    if record.decision is not None or record.gid not in early:
        return record
    return record._replace(phase=_COMMITTING[early[record.gid]])
