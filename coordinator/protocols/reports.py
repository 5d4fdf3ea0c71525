"""Steps that take long: their action only begins the work, and whoever has done it reports. Pure.

The action gets a *token*. It names the transaction, the step and the attempt, and holds a secret of the step, which was
drawn when the transaction was begun and stands in its record: so whoever has the token can report, at any replica, and
nobody else. A step is done when its action has committed *and* has been reported as done. Nothing is reported of an
attempt whose action was refused: that has begun nothing.

A report is a note in the record like any other. The first one counts; the same again is a repeat, whatever has been
decided meanwhile, because the answer to the first may have been lost.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import NamedTuple

from coordinator.ledger.commands import Heard, Progress
from coordinator.ledger.records import Decision, Report, StepRecord, TransactionRecord
from coordinator.protocols.modes import is_behind, step_of

__all__ = ["Misreport", "Misreported", "judge_report", "token_of"]

_PARTS = "/"  # stands in no name
_ATTEMPT_DIGITS_MAX = 9
_HEARD = {Report.DONE: Heard.REPORTED, Report.REFUSED: Heard.DECLINED}


class Misreport(StrEnum):
    """What is wrong with a report."""

    NO_STEP = "no step"
    NOT_REPORTED = "not reported"
    WRONG_TOKEN = "wrong token"  # noqa: S105 (a word, no secret)
    TOO_LATE = "too late"


class Misreported(NamedTuple):
    """`why` is for people."""

    kind: Misreport
    why: str


def token_of(gid: str, branch: str, step: StepRecord, attempt: int | None = None) -> str:
    """The token of an attempt, the current one if none is named. Raises ValueError for a step that is not reported."""
    if step.reporting is None:
        raise ValueError(f"{branch} is not reported")
    return _PARTS.join((gid, branch, str(attempt or step.running), step.reporting.secret))


def judge_report(
    record: TransactionRecord, name: str, token: str, report: Report, word: bytes
) -> Progress | Misreported | None:
    """What a report of the step `name` leads to: a note for the log, nothing for a repeat, or what is wrong with it.

    `word`: the result, which is kept if somebody takes it, or the reason why not; packed.
    """
    branch = next((branch for branch in record.branches if branch.branch == name), None)
    if branch is None or branch.step is None:
        return Misreported(Misreport.NO_STEP, f"{record.gid} has no step {name!r}")
    step = branch.step
    if step.reporting is None:
        return Misreported(Misreport.NOT_REPORTED, f"step {name} of {record.gid} was not declared with `reported`")
    attempt = _attempt_in(token, step)
    if not hmac.compare_digest(token.encode(), token_of(record.gid, name, step, attempt).encode()):
        return Misreported(Misreport.WRONG_TOKEN, f"this is not the token that the action of step {name} was given")
    heard = step.reporting.heard if attempt == step.running else Report.REFUSED  # so each former attempt has ended
    if heard is report:
        return None
    if heard is not None:
        return Misreported(Misreport.TOO_LATE, f"attempt {attempt} of step {name} was {_SAID[heard]} before")
    if _is_decided(record, step) or branch.ended:
        return Misreported(Misreport.TOO_LATE, f"{record.gid} was decided before: {record.phase}")
    is_kept = report is Report.REFUSED or any(name == source for b in record.branches for _, source in step_of(b).takes)
    return Progress(record.gid, name, attempt, _HEARD[report], word if is_kept else b"")


_SAID = {Report.DONE: "reported as done", Report.REFUSED: "refused"}


def _is_decided(record: TransactionRecord, step: StepRecord) -> bool:
    """Whether nobody waits for the report any more."""
    return record.decision is not (Decision.COMMIT if is_behind(step) else None)


def _attempt_in(token: str, step: StepRecord) -> int:
    """The attempt that a token names, the current one if it names none that there was."""
    named = token.split(_PARTS)[2:3]
    attempts = [int(text) for text in named if text.isdecimal() and len(text) <= _ATTEMPT_DIGITS_MAX]
    return next((attempt for attempt in attempts if 1 <= attempt <= step.running), step.running)
