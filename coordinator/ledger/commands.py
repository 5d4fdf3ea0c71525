"""Every command that the ledger knows, and its bytes in the log.

A command is a msgpack array: [COMMANDS_VERSION, tag, fields...]; a branch in it is [branch, participant, action,
body, works], in a transaction of steps followed by [mode, after, confirm, undo, takes, retry, not_before_ms,
reporting, delivery]. Fields that were added later are the last ones, and left out where nothing from there on says
anything. Golden bytes of the version are kept in `tests/unit/coordinator/ledger/test_commands.py`; a version that this
code does not know is fatal, because guessing would let replicas diverge.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

import msgpack

from coordinator.ledger.errors import CommandError
from coordinator.ledger.records import (
    JITTER_DEFAULT_PERCENT,
    BranchRecord,
    Decision,
    Delivery,
    Mode,
    Notice,
    Path,
    Reporting,
    Retry,
    StepRecord,
    WorkflowRecord,
    shared_names,
    telling,
)
from coordinator.ledger.shapes import Shape

__all__ = [
    "BY_DEADLINE",
    "BY_EXPIRY",
    "BY_INQUIRY",
    "BY_OPERATOR",
    "BY_VOTES",
    "BY_WORKFLOW",
    "COMMANDS_VERSION",
    "Begin",
    "Command",
    "Decide",
    "Diverge",
    "End",
    "Extend",
    "Forget",
    "Heard",
    "Notified",
    "Progress",
    "Return",
    "decode",
    "encode",
    "retry_fields",
]

COMMANDS_VERSION = 2

# Who decides (`Decide.by`).
BY_VOTES = "votes"  # the driver, from what the participants said
BY_DEADLINE = "deadline"  # the driver, because a vote did not come in time
BY_EXPIRY = "deadline set by "  # a prefix: the driver, whom this operator told not to wait any longer
BY_INQUIRY = "inquiry"  # a participant in doubt asked for a transaction that nobody recorded
BY_WORKFLOW = "workflow"  # the code of a workflow, by its return or its exception
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


class Forget(NamedTuple):
    """These transactions are finished and past their retention; unfinished ones among them are kept."""

    gids: tuple[str, ...]


Command: TypeAlias = Begin | Decide | Diverge | End | Extend | Forget | Notified | Progress | Return


_TEXT, _BYTES, _INT, _ARRAY = (str,), (bytes,), (int,), (tuple,)
_TEXT_OR_NIL, _INT_OR_NIL, _ARRAY_OR_NIL = (str, NoneType), (int, NoneType), (tuple, NoneType)


_SHAPES = {
    1: Shape("BEGIN", _TEXT, _BYTES, _TEXT, _ARRAY, _INT, _INT, added=(_TEXT, _TEXT, _TEXT)),
    2: Shape("DECIDE", _TEXT, _TEXT, _TEXT, _INT, _TEXT, _TEXT_OR_NIL, _ARRAY),
    3: Shape("END", _TEXT, _ARRAY),
    4: Shape("FORGET", _ARRAY),
    5: Shape("BEGIN STEPS", _TEXT, _BYTES, _ARRAY, _INT, _INT, added=(_TEXT, _TEXT, _TEXT)),
    6: Shape("PROGRESS", _TEXT, _TEXT, _INT, _TEXT, _BYTES),
    7: Shape("NOTIFIED", _TEXT, _TEXT),
    8: Shape("BEGIN WORKFLOW", _TEXT, _BYTES, _TEXT, _BYTES, _INT, _INT, added=(_TEXT, _TEXT, _TEXT)),
    9: Shape("EXTEND", _TEXT, _INT, _BYTES, _ARRAY, _INT),
    10: Shape("RETURN", _TEXT, _INT, _BYTES, _INT, _ARRAY),
    11: Shape("DIVERGE", _TEXT, _TEXT),
}
_BEGIN, _DECIDE, _END, _FORGET, _BEGIN_STEPS, _PROGRESS, _NOTIFIED, *_OF_WORKFLOW = _SHAPES
_BEGIN_WORKFLOW, _EXTEND, _RETURN, _DIVERGE = _OF_WORKFLOW
_BRANCH = Shape("branch", _TEXT, _TEXT, _TEXT_OR_NIL, _BYTES, _INT_OR_NIL)
_STEP = Shape(
    "step", _TEXT, _ARRAY, _TEXT_OR_NIL, _TEXT_OR_NIL, _ARRAY, _ARRAY, added=(_INT, _ARRAY_OR_NIL, _ARRAY_OR_NIL)
)
_TAKE = Shape("a result that is taken", _TEXT, _TEXT)
_RETRY = Shape("retry", _INT, _INT, _INT, added=(_INT,))
_REPORTING = Shape("how a step is reported", _TEXT, _TEXT)
_DELIVERY = Shape("how a message is delivered", _TEXT, _INT, _INT)
_DECLARED = 3  # of the fields of a delivery
_PATHS = {path.value: path for path in Path if path is not Path.STEPS}
_MODES = {mode.value: mode for mode in Mode}
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
        case Notified():
            return (_NOTIFIED, *command)
        case Decide():
            why = (command.reason, command.culprit)
            return (_DECIDE, command.gid, command.decision, command.by, command.at_ms or at_ms, *why, command.done)
        case End():
            return (_END, command.gid, command.branches)
        case Extend():
            stamp = command.at_ms or at_ms
            return (_EXTEND, command.gid, command.number, command.digest, _fields_with_step(command.branch), stamp)
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
        steps = [_fields_with_step(branch) for branch in command.branches]
        return (_BEGIN_STEPS, command.gid, command.digest, steps, *limits, *added)
    branches = [_branch_fields(branch) for branch in command.branches]
    return (_BEGIN, command.gid, command.digest, command.path, branches, *limits, *added)


def _command(tag: int, fields: list[Any]) -> Command:
    if tag == _BEGIN:
        gid, digest, path, branches, *rest = fields
        return Begin(gid, digest, _member(_PATHS, path, "path"), tuple(map(_branch, branches)), *rest)
    if tag == _DECIDE:
        gid, decision, by, at_ms, reason, culprit, done = fields
        return Decide(gid, _member(_DECISIONS, decision, "decision"), by, at_ms, reason, culprit, _texts(done))
    if tag == _END:
        gid, ended = fields
        return End(gid, _texts(ended))
    if tag == _BEGIN_STEPS:
        gid, digest, branches, *rest = fields
        return Begin(gid, digest, Path.STEPS, tuple(map(_branch_with_step, branches)), *rest)
    if tag == _PROGRESS:
        gid, branch, attempt, heard, result = fields
        return Progress(gid, branch, attempt, _member(_HEARD, heard, "word of a step"), result)
    if tag == _NOTIFIED:
        gid, notice = fields
        return Notified(gid, _member(_NOTICES, notice, "notice"))
    return _command_of_workflow(tag, fields) if tag in _OF_WORKFLOW else Forget(_texts(fields[0]))


def _command_of_workflow(tag: int, fields: list[Any]) -> Command:
    if tag == _BEGIN_WORKFLOW:
        gid, digest, name, given, *rest = fields
        return Begin(gid, digest, Path.STEPS, (), *rest)._replace(workflow=WorkflowRecord(name, given))
    if tag == _EXTEND:
        gid, number, digest, branch, at_ms = fields
        return Extend(gid, number, digest, _branch_with_step(branch), at_ms)
    if tag == _RETURN:
        gid, steps, result, at_ms, done = fields
        return Return(gid, steps, result, at_ms, _texts(done))
    return Diverge(*fields)


def _branch_fields(branch: BranchRecord) -> tuple[Any, ...]:
    return (branch.branch, branch.participant, branch.action, branch.body, branch.works)


def _fields_with_step(branch: BranchRecord) -> tuple[Any, ...]:
    return (*_branch_fields(branch), _step_fields(branch))


def _step_fields(branch: BranchRecord) -> tuple[Any, ...]:
    step = branch.step
    if step is None:
        raise CommandError(f"branch {branch.branch} has no step")
    reporting = None if step.reporting is None else (step.reporting.field, step.reporting.secret)
    added = [step.not_before_ms, reporting, None if step.delivery is None else step.delivery[:_DECLARED]]
    while added and not added[-1]:
        added.pop()
    return (step.mode, step.after, step.confirm, step.undo, step.takes, retry_fields(step.retry), *added)


def retry_fields(retry: Retry) -> tuple[int, ...]:
    """As it stands in a command: without a jitter that says nothing."""
    return retry[:3] if retry.jitter_percent == JITTER_DEFAULT_PERCENT else tuple(retry)


def _branch_with_step(fields: Any) -> BranchRecord:
    if type(fields) is not tuple or len(fields) != 6 or type(fields[5]) is not tuple:
        raise CommandError("a branch of a transaction of steps is an array of 6 fields, the last one an array")
    *branch, step = fields
    _STEP.check(step)
    mode, after, confirm, undo, takes, retry, *added = step
    for take in takes:
        _TAKE.check(take if type(take) is tuple else ())
    _RETRY.check(retry)
    record = StepRecord(_member(_MODES, mode, "mode"), _texts(after), confirm, undo, takes, Retry(*retry))
    if added:
        not_before_ms, reporting, delivery = (*added, None, None)[:3]
        record = record._replace(not_before_ms=not_before_ms, reporting=_reporting(reporting))
        record = record._replace(delivery=_delivery(delivery))
    return _branch(tuple(branch))._replace(step=record)


def _reporting(fields: tuple[Any, ...] | None) -> Reporting | None:
    if fields is None:
        return None
    _REPORTING.check(fields)
    return Reporting(*fields)


def _delivery(fields: tuple[Any, ...] | None) -> Delivery | None:
    if fields is None:
        return None
    _DELIVERY.check(fields)
    return Delivery(*fields)


def _branch(fields: Any) -> BranchRecord:
    if type(fields) is not tuple:
        raise CommandError(f"a branch is an array, not {type(fields).__name__}")
    _BRANCH.check(fields)
    branch, participant, action, body, works = fields
    return BranchRecord(*shared_names(branch, participant, action), body, works=works)


def _texts(values: tuple[Any, ...]) -> tuple[str, ...]:
    for value in values:
        if type(value) is not str:
            raise CommandError(f"a list of names holds {type(value).__name__}")
    return values


def _member(members: Mapping[str, Any], value: str, what: str) -> Any:
    member = members.get(value)
    if member is None:
        raise CommandError(f"{value!r} is not a {what}")
    return member
