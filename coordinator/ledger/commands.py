"""Every command that the ledger knows, and its bytes in the log.

A command is a msgpack array: [COMMANDS_VERSION, tag, fields...]; a branch in it is [branch, participant, action,
body, works], in a transaction of steps followed by [mode, after, confirm, undo, takes, retry, not_before_ms,
reporting, delivery]. Fields that were added later are the last ones, and left out where nothing from there on says
anything. Golden bytes of the version are kept in `tests/unit/coordinator/ledger/test_commands.py`; a version that this
code does not know is fatal, because guessing would let replicas diverge.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import msgpack

from coordinator.ledger.branch_bytes import branch_fields, branch_of, branch_with_step, fields_with_step
from coordinator.ledger.errors import CommandError
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Notice,
    Path,
    WorkflowRecord,
    telling,
)
from coordinator.ledger.shapes import ARRAY, BYTES, INT, TEXT, TEXT_OR_NIL, Shape, member_of, texts

__all__ = [
    "BY_DEADLINE",
    "BY_EXPIRY",
    "BY_INQUIRY",
    "BY_OPERATOR",
    "BY_PARTICIPANTS",
    "BY_VOTES",
    "BY_WORKFLOW",
    "COMMANDS_VERSION",
    "Begin",
    "Command",
    "Decide",
    "Diverge",
    "DropNotice",
    "End",
    "Extend",
    "Forget",
    "Heard",
    "Notified",
    "Precommit",
    "Progress",
    "Return",
    "decode",
    "encode",
]

COMMANDS_VERSION = 2

# Who decides (`Decide.by`).
BY_VOTES = "votes"  # the driver, from what the participants said
BY_DEADLINE = "deadline"  # the driver, because a vote did not come in time
BY_EXPIRY = "deadline set by "  # a prefix: the driver, whom this operator told not to wait any longer
BY_INQUIRY = "inquiry"  # a participant in doubt asked for a transaction that nobody recorded
BY_WORKFLOW = "workflow"  # the code of a workflow, by its return or its exception
BY_PARTICIPANTS = "participants"  # the driver, because they have decided among themselves (three phases only)
BY_OPERATOR = "operator "  # a prefix: the operator's name follows


class Begin(NamedTuple):
    """The branches of a transaction, before any of them is bound by a decision. All of them open. A workflow begins
    without any. `trace`, `key` and `notify` as in the record."""

    gid: str
    digest: bytes
    path: Path
    branches: tuple[BranchRecord, ...]
    deadline_ms: int
    at_ms: int
    trace: str = ""
    key: str = ""
    notify: str = ""
    workflow: WorkflowRecord | None = None


class Precommit(NamedTuple):
    """Every branch of a transaction in three phases has voted yes. From here on the coordinator alone may not abort."""

    gid: str


class Decide(NamedTuple):
    """The decision; the first one in the log wins. `done` names branches that need no phase two (read-only, or
    voted no). Abort of an unknown gid leaves a record without branches, so that a late Begin is refused."""

    gid: str
    decision: Decision
    by: str
    at_ms: int
    reason: str = ""
    culprit: str | None = None
    done: tuple[str, ...] = ()


class End(NamedTuple):
    """These branches confirmed the decision; nobody waits for it, so it rides along with other entries."""

    gid: str
    branches: tuple[str, ...]


class Heard(StrEnum):
    """What a participant has said of an attempt of a step."""

    DONE = "done"  # what comes before the decision has succeeded
    REFUSED = "refused"  # it was refused; the next attempt may begin
    UNSETTLED = "unsettled"  # what follows the decision was refused; the next attempt may begin
    BEGUN = "begun"  # the action of a step that is reported has committed; its work may go on
    REPORTED = "reported"  # somebody has reported that this work is done
    DECLINED = "declined"  # somebody has reported that it will not be done
    SET_ASIDE = "set aside"  # a message was refused too often, or is too old: it is a dead letter now
    REDELIVERED = "redelivered"  # somebody wants a dead letter delivered once more
    DROPPED = "dropped"  # somebody has given it up
    GIVEN_UP = "given up"  # of a workflow: it was refused for good, and the code is to hear of it


class Progress(NamedTuple):
    """How far one step has come, on the path STEPS. `result`, packed: what it gave, if it is DONE and somebody takes
    it, or REPORTED; why not, if it is DECLINED, SET_ASIDE, or an UNSETTLED message with a delivery; who wants it, and
    why, if it is REDELIVERED or DROPPED; the reason in UTF-8, if it is GIVEN_UP."""

    gid: str
    branch: str
    attempt: int
    heard: Heard
    result: bytes = b""


class Extend(NamedTuple):
    """The code of a workflow asks for its `number`-th step, from 1. The digest is that of what it asks."""

    gid: str
    number: int
    digest: bytes
    branch: BranchRecord
    at_ms: int


class Return(NamedTuple):
    """The code of a workflow has returned after so many steps, each of them answered: that is the decision to commit.
    `result`: what it gave, packed; `done` as in `Decide`."""

    gid: str
    steps: int
    result: bytes
    at_ms: int
    done: tuple[str, ...] = ()


class Diverge(NamedTuple):
    """A run of the code of a workflow did not fit what is recorded of earlier runs, and why."""

    gid: str
    why: str


class Notified(NamedTuple):
    """The application has taken this notice."""

    gid: str
    notice: Notice


class DropNotice(NamedTuple):
    """The application is told no more of this, neither now nor at its end. `word`: who wants it so, and why."""

    gid: str
    word: str


class Forget(NamedTuple):
    """These transactions are finished and past their retention; unfinished ones among them are kept."""

    gids: tuple[str, ...]


Command: TypeAlias = (
    Begin | Precommit | Decide | Diverge | DropNotice | End | Extend | Forget | Notified | Progress | Return
)


_SHAPES = {
    1: Shape("BEGIN", TEXT, BYTES, TEXT, ARRAY, INT, INT, added=(TEXT, TEXT, TEXT)),
    2: Shape("DECIDE", TEXT, TEXT, TEXT, INT, TEXT, TEXT_OR_NIL, ARRAY),
    3: Shape("END", TEXT, ARRAY),
    4: Shape("FORGET", ARRAY),
    5: Shape("BEGIN STEPS", TEXT, BYTES, ARRAY, INT, INT, added=(TEXT, TEXT, TEXT)),
    6: Shape("PROGRESS", TEXT, TEXT, INT, TEXT, BYTES),
    7: Shape("NOTIFIED", TEXT, TEXT),
    8: Shape("BEGIN WORKFLOW", TEXT, BYTES, TEXT, BYTES, INT, INT, added=(TEXT, TEXT, TEXT)),
    9: Shape("EXTEND", TEXT, INT, BYTES, ARRAY, INT),
    10: Shape("RETURN", TEXT, INT, BYTES, INT, ARRAY),
    11: Shape("DIVERGE", TEXT, TEXT),
    12: Shape("PRECOMMIT", TEXT),
    13: Shape("DROP NOTICE", TEXT, TEXT),
}
_BEGIN, _DECIDE, _END, _FORGET, _BEGIN_STEPS, _PROGRESS, _NOTIFIED, *_OF_WORKFLOW, _PRECOMMIT, _DROP_NOTICE = _SHAPES
_BEGIN_WORKFLOW, _EXTEND, _RETURN, _DIVERGE = _OF_WORKFLOW
_PATHS = {path.value: path for path in Path if path is not Path.STEPS}
_NOTICES = {notice.value: notice for notice in Notice if notice is not Notice.NONE}
_HEARD = {heard.value: heard for heard in Heard}
_DECISIONS = {decision.value: decision for decision in Decision}


def encode(command: Command, at_ms: int = 0) -> bytes:
    """The command's bytes in the log; `at_ms`, the proposer's wall clock, is put where the command has none.

    Raises CommandError when a value has no bytes (text with a lone surrogate, a number of more than 64 bits).
    """
    try:
        packed: bytes = msgpack.packb((COMMANDS_VERSION, *_fields(command, at_ms)))
    except (ValueError, OverflowError) as error:
        raise CommandError(f"{type(command).__name__} cannot be encoded: {error}") from error
    return packed


def decode(data: bytes) -> Command:
    """The command of these bytes. Raises CommandError, which is fatal inside `apply`."""
    try:
        array = msgpack.unpackb(data, use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise CommandError(f"a command of {len(data)} bytes is not msgpack: {error or type(error).__name__}") from error
    if type(array) is not tuple or len(array) < 2:
        raise CommandError("a command is an array of at least a version and a tag")
    version, tag, *fields = array
    if version != COMMANDS_VERSION:
        raise CommandError(f"a command has version {version!r}; this replica reads version {COMMANDS_VERSION}")
    shape = _SHAPES.get(tag) if type(tag) is int else None
    if shape is None:
        raise CommandError(f"a command has the tag {tag!r}; known are {', '.join(map(str, _SHAPES))}")
    shape.check(fields)
    return _command(tag, fields)


def _fields(command: Command, at_ms: int) -> tuple[Any, ...]:
    match command:
        case Begin():
            return _begin_fields(command, at_ms)
        case Progress():
            return (_PROGRESS, *command)
        case Precommit():
            return (_PRECOMMIT, command.gid)
        case Notified():
            return (_NOTIFIED, *command)
        case DropNotice():
            return (_DROP_NOTICE, *command)
        case Decide():
            why = (command.reason, command.culprit)
            return (_DECIDE, command.gid, command.decision, command.by, command.at_ms or at_ms, *why, command.done)
        case End():
            return (_END, command.gid, command.branches)
        case Extend():
            stamp = command.at_ms or at_ms
            return (_EXTEND, command.gid, command.number, command.digest, fields_with_step(command.branch), stamp)
        case Return():
            stamp = command.at_ms or at_ms
            return (_RETURN, command.gid, command.steps, command.result, stamp, command.done)
        case Diverge():
            return (_DIVERGE, *command)
        case Forget():
            return (_FORGET, command.gids)


def _begin_fields(command: Begin, at_ms: int) -> tuple[Any, ...]:
    limits = (command.deadline_ms, command.at_ms or at_ms)
    added = telling((command.trace, command.key, command.notify))
    if command.workflow is not None:
        workflow = (command.workflow.name, command.workflow.input)
        return (_BEGIN_WORKFLOW, command.gid, command.digest, *workflow, *limits, *added)
    if command.path is Path.STEPS:
        steps = [fields_with_step(branch) for branch in command.branches]
        return (_BEGIN_STEPS, command.gid, command.digest, steps, *limits, *added)
    branches = [branch_fields(branch) for branch in command.branches]
    return (_BEGIN, command.gid, command.digest, command.path, branches, *limits, *added)


def _command(tag: int, fields: list[Any]) -> Command:
    if tag == _BEGIN:
        gid, digest, path, branches, *rest = fields
        return Begin(gid, digest, member_of(_PATHS, path, "path"), tuple(map(branch_of, branches)), *rest)
    if tag == _DECIDE:
        gid, decision, by, at_ms, reason, culprit, done = fields
        return Decide(gid, member_of(_DECISIONS, decision, "decision"), by, at_ms, reason, culprit, texts(done))
    if tag == _END:
        gid, ended = fields
        return End(gid, texts(ended))
    if tag == _BEGIN_STEPS:
        gid, digest, branches, *rest = fields
        return Begin(gid, digest, Path.STEPS, tuple(map(branch_with_step, branches)), *rest)
    if tag == _PROGRESS:
        gid, branch, attempt, heard, result = fields
        return Progress(gid, branch, attempt, member_of(_HEARD, heard, "word of a step"), result)
    if tag == _NOTIFIED:
        gid, notice = fields
        return Notified(gid, member_of(_NOTICES, notice, "notice"))
    if tag == _DROP_NOTICE:
        return DropNotice(*fields)
    if tag == _PRECOMMIT:
        return Precommit(*fields)
    return _command_of_workflow(tag, fields) if tag in _OF_WORKFLOW else Forget(texts(fields[0]))


def _command_of_workflow(tag: int, fields: list[Any]) -> Command:
    if tag == _BEGIN_WORKFLOW:
        gid, digest, name, given, *rest = fields
        return Begin(gid, digest, Path.STEPS, (), *rest)._replace(workflow=WorkflowRecord(name, given))
    if tag == _EXTEND:
        gid, number, digest, branch, at_ms = fields
        return Extend(gid, number, digest, branch_with_step(branch), at_ms)
    if tag == _RETURN:
        gid, steps, result, at_ms, done = fields
        return Return(gid, steps, result, at_ms, texts(done))
    return Diverge(*fields)
