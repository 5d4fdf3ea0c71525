"""`protocols.steps` and `protocols.settle` broken on purpose, one rule at a time: whatever looks for defects must find
each of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from coordinator.effects import Haste
from coordinator.facts import Facts
from coordinator.ledger.commands import Decide, Heard, Progress
from coordinator.ledger.records import BranchRecord, Mode, Phase, Report, TransactionRecord
from coordinator.protocols import settle, steps
from coordinator.protocols.modes import Does, attempt_name, step_of
from coordinator.protocols.todo import Todo
from coordinator.protocols.two_phase import Plan, begin_of
from participant.wire import BranchState

__all__ = ["BREAKS", "Break"]

Break = Callable[[pytest.MonkeyPatch], None]


def undoes_without_preventing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known to have run is taken for what never will."""
    has_done = settle._has_done

    def trusting(record: TransactionRecord, branch: BranchRecord, does: Does, todo: Todo) -> bool:
        step = step_of(branch)
        ran = todo.facts.of(attempt_name(branch.branch, Does.RUN, step.attempt))
        if does is Does.UNDO and not step.done and ran.state is not BranchState.COMMITTED:
            return True
        return has_done(record, branch, does, todo)

    monkeypatch.setattr(settle, "_has_done", trusting)


def aborts_without_preventing_the_pivot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline decides, whether the pivot may have been called or not."""
    verdict = steps._verdict

    def hasty(record: Any, of: Any, has_pivot: bool, late: bool, expiry: Any) -> Decide | None:
        return verdict(record, of, False, late, expiry)

    monkeypatch.setattr(steps, "_verdict", hasty)


def begins_anew_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused step is begun anew at once, while that is on its way into the log."""
    before = steps._before

    def hasty(record: TransactionRecord, facts: Facts) -> Any:
        found = before(record, facts)
        for name, each in found.items():
            step = each.step
            if each.is_refused and not each.is_last and record.phase is Phase.PREPARING:
                following = attempt_name(name, each.does, step.attempt + 1)
                found[name] = each._replace(
                    step=step._replace(attempt=step.attempt + 1), attempt=following, known=facts.of(following)
                )
        return found

    def unnoted(record: Any, of: Any, late: Any, verdict: Any, todo: Any) -> bool:
        for name, branch in ((branch.branch, branch) for branch in record.branches):
            refused = facts_of(branch, todo.facts)
            if refused is not None and verdict is None and not late:
                todo.propose(Progress(record.gid, name, refused, Heard.REFUSED), Haste.NOW)
        return note(record, of, late, verdict, todo)

    def facts_of(branch: BranchRecord, facts: Facts) -> int | None:
        step = step_of(branch)
        known = facts.of(attempt_name(branch.branch, Does.RUN, step.attempt))
        is_refused = known.state is BranchState.ABORTED and step.attempt < step.retry.attempts_max
        return step.attempt if is_refused else None

    note = steps._note
    monkeypatch.setattr(steps, "_before", hasty)
    monkeypatch.setattr(steps, "_note", unnoted)


def decides_before_the_results_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision does not wait for the results that are needed behind it."""
    note = steps._note

    def hasty(record: Any, of: Any, late: bool, verdict: Decide | None, todo: Todo) -> bool:
        note(record, of, late, verdict, todo)
        return False

    monkeypatch.setattr(steps, "_note", hasty)


def calls_before_the_record_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are called while the record of them is on its way into the log."""

    def hasty(plan: Plan, todo: Todo) -> Any:
        begin = begin_of(plan)
        todo.propose(begin, Haste.NOW)
        record = TransactionRecord(
            plan.gid, plan.digest, plan.path, Phase.PREPARING, plan.branches, plan.deadline_ms, begun_at_ms=0
        )
        for each in steps._before(record, todo.facts).values():
            if not each.step.after and each.step.mode is not Mode.PIVOT and not each.is_done and not each.is_refused:
                steps._call_before(record, each, todo)
        return todo.step()

    monkeypatch.setattr(steps, "_begin", hasty)


def undoes_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is undone at once."""
    is_free = settle._is_free

    def eager(record: Any, branch: Any, does: Does, settled: set[str]) -> bool:
        return does is Does.UNDO or is_free(record, branch, does, settled)

    monkeypatch.setattr(settle, "_is_free", eager)


def undoes_before_what_comes_later_through_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step waits for what comes directly after it only."""

    def direct(record: TransactionRecord, names: Iterable[str]) -> set[str]:
        found = set(names)
        return found | {b.branch for b in record.branches if not found.isdisjoint(step_of(b).after)}

    for module in (steps, settle):
        monkeypatch.setattr(module, "with_followers", direct)


def believes_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reported as done is done, whether its action has run or not."""
    is_done = steps._Before.is_done

    def believing(before: Any) -> bool:
        reporting = before.step.reporting
        return is_done.__get__(before) or (reporting is not None and reporting.heard is Report.DONE)

    monkeypatch.setattr(steps._Before, "is_done", property(believing))


def runs_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is called whether the one that it comes after is done or not."""
    is_due = steps._is_due

    def hasty(each: Any, of: Any, todo: Todo) -> bool:
        return is_due(each._replace(step=each.step._replace(after=())), of, todo)

    monkeypatch.setattr(steps, "_is_due", hasty)


def waits_for_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a step is called as soon as its action has run, though somebody has yet to report it."""
    is_due = steps._is_due

    def hasty(each: Any, of: Any, todo: Todo) -> bool:
        begun = {name: other._replace(step=other.step._replace(reporting=None)) for name, other in of.items()}
        return is_due(each, begun, todo)

    monkeypatch.setattr(steps, "_is_due", hasty)


def forgets_what_was_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is reported as refused is taken for what has never run."""
    settled_by_abort = steps._settled_by_abort

    def hasty(record: TransactionRecord, of: Any) -> tuple[str, ...]:
        return (*settled_by_abort(record, of), *(name for name, each in of.items() if each.is_declined))

    monkeypatch.setattr(steps, "_settled_by_abort", hasty)


BREAKS: Mapping[str, Break] = MappingProxyType(
    {
        "undo without preventing": undoes_without_preventing,
        "the pivot is not prevented": aborts_without_preventing_the_pivot,
        "the next attempt before the record of the last": begins_anew_before_it_is_recorded,
        "the decision before the results": decides_before_the_results_are_recorded,
        "a call before the record": calls_before_the_record_is_there,
        "steps in any order": runs_in_any_order,
        "undo in any order": undoes_in_any_order,
        "undo in the order of neighbours only": undoes_before_what_comes_later_through_others,
        "a report counts before its action has run": believes_reports,
        "a step does not wait for the report of the one before it": waits_for_no_report,
        "what was reported as refused is not undone": forgets_what_was_declined,
    }
)
