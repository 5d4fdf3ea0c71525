"""The legal transitions of a transaction, as data. Whatever changes a record asks here first.

The theory. Two-phase commit with *presumed abort* (Mohan, Lindsay & Obermarck, "Transaction Management in the R*
Distributed Database Management System", ACM TODS 11(4), 1986, section 3): who finds no information about a transaction
takes it for aborted, so that an abort needs no record to be true. A participant may ask, though, while the record of
the branches is still on its way; so that the answer stays true, the ledger makes the abort of an unknown transaction
durable first: a record without branches, which refuses the late Begin.

The decision is a register that is written once. Gray & Lamport ("Consensus on Transaction Commit", ACM TODS 31(1),
2006, section 2) ask for *stability*: once a resource manager has entered the committed or the aborted state, it stays
there. Here the first decision in the log wins; a second equal one is accepted and changes nothing, a contrary one is
rejected. Who may decide depends on what could be true elsewhere:

- Commit needs every vote, and only the driver has heard them; so nobody else may commit.
- On the classic path an abort is safe as long as there is no decision, since nobody has been told to commit.
- On the one-phase path the participant decides, on the staged path the votes themselves do: an abort of anybody else
  could contradict a commit that has already happened. There only the driver decides, from what it has heard from
  the participants, or because it began the transaction and has told nobody anything; an operator asks the driver.
- Of a workflow, every answer that its code has heard is recorded first. So when the code has returned, the record
  itself says that every vote is in, and the return is the decision, unless another run has asked for one step more.
- An inquiry may abort only what nobody has recorded; a transaction on its way is left to its driver.
- In three phases, the participants may commit by themselves from *precommitting* on; so nobody aborts any more, unless
  they have, and no participant is asked to precommit before the record says so (Skeen, "Nonblocking Commit Protocols",
  SIGMOD 1981: no state lies beside both a commit and an abort). The rules of the participants are a table of their
  own, `participant.termination`.

A row says: in `phase` (None: the ledger does not hold the gid), `event` leads to `becomes`, if all its guards hold. An
event without a row is illegal. Rows are tried in order. Rows that lead back to their own phase are repeats: a command
may arrive twice, because a proposal whose leader died is made again. `docs/internals/states.md` is drawn from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.ledger.commands import (
    BY_DEADLINE,
    BY_EXPIRY,
    BY_INQUIRY,
    BY_OPERATOR,
    BY_PARTICIPANTS,
    BY_VOTES,
    BY_WORKFLOW,
    Begin,
    Command,
    Decide,
    Diverge,
    DropNotice,
    End,
    Heard,
    Notified,
    Precommit,
    Progress,
    Return,
)
from coordinator.ledger.records import Mode, Notice, Path, Phase, StepRecord, TransactionRecord
from coordinator.ledger.workflows import asks_next, asks_the_same, is_answered

__all__ = ["TRANSITIONS", "Event", "Guard", "Transition", "Why", "draw", "find"]


class Event(StrEnum):
    """What a command does to one transaction."""

    BEGIN = "begin"
    PRECOMMIT = "precommit"
    COMMIT = "commit"
    ABORT = "abort"
    PROGRESS = "progress"
    EXTEND = "extend"
    RETURN = "return"
    DIVERGE = "diverge"
    END = "end"
    NOTIFIED = "notified"
    DROP_NOTICE = "drop notice"
    FORGET = "forget"


class Guard(StrEnum):
    """A condition of a transition; `_HOLDS` says when it holds."""

    WELL_FORMED = "well formed"
    SAME_REQUEST = "same request"
    STEP_BEFORE = "of a step, before the decision"
    STEP_BEHIND = "of a step, behind the decision"
    NEXT_STEP = "next step of a workflow"
    SAME_STEP = "same step of a workflow"
    ANSWERED = "every step answered"
    OF_WORKFLOW = "of a workflow"
    FROM_VOTES = "from votes"
    IN_TWO_PHASES = "in two phases"
    IN_THREE_PHASES = "in three phases"
    PRECOMMITTED = "from those who have precommitted"
    FROM_PARTICIPANTS = "from participants"
    MAY_ABORT = "may abort"
    FROM_INQUIRY = "from inquiry"
    OWED = "some branch owed"
    SETTLED = "no branch owed"
    NOTICE_DUE = "notice due"
    END_UNTOLD = "end untold"
    TOLD = "no notice owed"


class Why(StrEnum):
    """Why a command was rejected."""

    UNKNOWN_GID = "unknown-gid"
    MALFORMED = "malformed"  # a Begin without branches, or with one of them twice
    OTHER_REQUEST = "other-request"  # the gid was begun with another digest, or made aborted before it was begun
    NOT_ALLOWED = "not-allowed"  # this decision is not up to whoever asks for it
    CONTRARY_DECISION = "contrary-decision"
    UNDECIDED = "undecided"
    UNFINISHED = "unfinished"
    OTHER_STEP = "other-step"  # a workflow has another step there, or not so many, or one that is not answered
    NO_STEP = "no-step"  # progress of something that is no step of this transaction, or has ended
    NO_NOTICE = "no-notice"  # nobody wants to be told, or not that yet, or all has been told


@dataclass(frozen=True, slots=True)
class Transition:
    """One row."""

    phase: Phase | None
    event: Event
    guards: tuple[Guard, ...]
    becomes: Phase | None


TRANSITIONS: tuple[Transition, ...] = (
    Transition(None, Event.BEGIN, (Guard.WELL_FORMED,), Phase.PREPARING),
    Transition(None, Event.ABORT, (Guard.FROM_INQUIRY,), Phase.ABORTED),
    Transition(Phase.PREPARING, Event.BEGIN, (Guard.SAME_REQUEST,), Phase.PREPARING),
    Transition(Phase.PREPARING, Event.PROGRESS, (Guard.STEP_BEFORE,), Phase.PREPARING),
    Transition(Phase.PREPARING, Event.EXTEND, (Guard.NEXT_STEP,), Phase.PREPARING),
    Transition(Phase.PREPARING, Event.EXTEND, (Guard.SAME_STEP,), Phase.PREPARING),
    Transition(Phase.PREPARING, Event.DIVERGE, (Guard.OF_WORKFLOW,), Phase.PREPARING),
    Transition(Phase.PREPARING, Event.RETURN, (Guard.ANSWERED, Guard.OWED), Phase.COMMITTING),
    Transition(Phase.PREPARING, Event.RETURN, (Guard.ANSWERED, Guard.SETTLED), Phase.COMMITTED),
    Transition(Phase.PREPARING, Event.PRECOMMIT, (Guard.IN_THREE_PHASES,), Phase.PRECOMMITTING),
    Transition(Phase.PREPARING, Event.COMMIT, (Guard.IN_TWO_PHASES, Guard.FROM_VOTES, Guard.OWED), Phase.COMMITTING),
    Transition(Phase.PREPARING, Event.COMMIT, (Guard.IN_TWO_PHASES, Guard.FROM_VOTES, Guard.SETTLED), Phase.COMMITTED),
    Transition(Phase.PREPARING, Event.ABORT, (Guard.MAY_ABORT, Guard.OWED), Phase.ABORTING),
    Transition(Phase.PREPARING, Event.ABORT, (Guard.MAY_ABORT, Guard.SETTLED), Phase.ABORTED),
    Transition(Phase.PRECOMMITTING, Event.BEGIN, (Guard.SAME_REQUEST,), Phase.PRECOMMITTING),
    Transition(Phase.PRECOMMITTING, Event.PRECOMMIT, (), Phase.PRECOMMITTING),
    Transition(Phase.PRECOMMITTING, Event.COMMIT, (Guard.PRECOMMITTED, Guard.OWED), Phase.COMMITTING),
    Transition(Phase.PRECOMMITTING, Event.COMMIT, (Guard.PRECOMMITTED, Guard.SETTLED), Phase.COMMITTED),
    Transition(Phase.PRECOMMITTING, Event.ABORT, (Guard.FROM_PARTICIPANTS, Guard.OWED), Phase.ABORTING),
    Transition(Phase.PRECOMMITTING, Event.ABORT, (Guard.FROM_PARTICIPANTS, Guard.SETTLED), Phase.ABORTED),
    Transition(Phase.COMMITTING, Event.BEGIN, (Guard.SAME_REQUEST,), Phase.COMMITTING),
    Transition(Phase.COMMITTING, Event.COMMIT, (), Phase.COMMITTING),
    Transition(Phase.COMMITTING, Event.RETURN, (Guard.OF_WORKFLOW,), Phase.COMMITTING),
    Transition(Phase.COMMITTING, Event.PROGRESS, (Guard.STEP_BEHIND,), Phase.COMMITTING),
    Transition(Phase.COMMITTING, Event.END, (Guard.OWED,), Phase.COMMITTING),
    Transition(Phase.COMMITTING, Event.END, (Guard.SETTLED,), Phase.COMMITTED),
    Transition(Phase.ABORTING, Event.BEGIN, (Guard.SAME_REQUEST,), Phase.ABORTING),
    Transition(Phase.ABORTING, Event.ABORT, (), Phase.ABORTING),
    Transition(Phase.ABORTING, Event.PROGRESS, (Guard.STEP_BEHIND,), Phase.ABORTING),
    Transition(Phase.ABORTING, Event.END, (Guard.OWED,), Phase.ABORTING),
    Transition(Phase.ABORTING, Event.END, (Guard.SETTLED,), Phase.ABORTED),
    Transition(Phase.COMMITTING, Event.NOTIFIED, (Guard.NOTICE_DUE,), Phase.COMMITTING),
    Transition(Phase.ABORTING, Event.NOTIFIED, (Guard.NOTICE_DUE,), Phase.ABORTING),
    Transition(Phase.COMMITTING, Event.DROP_NOTICE, (Guard.END_UNTOLD,), Phase.COMMITTING),
    Transition(Phase.ABORTING, Event.DROP_NOTICE, (Guard.END_UNTOLD,), Phase.ABORTING),
    Transition(Phase.COMMITTED, Event.BEGIN, (Guard.SAME_REQUEST,), Phase.COMMITTED),
    Transition(Phase.COMMITTED, Event.COMMIT, (), Phase.COMMITTED),
    Transition(Phase.COMMITTED, Event.RETURN, (Guard.OF_WORKFLOW,), Phase.COMMITTED),
    Transition(Phase.COMMITTED, Event.END, (), Phase.COMMITTED),
    Transition(Phase.COMMITTED, Event.NOTIFIED, (Guard.NOTICE_DUE,), Phase.COMMITTED),
    Transition(Phase.COMMITTED, Event.DROP_NOTICE, (Guard.END_UNTOLD,), Phase.COMMITTED),
    Transition(Phase.COMMITTED, Event.FORGET, (Guard.TOLD,), None),
    Transition(Phase.ABORTED, Event.BEGIN, (Guard.SAME_REQUEST,), Phase.ABORTED),
    Transition(Phase.ABORTED, Event.ABORT, (), Phase.ABORTED),
    Transition(Phase.ABORTED, Event.END, (), Phase.ABORTED),
    Transition(Phase.ABORTED, Event.NOTIFIED, (Guard.NOTICE_DUE,), Phase.ABORTED),
    Transition(Phase.ABORTED, Event.DROP_NOTICE, (Guard.END_UNTOLD,), Phase.ABORTED),
    Transition(Phase.ABORTED, Event.FORGET, (Guard.TOLD,), None),
)


def find(record: TransactionRecord | None, event: Event, command: Command) -> Transition | Why:
    """The transition that `command` causes, or why there is none."""
    phase = None if record is None else record.phase
    why = _without_row(phase, event)
    for row in _ROWS.get((phase, event), ()):
        for guard in row.guards:
            if not _HOLDS[guard](record, command):
                why = _WITHOUT_GUARD.get(guard, why)
                break
        else:
            return row
    return why


def draw() -> str:
    """The table as a Mermaid state diagram (without repeats) and as a Markdown table of every row."""
    arrows = (
        f"    {_shown(row.phase)} --> {_shown(row.becomes)}: {_label(row)}"
        for row in TRANSITIONS
        if row.phase is not row.becomes
    )
    rows = (
        f"| {row.phase or 'absent'} | {row.event} | {' and '.join(row.guards)} | {row.becomes or 'absent'} |"
        for row in TRANSITIONS
    )
    header = ("| phase | event | if | becomes |", "|---|---|---|---|")
    return "\n".join(("```mermaid", "stateDiagram-v2", *arrows, "```", "", *header, *rows, ""))


def _without_row(phase: Phase | None, event: Event) -> Why:
    if phase is None:
        return Why.UNKNOWN_GID
    if event in (Event.END, Event.NOTIFIED, Event.DROP_NOTICE):
        return Why.UNDECIDED
    if event in (Event.PROGRESS, Event.DIVERGE):
        return Why.NO_STEP
    return Why.UNFINISHED if event is Event.FORGET else Why.CONTRARY_DECISION


# A guard reads only commands of the events that it stands at in the table; its annotations say which.


def _well_formed(_: None, command: Begin) -> bool:
    if command.workflow is not None:
        return not command.branches
    return 0 < len({branch.branch for branch in command.branches}) == len(command.branches)


def _same_request(record: TransactionRecord, command: Begin) -> bool:
    return record.digest == command.digest


_OF_ACTION = frozenset((Heard.BEGUN, Heard.REPORTED, Heard.DECLINED))  # heard while its action counts
_OF_MESSAGE = frozenset((Heard.SET_ASIDE, Heard.REDELIVERED, Heard.DROPPED))


_ONLY_BEHIND = _OF_MESSAGE | {Heard.UNSETTLED}


def _step_before(record: TransactionRecord, command: Progress) -> bool:
    if command.heard is Heard.GIVEN_UP and record.workflow is None:
        return False
    step = _open_step(record, command.branch)
    return step is not None and step.mode is not Mode.FORWARD and command.heard not in _ONLY_BEHIND


def _step_behind(record: TransactionRecord, command: Progress) -> bool:
    step = _open_step(record, command.branch)
    if step is None or command.heard not in _OF_ACTION | _OF_MESSAGE:
        return step is not None and command.heard is Heard.UNSETTLED
    return step.mode is Mode.FORWARD and record.phase is Phase.COMMITTING


def _open_step(record: TransactionRecord, name: str) -> StepRecord | None:
    return next((branch.step for branch in record.branches if branch.branch == name and not branch.ended), None)


def _answered(record: TransactionRecord, command: Return) -> bool:
    return is_answered(record, command.steps)


def _of_workflow(record: TransactionRecord, _: Diverge | Return) -> bool:
    return record.workflow is not None


def _from_votes(_: TransactionRecord, command: Decide) -> bool:
    return command.by == BY_VOTES


def _in_three_phases(record: TransactionRecord, _: Precommit) -> bool:
    return record.path.is_three_phase


def _in_two_phases(record: TransactionRecord, _: Decide) -> bool:
    return not record.path.is_three_phase


def _precommitted(_: TransactionRecord, command: Decide) -> bool:
    return command.by in (BY_VOTES, BY_PARTICIPANTS)


def _from_participants(_: TransactionRecord, command: Decide) -> bool:
    return command.by == BY_PARTICIPANTS


def _may_abort(record: TransactionRecord, command: Decide) -> bool:
    by_driver = command.by in (BY_VOTES, BY_DEADLINE, BY_WORKFLOW) or command.by.startswith(BY_EXPIRY)
    return by_driver or (command.by.startswith(BY_OPERATOR) and record.path is Path.CLASSIC)


def _from_inquiry(_: None, command: Decide) -> bool:
    return command.by == BY_INQUIRY


def _owed(record: TransactionRecord, command: Decide | End | Return) -> bool:
    settled = command.branches if isinstance(command, End) else command.done
    for branch in record.branches:  # noqa: SIM110  # a generator costs more, and every replica passes here
        if not branch.ended and branch.branch not in settled:
            return True
    return False


def _settled(record: TransactionRecord, command: Decide | End | Return) -> bool:
    return not _owed(record, command)


def _notice_due(record: TransactionRecord, command: Notified) -> bool:
    return bool(record.notify) and (command.notice is Notice.DECIDED or record.ended)


def _end_untold(record: TransactionRecord, _: DropNotice) -> bool:
    return bool(record.notify) and record.notified is not Notice.ENDED


def _told(record: TransactionRecord, _: Command) -> bool:
    return record.notice_owed is Notice.NONE


_HOLDS: dict[Guard, Callable[[Any, Any], bool]] = {
    Guard.WELL_FORMED: _well_formed,
    Guard.SAME_REQUEST: _same_request,
    Guard.STEP_BEFORE: _step_before,
    Guard.STEP_BEHIND: _step_behind,
    Guard.NEXT_STEP: asks_next,
    Guard.SAME_STEP: asks_the_same,
    Guard.ANSWERED: _answered,
    Guard.OF_WORKFLOW: _of_workflow,
    Guard.FROM_VOTES: _from_votes,
    Guard.IN_TWO_PHASES: _in_two_phases,
    Guard.IN_THREE_PHASES: _in_three_phases,
    Guard.PRECOMMITTED: _precommitted,
    Guard.FROM_PARTICIPANTS: _from_participants,
    Guard.MAY_ABORT: _may_abort,
    Guard.FROM_INQUIRY: _from_inquiry,
    Guard.OWED: _owed,
    Guard.SETTLED: _settled,
    Guard.NOTICE_DUE: _notice_due,
    Guard.END_UNTOLD: _end_untold,
    Guard.TOLD: _told,
}

_WITHOUT_GUARD = {
    Guard.WELL_FORMED: Why.MALFORMED,
    Guard.SAME_REQUEST: Why.OTHER_REQUEST,
    Guard.STEP_BEFORE: Why.NO_STEP,
    Guard.STEP_BEHIND: Why.NO_STEP,
    Guard.NEXT_STEP: Why.OTHER_STEP,
    Guard.SAME_STEP: Why.OTHER_STEP,
    Guard.ANSWERED: Why.OTHER_STEP,
    Guard.OF_WORKFLOW: Why.NO_STEP,
    Guard.FROM_VOTES: Why.NOT_ALLOWED,
    Guard.IN_TWO_PHASES: Why.NOT_ALLOWED,
    Guard.IN_THREE_PHASES: Why.NOT_ALLOWED,
    Guard.PRECOMMITTED: Why.NOT_ALLOWED,
    Guard.FROM_PARTICIPANTS: Why.NOT_ALLOWED,
    Guard.MAY_ABORT: Why.NOT_ALLOWED,
    Guard.NOTICE_DUE: Why.NO_NOTICE,
    Guard.END_UNTOLD: Why.NO_NOTICE,
    Guard.TOLD: Why.UNFINISHED,
}

_ROWS: dict[tuple[Phase | None, Event], tuple[Transition, ...]] = {
    (phase, event): tuple(row for row in TRANSITIONS if row.phase is phase and row.event is event)
    for phase, event in {(row.phase, row.event) for row in TRANSITIONS}
}


def _shown(phase: Phase | None) -> str:
    return "[*]" if phase is None else phase


def _label(row: Transition) -> str:
    return f"{row.event} [{', '.join(row.guards)}]" if row.guards else str(row.event)
