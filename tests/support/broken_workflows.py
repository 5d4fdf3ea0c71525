"""The rules of workflows broken on purpose, one at a time, at the log, the leader or the worker: whatever looks for
defects must find each of these."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest

from coordinator.client.workflow import Tx
from coordinator.driver import workflows as driver
from coordinator.driver.claims import Claims
from coordinator.errors import Undetermined
from coordinator.http import views
from coordinator.ledger import transitions, workflows
from coordinator.ledger.commands import Extend
from coordinator.ledger.records import Path, Phase, TransactionRecord
from coordinator.protocols import steps
from coordinator.protocols import workflow as protocol
from coordinator.protocols.modes import rules_of
from coordinator.protocols.settle import settle

__all__ = ["BREAKS"]


def takes_what_there_is_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine decides as of a transaction that was declared."""
    advance = steps._advance

    def hasty(record: TransactionRecord, todo: Any) -> Any:
        done = record.branches and all(each.step and each.step.done for each in record.branches)
        return advance(record._replace(workflow=None) if done else record, todo)

    monkeypatch.setattr(steps, "_advance", hasty)


def takes_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log does not look whether a step is the next one."""

    def blind(record: TransactionRecord, command: Extend) -> bool:
        return record.workflow is not None

    monkeypatch.setitem(transitions._HOLDS, transitions.Guard.NEXT_STEP, blind)
    grown = workflows.grown

    def longer(record: TransactionRecord, command: Any) -> Any:
        if isinstance(command, Extend):
            command = command._replace(number=len(record.branches) + 1)
        return grown(record, command)

    monkeypatch.setattr(workflows, "grown", longer)


def answers_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code hears of a step as soon as that is recorded, not when its answer is."""
    monkeypatch.setattr(protocol, "step_is_answered", lambda _: True)
    monkeypatch.setattr(workflows, "step_is_answered", lambda _: True)


def leaves_open_what_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded between the abort's proposal and the abort is not ended."""

    def careless(record: TransactionRecord, todo: Any) -> Any:
        commits = record.phase is Phase.COMMITTING
        asked = [
            each
            for each in record.branches
            if (rules_of(each).on_commit if commits else rules_of(each).on_abort) is not None
        ]
        return settle(record._replace(branches=tuple(asked)), todo)

    monkeypatch.setattr(steps, "settle", careless)


def begins_behind_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes over asks for everything again, as steps behind those that are recorded."""
    begin = Tx.__init__

    def forgetful(self: Tx, gid: str, begun_at_ms: int, recorded: int, *more: Any) -> None:
        begin(self, gid, begun_at_ms, recorded, *more)
        self.asked = recorded

    monkeypatch.setattr(Tx, "__init__", forgetful)


def tells_each_run_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code takes for the time is that of its worker."""
    monkeypatch.setattr(Tx, "now", lambda _: datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC))


def answers_with_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code hears of each step what the one before it has given."""

    def beside(record: TransactionRecord, number: int) -> Any:
        answer, before = protocol.answer_of(record, number), protocol.answer_of(record, number - 1)
        return replace(answer, result=before.result) if number > 1 and before.result is not None else answer

    monkeypatch.setattr(driver, "answer_of", beside)


def gives_no_answer_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that is run anew hears that its steps are done, and not what they have given."""
    begin = Tx.__init__

    def brief(self: Tx, gid: str, begun_at_ms: int, recorded: int, ask: Any, *more: Any) -> None:
        async def asked(number: int, step: Any) -> Any:
            answer = await ask(number, step)
            return answer.model_copy(update={"result": None}) if number <= recorded else answer

        begin(self, gid, begun_at_ms, recorded, asked, *more)

    monkeypatch.setattr(Tx, "__init__", brief)


def tells_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the result gets something else."""
    view_of = views._workflow_view
    monkeypatch.setattr(
        views, "_workflow_view", lambda workflow: view_of(workflow).model_copy(update={"result": "another"})
    )


def takes_an_unknown_begin_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether it is in the log, and its caller is told that it is."""
    start = driver.Workflows.start

    async def trusting(self: driver.Workflows, request: Any) -> TransactionRecord:
        try:
            return await start(self, request)
        except Undetermined:
            return TransactionRecord(request.gid, b"", Path.STEPS, Phase.PREPARING, (), 1, begun_at_ms=0)

    monkeypatch.setattr(driver.Workflows, "start", trusting)


def waits_for_a_worker_that_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has once begun to run a workflow is the only one that ever may."""
    is_free = Claims.is_free

    def waiting(self: Claims, gid: str, now: float) -> bool:
        claim = self._claims.get(gid)
        return is_free(self, gid, now) and (claim is None or claim.worker == "")

    monkeypatch.setattr(Claims, "is_free", waiting)


BREAKS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = MappingProxyType(
    {
        "what there is, is taken for all": takes_what_there_is_for_all,
        "a step of any number": takes_any_number,
        "an answer before it is recorded": answers_before_it_is_recorded,
        "what is asked for nothing stays open": leaves_open_what_is_asked_for_nothing,
        "a worker begins behind the record": begins_behind_the_record,
        "each run has another time": tells_each_run_another_time,
        "an answer is another step's": answers_with_the_step_before,
        "an answer is not given again": gives_no_answer_again,
        "another result is told": tells_another_result,
        "an unknown begin is taken for one": takes_an_unknown_begin_for_one,
        "a dead worker is waited for": waits_for_a_worker_that_is_dead,
    }
)
