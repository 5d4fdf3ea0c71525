"""What the participants of one transaction hold of it now, for a person who must decide or mend.

Owns: the questions, which change nothing, and how long they may take. Must never do: take silence for a state.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog

from coordinator.ledger.records import BranchRecord, Mode, TransactionRecord
from coordinator.ports import CallFailed, Participants
from coordinator.protocols.modes import Does, attempt_name
from coordinator.protocols.two_phase import contradictions
from participant.ids import BranchKey
from participant.wire import Answer, Operation, Verb

__all__ = ["EXAMINATION_TIMEOUT_S", "Examination", "Held", "examine"]

EXAMINATION_TIMEOUT_S = 2.0  # less than a client waits for one replica

_log = structlog.get_logger(__name__)


class Held(NamedTuple):
    """One branch: what its participant said, or why it said nothing (`error`). `damage`: it cannot be true together
    with the decision."""

    branch: BranchRecord
    answer: Answer | None
    error: str = ""
    damage: str = ""


class Examination(NamedTuple):
    """A record, and what is held of its branches."""

    record: TransactionRecord
    held: tuple[Held, ...]


async def examine(record: TransactionRecord, participants: Participants) -> Examination:
    """Ask every participant, all at once."""
    asked = [_ask(record.gid, branch, participants) for branch in record.branches]
    if asked:
        await asyncio.wait(asked, timeout=EXAMINATION_TIMEOUT_S)
    held = tuple([_held(record, branch, each) for branch, each in zip(record.branches, asked, strict=True)])
    return Examination(record, held)


def _ask(gid: str, branch: BranchRecord, participants: Participants) -> asyncio.Future[Answer]:
    name = branch.branch if branch.step is None else attempt_name(branch.branch, Does.RUN, branch.step.attempt)
    return participants.call(branch.participant, Operation(Verb.OUTCOME, BranchKey(gid, name)))


def _held(record: TransactionRecord, branch: BranchRecord, asked: asyncio.Future[Answer]) -> Held:
    if not asked.done():
        asked.cancel()
        return Held(branch, None, f"no answer within {EXAMINATION_TIMEOUT_S:g} s")
    error = asked.exception()
    if error is not None:
        if not isinstance(error, CallFailed):
            _log.error("examination.failed", gid=record.gid, branch=branch.branch, exc_info=error)
        return Held(branch, None, str(error) or type(error).__name__)
    answer = asked.result()
    is_step = branch.step is not None and branch.step.mode is not Mode.TWO_PHASE
    if record.decision is None or branch.ended or is_step:  # what has ended may be forgotten; a step is not told
        return Held(branch, answer)
    return Held(branch, answer, damage="; ".join(contradictions(branch, answer.state, record.decision)))
