"""Dead letters: messages that are set aside instead of being tried for ever, if they were declared so. Pure.

Only what nobody waits for can be set aside, and it is never dropped in silence: it stays in the record, open, with the
last reason, and is alarmed of (`protocols.stuck`), until a person has it delivered again, or gives it up. An attempt
whose answer is unknown keeps its name, so that what was delivered after all is not delivered twice.
"""

from __future__ import annotations

from coordinator.facts import BranchFacts, Facts
from coordinator.ledger.commands import Heard, Progress
from coordinator.ledger.records import BranchRecord, TransactionRecord
from coordinator.protocols.attempts import RUN_STATES
from coordinator.protocols.modes import Does, attempt_name, step_of
from coordinator.protocols.todo import Todo
from coordinator.protocols.two_phase import clean
from participant.values import packed, unpacked

__all__ = ["dead_letters", "has_taken", "is_settled_letter", "reason_of", "refusal_of", "set_aside", "wanted"]


def dead_letters(record: TransactionRecord) -> list[BranchRecord]:
    """The branches of a record for which a person must decide."""
    return [
        b for b in record.branches if not b.ended and b.step and (d := b.step.delivery) and d.dead and not d.dropped
    ]


def reason_of(branch: BranchRecord) -> str:
    """Why a message was set aside."""
    return str(unpacked(step_of(branch).result) or "refused")


def wanted(record: TransactionRecord, branch: BranchRecord, heard: Heard, word: str) -> Progress:
    """What the log is to hold when somebody wants a dead letter delivered again, or dropped."""
    return Progress(record.gid, branch.branch, step_of(branch).settling, heard, packed(clean(word), "word"))


def has_taken(record: TransactionRecord, note: Progress) -> bool:
    """Whether the record says what somebody wanted of a dead letter, and not what somebody else did."""
    word = str(unpacked(note.result) or "")
    return any(
        branch.branch == note.branch and (delivery := step_of(branch).delivery) is not None and delivery.word == word
        for branch in record.branches
    )


def is_settled_letter(branch: BranchRecord, facts: Facts) -> bool:
    """Whether nothing is owed any more to a dead letter: it was given up, or has been delivered after all."""
    step = step_of(branch)
    if step.delivery is None or not step.delivery.dead:
        return False
    return step.delivery.dropped or facts.of(attempt_name(branch.branch, Does.RUN, step.settling)).state in RUN_STATES


def refusal_of(gid: str, branch: BranchRecord, known: BranchFacts) -> Progress:
    """The note that an attempt behind the decision was refused; of what may be set aside, with the reason."""
    step = step_of(branch)
    reason = packed(clean(known.reason), "reason") if step.delivery is not None else b""
    return Progress(gid, branch.branch, step.settling, Heard.UNSETTLED, reason)


def set_aside(gid: str, branch: BranchRecord, known: BranchFacts, todo: Todo) -> Progress | None:
    """The note that a message is a dead letter now, if it is."""
    step, reason = step_of(branch), b""
    delivery = step.delivery
    if delivery is None:
        return None
    is_over = step.is_refused_enough
    if (
        delivery.age_max_ms
        and not delivery.word
        and not is_over
        and not known.in_flight
        and (step.settling > 1 or known.attempts)
    ):
        seen_at = todo.now if todo.facts.decided_at is None else todo.facts.decided_at
        due_at = seen_at + (step.not_before_ms + delivery.age_max_ms) / 1000
        is_over = todo.now >= due_at
        if not is_over:
            todo.wake(due_at)
        elif known.error or step.settling == 1:
            reason = packed(clean(f"not delivered within {delivery.age_max_ms} ms: {known.error}"), "reason")
    return Progress(gid, branch.branch, step.settling, Heard.SET_ASIDE, reason) if is_over else None
