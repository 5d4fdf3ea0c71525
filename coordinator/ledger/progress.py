"""What a note of its progress makes of a step. Pure."""

from __future__ import annotations

from coordinator.ledger.commands import Heard, Progress
from coordinator.ledger.records import BranchRecord, Mode, Report, Reporting, StepRecord
from participant.values import unpacked

__all__ = ["advanced"]


def advanced(branch: BranchRecord, command: Progress) -> BranchRecord:
    """A branch after a note of its progress. A repeat, and what comes too late, changes nothing."""
    step = branch.step
    if step is None or branch.branch != command.branch:
        return branch
    match command.heard:
        case Heard.UNSETTLED if command.attempt == step.settling:
            later = step._replace(settling=step.settling + 1)
            # A refused confirm or undo takes nothing from what was reported of the action.
            step = _refused_message(_anew(later) if step.mode is Mode.FORWARD else later, step, command)
        case Heard.REFUSED if command.attempt == step.attempt and not step.done:
            step = _anew(step._replace(attempt=step.attempt + 1))
        case Heard.DONE if command.attempt == step.attempt:
            step = step._replace(done=True, result=command.result)
        case Heard.GIVEN_UP if command.attempt == step.attempt and not step.done:
            return branch._replace(ended=True, body=b"")
        case Heard.BEGUN | Heard.REPORTED | Heard.DECLINED if command.attempt == step.running:
            step = _reported(step, command)
        case Heard.SET_ASIDE | Heard.REDELIVERED | Heard.DROPPED if command.attempt == step.settling:
            step = _set_aside(step, command)
    return branch._replace(step=step)


def _anew(step: StepRecord) -> StepRecord:
    """Nothing is known yet of the attempt that counts now."""
    if step.reporting is None:
        return step
    return step._replace(reporting=Reporting(step.reporting.field, step.reporting.secret), result=b"")


def _reported(step: StepRecord, command: Progress) -> StepRecord:
    """The first report counts. What comes before the decision is done, once it has begun and is reported so."""
    reporting = step.reporting
    if reporting is None:
        return step
    if command.heard is Heard.BEGUN:
        step = step._replace(reporting=reporting._replace(begun=True))
    elif reporting.heard is None:
        heard = Report.DONE if command.heard is Heard.REPORTED else Report.REFUSED
        step = step._replace(reporting=reporting._replace(heard=heard), result=command.result)
    done = step.mode is not Mode.FORWARD and step.reporting is not None and step.reporting.is_done
    return step._replace(done=step.done or done)


def _refused_message(step: StepRecord, before: StepRecord, command: Progress) -> StepRecord:
    """Of what may be set aside, the last reason is kept."""
    return step if step.delivery is None else step._replace(result=command.result or before.result)


def _set_aside(step: StepRecord, command: Progress) -> StepRecord:
    """A message that becomes a dead letter, or is one and is delivered once more, or given up. After it was delivered
    once more, the note that it was set aside may come a second time, and no longer counts."""
    delivery = step.delivery
    if delivery is None or delivery.dropped or delivery.dead is (command.heard is Heard.SET_ASIDE):
        return step
    if command.heard is Heard.SET_ASIDE:
        if not step.is_refused_enough and (not delivery.age_max_ms or delivery.word):
            return step
        dead = delivery._replace(dead=True, turn=False)
        return step._replace(delivery=dead, result=command.result or step.result)
    word = str(unpacked(command.result) or "")
    if command.heard is Heard.DROPPED:
        return step._replace(delivery=delivery._replace(dropped=True, word=word))
    return step._replace(delivery=delivery._replace(dead=False, spared=step.settling - 1, word=word))
