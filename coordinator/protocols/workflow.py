"""Workflows: steps that are not declared, but asked for, one after the other, by code that some worker runs. Pure.

The engine is that of all steps (`protocols.steps`); what is different is who says what comes next. Rules:

- A step is recorded before it is called, and its answer before the code hears of it. So whoever runs the code anew gets
  the same answers to the same questions, up to where the record ends, and goes on from there. (The log of a
  computation's questions and answers stands for its state: Strom & Yemini, "Optimistic Recovery in Distributed
  Systems", ACM TOCS 3(3), 1985; for code that is deterministic between them.)
- What an earlier run has asked otherwise is a divergence: nothing is called, and a person must look.
- The return of the code is the decision to commit: every step is answered by then. Its exception is an abort.
- The pivot is the last step. Once it has succeeded, there is no abort; while nobody knows, there is no other step.
- What a step was asked for after is what was recorded as done by then: it is undone before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.ledger.commands import Heard, Progress, Return
from coordinator.ledger.records import BranchRecord, Mode, TransactionRecord
from coordinator.ledger.workflows import StepState, step_is_answered
from coordinator.protocols.declaration import Misdeclared, check_alone
from coordinator.protocols.modes import rules_of, step_of
from participant.values import unpacked

__all__ = ["Answer", "answer_of", "check_next", "placed", "refusal", "return_of", "step_name"]


@dataclass(frozen=True, slots=True)
class Answer:
    """To the code. `result` of what is done; `reason` of what was refused."""

    state: StepState
    result: Any = None
    reason: str = ""


def step_name(number: int) -> str:
    """What the branch of a workflow's step is called, numbered from 1."""
    return f"s{number}"


def answer_of(record: TransactionRecord, number: int) -> Answer:
    """What the record says of a step, which need not be there yet."""
    if record.decision is not None:
        return Answer(StepState.OVER)
    if record.workflow is None or number > len(record.branches):
        return Answer(StepState.PENDING)
    branch, asked = record.branches[number - 1], record.workflow.asked[number - 1]
    if not step_is_answered(branch):
        return Answer(StepState.PENDING)
    if asked.refused is not None:
        return Answer(StepState.REFUSED, reason=asked.refused)
    return Answer(StepState.DONE, unpacked(step_of(branch).result))


def check_next(record: TransactionRecord, branch: BranchRecord) -> None:
    """Whether the code may ask for this one next. Raises Misdeclared."""
    check_alone(branch)
    if step_of(branch).mode is Mode.SOURCE:
        raise Misdeclared(0, "step.mode", "a source decides alone, so that it is no step of a workflow")
    if step_of(branch).reporting is not None:
        raise Misdeclared(
            0, "step.reported", "the code of a workflow hears of what its step has given, and of no report"
        )
    if step_of(branch).delivery is not None:
        raise Misdeclared(0, "step.delivery", "a message of a workflow has no line to stand in, and is not set aside")
    pivot = next((b for b in record.branches if step_of(b).mode is Mode.PIVOT and not b.ended), None)
    if pivot is not None:
        raise Misdeclared(0, "step.mode", f"{pivot.branch} is the pivot, with which it is decided: no step comes after")
    if step_of(branch).mode is Mode.PIVOT and not all(map(step_is_answered, record.branches)):
        # What is refused beside it is for the code to hear, and the pivot would have decided by then.
        raise Misdeclared(0, "step.mode", "a pivot is asked for when every other step has been answered")


def placed(record: TransactionRecord, branch: BranchRecord) -> BranchRecord:
    """The branch after all that must be undone later than it."""
    if rules_of(branch).before is None:
        return branch
    done = tuple(each.branch for each in record.branches if step_of(each).done)
    return branch._replace(step=step_of(branch)._replace(after=done))


def refusal(record: TransactionRecord, branch: str, attempt: int, reason: str, *, is_last: bool) -> Progress:
    """What is noted of an attempt that was refused: the next one may begin; or there is none, and the code is to know
    why. Of what is declared, the last refusal is not noted, but decides."""
    if record.workflow is None or not is_last:
        return Progress(record.gid, branch, attempt, Heard.REFUSED)
    return Progress(record.gid, branch, attempt, Heard.GIVEN_UP, (reason or "refused").encode())


def return_of(record: TransactionRecord, steps: int, result: bytes) -> Return:
    """The decision that the code makes by its return."""
    done = tuple(branch.branch for branch in record.branches if rules_of(branch).on_commit is None)
    return Return(record.gid, steps, result, at_ms=0, done=done)
