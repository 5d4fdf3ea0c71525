"""The whole system in the simulator: replicas, banks and clients under faults, and proof that the checkers would notice
a broken promise."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.driver.driver import Driver
from coordinator.driver.service import Transactions
from coordinator.driver.waiters import Waiters
from coordinator.effects import Propose
from coordinator.ledger.commands import Decide
from coordinator.ledger.records import Decision, Phase, TransactionRecord
from participant.rm.memory.journal import Journal
from tests.simulation.canaries import is_found
from tests.simulation.seeds import hours_of, seeds_that_failed
from tests.simulation.system_world import SystemWorld

_COMMITTING = {Decision.COMMIT: Phase.COMMITTING, Decision.ABORT: Phase.ABORTING}


@pytest.mark.parametrize("seed", range(hours_of("system")))
def test_no_promise_is_broken(seed: int) -> None:
    """One virtual hour: all or nothing, answers are recorded and stay true, money is conserved, no read is old,
    and after the faults everything becomes final."""
    SystemWorld(seed).run(1.0)


@pytest.mark.parametrize(("seed", "hours"), seeds_that_failed("system"))
def test_a_seed_that_failed_once_does_not_fail_again(seed: int, hours: float) -> None:
    SystemWorld(seed).run(hours)


def test_the_same_seed_is_the_same_run_in_every_interpreter() -> None:
    root = Path(__file__).parents[2]
    script = "from tests.simulation.system_world import SystemWorld; print(SystemWorld(4).run(0.3))"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == SystemWorld(4).run(0.3)


def test_canary_an_answer_before_the_decision_is_logged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits hears the decision when it is proposed, not when the record holds it."""
    early: dict[str, Decision] = {}
    perform, decided = Driver._perform, Waiters.decided

    def perform_and_tell(self: Any, effect: Any, recorded: Any) -> None:
        perform(self, effect, recorded)
        if isinstance(effect, Propose) and isinstance(effect.command, Decide):
            early[self.gid] = effect.command.decision
            self._ended.__self__._waiters._release(self.gid)

    async def decided_early(self: Any, gid: str, timeout_s: float) -> TransactionRecord | None:
        record = await decided(self, gid, timeout_s)
        return record if record is None else _as_if(record, early)

    monkeypatch.setattr(Driver, "_perform", perform_and_tell)
    monkeypatch.setattr(Waiters, "decided", decided_early)
    assert is_found(SystemWorld, "an answer is recorded before it is given")


def _as_if(record: TransactionRecord, early: dict[str, Decision]) -> TransactionRecord:
    """The record, decided as soon as that was proposed."""
    if record.decision is not None or record.gid not in early:
        return record
    return replace(record, phase=_COMMITTING[early[record.gid]])


def test_canary_acting_before_the_decision_is_logged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver takes a decision that it has proposed for one that is recorded, and tells the branches."""
    early: dict[str, Decision] = {}
    advance, perform = Driver._advance, Driver._perform

    class Hasty:
        def __init__(self, ledger: Any) -> None:
            self._ledger = ledger

        def get(self, gid: str) -> TransactionRecord | None:
            record = self._ledger.get(gid)
            return record if record is None else _as_if(record, early)

    def advance_hastily(self: Any) -> None:
        if not isinstance(self._ledger, Hasty):
            self._ledger = Hasty(self._ledger)
        advance(self)

    def perform_and_note(self: Any, effect: Any, recorded: Any) -> None:
        if isinstance(effect, Propose) and isinstance(effect.command, Decide):
            early[self.gid] = effect.command.decision
            self.wake()
        perform(self, effect, recorded)

    monkeypatch.setattr(Driver, "_advance", advance_hastily)
    monkeypatch.setattr(Driver, "_perform", perform_and_note)
    assert is_found(SystemWorld, "a prepared branch waits for the decision")


def test_canary_a_vote_before_it_is_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory bank answers without having written: a crash forgets what it promised."""
    monkeypatch.setattr(Journal, "write", lambda self, entries: None)
    assert is_found(SystemWorld, "a participant was asked what contradicts its state", "all or nothing", "conservation")


def test_canary_an_abort_that_is_only_presumed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A participant in doubt hears "aborted" of a transaction that nobody recorded *yet*: nothing makes it true."""

    async def presume(self: Any, gid: str, inquiry: Any) -> TransactionRecord | None:
        await self._barrier()
        return self._ledger.get(gid)

    monkeypatch.setattr(Transactions, "inquire", presume)
    assert is_found(SystemWorld, "a prepared branch waits for the decision", "all or nothing")
