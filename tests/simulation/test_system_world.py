"""The whole system in the simulator: replicas, banks and clients under faults, and proof that the checkers would notice
a broken promise."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.driver.service import Transactions
from coordinator.effects import Step
from coordinator.facts import Facts
from coordinator.ledger.records import TransactionRecord
from coordinator.protocols import protocol
from coordinator.protocols.notices import with_notice
from participant.rm.memory.journal import Journal
from tests.simulation.canaries import is_found
from tests.simulation.hasty import act_before_it_is_logged
from tests.simulation.seeds import runs_of
from tests.simulation.settings import workless
from tests.simulation.system_world import SystemWorld

_World = partial(SystemWorld, harder=workless)  # for canaries, none of which is about workflows


@pytest.mark.parametrize(("seed", "hours"), runs_of("system"))
def test_no_promise_is_broken(seed: int, hours: float) -> None:
    """About twenty virtual minutes each, because every seed chooses other banks, clients and faults: all or nothing,
    answers stay true, money is conserved, no read is old, and after the faults everything becomes final."""
    SystemWorld(seed).run(hours)


def test_all_protocols_are_played_in_one_and_the_same_run() -> None:
    """Otherwise the promises would be shown of each alone."""
    world = SystemWorld(14)
    world.run(0.05)
    assert {"classic", "one-phase", "staged", "steps", "three-phase", "workflows"} <= set(world.tally.paths)
    assert {"end in abort", "end in commit"} <= set(world.flows.counts)


def test_the_same_seed_is_the_same_run_in_every_interpreter() -> None:
    root = Path(__file__).parents[2]
    script = "from tests.simulation.system_world import SystemWorld; print(SystemWorld(4).run(0.3))"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == SystemWorld(4).run(0.3)


def test_canary_acting_before_the_decision_is_logged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver takes a decision that it has proposed for one that is recorded, and tells the branches."""
    act_before_it_is_logged(monkeypatch)
    assert is_found(_World, "a prepared branch waits for the decision")


def test_canary_a_notice_that_is_noted_before_it_is_taken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver notes that the application knows, and does not wait until it has taken the notice."""

    def hasty(step: Step, record: TransactionRecord, facts: Facts, now: float) -> Step:
        facts.notice.taken = record.notice_owed
        return with_notice(step, record, facts, now)

    monkeypatch.setattr(protocol, "with_notice", hasty)
    assert is_found(_World, "an application that wants to be told is told")


def test_canary_a_vote_before_it_is_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory bank answers without having written: a crash forgets what it promised."""
    monkeypatch.setattr(Journal, "write", lambda self, entries: None)
    assert is_found(_World, "a participant was asked what contradicts its state", "all or nothing", "conservation")


def test_canary_an_abort_that_is_only_presumed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A participant in doubt hears "aborted" of a transaction that nobody recorded *yet*: nothing makes it true."""

    async def presume(self: Any, gid: str, inquiry: Any) -> TransactionRecord | None:
        await self._scribe.barrier()
        return self._ledger.get(gid)

    monkeypatch.setattr(Transactions, "inquire", presume)
    assert is_found(_World, "a prepared branch waits for the decision", "all or nothing")
