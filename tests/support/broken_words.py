"""What people say of steps and messages, broken on purpose, one rule at a time: reports, the order of a key, what
is set aside. Whatever looks for defects must find each of these."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from coordinator.driver import service
from coordinator.driver.intake import report_of
from coordinator.driver.service import Transactions
from coordinator.errors import Contradiction
from coordinator.ledger import lines, progress
from coordinator.ledger.commands import Heard, Progress
from coordinator.ledger.lines import Lines
from coordinator.ledger.records import BranchRecord, Decision, Report, StepRecord, TransactionRecord
from coordinator.protocols import settle, steps
from coordinator.protocols.reports import Misreport, Misreported, judge_report
from coordinator.wire_steps import ReportRequest

__all__ = ["BREAKS"]


def needs_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is done when its action has run, as if nobody were to report it."""
    is_done = steps._Before.is_done

    def hasty(before: Any) -> bool:
        return bool(is_done.__get__(before) or before.has_begun)

    monkeypatch.setattr(steps._Before, "is_done", property(hasty))


def answers_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reports is answered while the report is on its way into the log."""

    async def hasty(self: Any, gid: str, name: str, request: ReportRequest) -> BranchRecord:
        report, word = report_of(request)
        self._supervisor.require_leading()
        record = self._ledger.get(gid)
        verdict = judge_report(record, name, request.token, report, word)
        if isinstance(verdict, Misreported):
            raise service._misreported(verdict)
        if verdict is not None:
            asyncio.ensure_future(self._scribe.propose(verdict)).add_done_callback(lambda done: done.exception())
        branch: BranchRecord = next(branch for branch in record.branches if branch.branch == name)
        return branch

    monkeypatch.setattr(Transactions, "report", hasty)


def refuses_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reports the same again hears that nobody waits for it."""

    take = Transactions.report

    async def strict(self: Any, gid: str, name: str, request: ReportRequest) -> BranchRecord:
        record = self._ledger.get(gid)
        if record is not None and judge_report(record, name, request.token, *report_of(request)) is None:
            raise Contradiction(f"{name} of {gid} was reported before")
        return await take(self, gid, name, request)

    monkeypatch.setattr(Transactions, "report", strict)


def lets_the_last_report_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reports otherwise than somebody before him is believed."""
    reported = progress._reported

    def judged(record: TransactionRecord, name: str, token: str, report: Report, word: bytes) -> Any:
        verdict = judge_report(record, name, token, report, word)
        if not isinstance(verdict, Misreported) or verdict.kind is not Misreport.TOO_LATE:
            return verdict
        attempt = int(token.split("/")[2])
        return Progress(record.gid, name, attempt, Heard.REPORTED if report is Report.DONE else Heard.DECLINED, word)

    def noted(step: StepRecord, command: Progress) -> StepRecord:
        if step.reporting is not None and command.heard is not Heard.BEGUN:
            step = step._replace(reporting=step.reporting._replace(heard=None))
        return reported(step, command)

    monkeypatch.setattr(service, "judge_report", judged)
    monkeypatch.setattr(progress, "_reported", noted)


def takes_a_refusal_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reported as refused is noted as done."""
    monkeypatch.setattr(service, "report_of", lambda request: (Report.DONE, b""))


def sends_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is sent though others of its key stand before it."""
    placed = Lines._placed

    def impatient(self: Any, record: TransactionRecord, branch: BranchRecord, joined: int) -> BranchRecord:
        branch = placed(self, record, branch, joined)
        step = branch.step
        if step is None or step.delivery is None:
            return branch
        return branch._replace(step=step._replace(delivery=step.delivery._replace(turn=True)))

    monkeypatch.setattr(Lines, "_placed", impatient)


def lets_a_dead_letter_hold_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is set aside stays where it stands."""

    def stays(record: TransactionRecord, branch: BranchRecord) -> bool:
        return branch.ended or record.decision is Decision.ABORT

    monkeypatch.setattr(lines, "_has_left", stays)


def sets_nothing_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is tried for ever, however it was declared."""
    monkeypatch.setattr(settle, "set_aside", lambda *_: None)


def drops_what_is_to_be_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever somebody says of a dead letter, it is dropped."""
    set_aside = progress._set_aside

    def drops(step: StepRecord, command: Progress) -> StepRecord:
        is_word = command.heard is Heard.REDELIVERED
        return set_aside(step, command._replace(heard=Heard.DROPPED) if is_word else command)

    monkeypatch.setattr(progress, "_set_aside", drops)


BREAKS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = MappingProxyType(
    {
        "no report is needed": needs_no_report,
        "a report is answered before the record": answers_before_it_is_recorded,
        "a repeated report is refused": refuses_a_repeat,
        "the last report counts": lets_the_last_report_count,
        "a refusal is taken for a report": takes_a_refusal_for_a_report,
        "a message before its turn": sends_before_its_turn,
        "a dead letter holds its line": lets_a_dead_letter_hold_its_line,
        "nothing is set aside": sets_nothing_aside,
        "what is to be delivered is dropped": drops_what_is_to_be_delivered,
    }
)
