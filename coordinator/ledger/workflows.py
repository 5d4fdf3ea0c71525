"""How the record of a workflow grows: the steps that its code asks for, and what has become of them. Pure.

A workflow is a transaction of steps that is not declared: some worker runs code, and each step that this asks for is
recorded before it is called, and answered from the record. Code that is run again asks for the same, in the same order,
so that it is answered without a call; what it asks is known by its digest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from coordinator.ledger.commands import BY_WORKFLOW, Decide, Diverge, Extend, Heard, Progress, Return
from coordinator.ledger.records import Asked, BranchRecord, Decision, Mode, TransactionRecord

__all__ = [
    "Growth",
    "StepState",
    "asks_next",
    "asks_the_same",
    "emptied",
    "grown",
    "is_answered",
    "noted",
    "step_is_answered",
]

Growth: TypeAlias = Extend | Return | Diverge


class StepState(StrEnum):
    """What has become of a step, as its code is told."""

    PENDING = "pending"  # not known yet
    DONE = "done"
    REFUSED = "refused"  # it is not done, and nothing is owed to it
    OVER = "over"  # the transaction is decided, so that nobody needs the code any more


def asks_next(record: TransactionRecord, command: Extend) -> bool:
    """Whether the step is one more than there are."""
    return record.workflow is not None and command.number == len(record.branches) + 1


def asks_the_same(record: TransactionRecord, command: Extend) -> bool:
    """Whether the step is there already, and no other one."""
    workflow = record.workflow
    if workflow is None or not 0 < command.number <= len(workflow.asked):
        return False
    return workflow.asked[command.number - 1].digest == command.digest


def is_answered(record: TransactionRecord, steps: int) -> bool:
    """Whether the code has asked for so many steps, and each of them is answered."""
    if record.workflow is None or len(record.branches) != steps:
        return False
    return all(step_is_answered(branch) for branch in record.branches)


def step_is_answered(branch: BranchRecord) -> bool:
    """Whether the record says what has become of an undecided workflow's step: done, or refused for good. A forward
    one is answered when it is recorded: it begins behind the decision."""
    return branch.ended or (branch.step is not None and (branch.step.done or branch.step.mode is Mode.FORWARD))


def grown(record: TransactionRecord, command: Growth) -> tuple[TransactionRecord, Decide | None]:
    """The record after a legal command, and the decision that it is, if it is one. The same record: it is a repeat.

    What a run before did not fit is forgotten when another one goes on.
    """
    workflow = record.workflow
    if workflow is None:
        raise ValueError(f"{record.gid} is no workflow")
    match command:
        case Extend() if command.number > len(record.branches):
            asked = (*workflow.asked, Asked(command.digest, command.at_ms))
            workflow = workflow._replace(asked=asked, diverged="")
            return record._replace(branches=(*record.branches, command.branch), workflow=workflow), None
        case Return() if record.decision is None:
            decide = Decide(command.gid, Decision.COMMIT, BY_WORKFLOW, command.at_ms, done=command.done)
            return record._replace(workflow=workflow._replace(result=command.result, diverged="")), decide
        case Diverge(why=why) if why != workflow.diverged:
            return record._replace(workflow=workflow._replace(diverged=why)), None
    return record, None


def noted(record: TransactionRecord, command: Progress) -> TransactionRecord:
    """The record before a note of progress, whose workflow knows why a step is given up, if it is."""
    if record.workflow is None or command.heard is not Heard.GIVEN_UP:
        return record
    why = command.result.decode("utf-8", "replace")
    pairs = zip(record.branches, record.workflow.asked, strict=True)
    asked = tuple([each._replace(refused=why) if b.branch == command.branch else each for b, each in pairs])
    return record._replace(workflow=record.workflow._replace(asked=asked))


def emptied(record: TransactionRecord) -> TransactionRecord:
    """Nobody runs the code of a transaction that is over."""
    return record if record.workflow is None else record._replace(workflow=record.workflow._replace(input=b""))
