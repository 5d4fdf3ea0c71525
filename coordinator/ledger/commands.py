"""Every command that the ledger knows, and its bytes in the log.

A command is a msgpack array: [COMMANDS_VERSION, tag, fields...]; a branch in it is [branch, participant, action,
body, works], in a transaction of steps followed by [mode, after, confirm, undo, takes, retry, not_before_ms,
reporting, delivery]. Fields that were added later are the last ones, and left out where nothing from there on says
anything. Golden bytes of the version are kept in `tests/unit/coordinator/ledger/test_commands.py`; a version that this
code does not know is fatal, because guessing would let replicas diverge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import product
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
    shared_names,
    telling,
)

__all__ = [
    "BY_DEADLINE",
    "BY_EXPIRY",
    "BY_INQUIRY",
    "BY_OPERATOR",
    "BY_PARTICIPANTS",
    "BY_VOTES",
    "COMMANDS_VERSION",
    "Begin",
    "Command",
    "Decide",
    "End",
    "Forget",
    "Heard",
    "Notified",
    "Precommit",
    "Progress",
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
BY_PARTICIPANTS = "participants"  # the driver, because they have decided among themselves (three phases only)
BY_OPERATOR = "operator "  # a prefix: the operator's name follows


class Begin(NamedTuple):
    """The branches of a transaction, before any of them is bound by a decision. All of them open. `trace`, `key` and
    `notify` as in the record."""

    gid: str
    digest: bytes
    path: Path
    branches: tuple[BranchRecord, ...]
    deadline_ms: int
    at_ms: int
    trace: str = ""
    key: str = ""
    notify: str = ""


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


class Progress(NamedTuple):
    """How far one step has come, on the path STEPS. `result`, packed: what it gave, if it is DONE and somebody takes
    it, or REPORTED; why not, if it is DECLINED, SET_ASIDE, or an UNSETTLED message with a delivery; who wants it, and
    why, if it is REDELIVERED or DROPPED."""

    gid: str
    branch: str
    attempt: int
    heard: Heard
    result: bytes = b""


class Notified(NamedTuple):
    """The application has taken this notice."""

    gid: str
    notice: Notice


class Forget(NamedTuple):
    """These transactions are finished and past their retention; unfinished ones among them are kept."""

    gids: tuple[str, ...]


Command: TypeAlias = Begin | Precommit | Decide | End | Forget | Notified | Progress


_TEXT, _BYTES, _INT, _ARRAY = (str,), (bytes,), (int,), (tuple,)
_TEXT_OR_NIL, _INT_OR_NIL, _ARRAY_OR_NIL = (str, NoneType), (int, NoneType), (tuple, NoneType)


class _Shape:
    """What types the fields of something have. Compared exactly: msgpack's `true` is not the number 1."""

    def __init__(self, name: str, *allowed: tuple[type, ...], added: tuple[tuple[type, ...], ...] = ()) -> None:
        """`added`: of the last fields, which may be absent from any of them on."""
        self._name = name
        self._count = len(allowed)
        self._allowed = (*allowed, *added)
        lengths = range(self._count, len(self._allowed) + 1)
        self._fitting = frozenset(types for length in lengths for types in product(*self._allowed[:length]))

    def check(self, fields: Sequence[Any]) -> None:
        """Raises CommandError, which names the first field that does not fit."""
        if tuple(map(type, fields)) in self._fitting:
            return
        if not self._count <= len(fields) <= len(self._allowed):
            raise CommandError(f"{self._name} has {len(fields)} fields instead of {self._count}")
        for position, (value, types) in enumerate(zip(fields, self._allowed, strict=False)):
            if type(value) not in types:
                names = " or ".join(t.__name__ for t in types)
                raise CommandError(f"{self._name} holds {type(value).__name__} in field {position} instead of {names}")


_SHAPES = {
    1: _Shape("BEGIN", _TEXT, _BYTES, _TEXT, _ARRAY, _INT, _INT, added=(_TEXT, _TEXT, _TEXT)),
    2: _Shape("DECIDE", _TEXT, _TEXT, _TEXT, _INT, _TEXT, _TEXT_OR_NIL, _ARRAY),
    3: _Shape("END", _TEXT, _ARRAY),
    4: _Shape("FORGET", _ARRAY),
    5: _Shape("BEGIN STEPS", _TEXT, _BYTES, _ARRAY, _INT, _INT, added=(_TEXT, _TEXT, _TEXT)),
    6: _Shape("PROGRESS", _TEXT, _TEXT, _INT, _TEXT, _BYTES),
    7: _Shape("NOTIFIED", _TEXT, _TEXT),
    8: _Shape("PRECOMMIT", _TEXT),
}
_BEGIN, _DECIDE, _END, _FORGET, _BEGIN_STEPS, _PROGRESS, _NOTIFIED, _PRECOMMIT = _SHAPES
_BRANCH = _Shape("branch", _TEXT, _TEXT, _TEXT_OR_NIL, _BYTES, _INT_OR_NIL)
_STEP = _Shape(
    "step", _TEXT, _ARRAY, _TEXT_OR_NIL, _TEXT_OR_NIL, _ARRAY, _ARRAY, added=(_INT, _ARRAY_OR_NIL, _ARRAY_OR_NIL)
)
_TAKE = _Shape("a result that is taken", _TEXT, _TEXT)
_RETRY = _Shape("retry", _INT, _INT, _INT, added=(_INT,))
_REPORTING = _Shape("how a step is reported", _TEXT, _TEXT)
_DELIVERY = _Shape("how a message is delivered", _TEXT, _INT, _INT)
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
            branches = [(b.branch, b.participant, b.action, b.body, b.works) for b in command.branches]
            limits = (command.deadline_ms, command.at_ms or at_ms)
            added = telling((command.trace, command.key, command.notify))
            if command.path is Path.STEPS:
                steps = [(*branch, _step_fields(b)) for branch, b in zip(branches, command.branches, strict=True)]
                return (_BEGIN_STEPS, command.gid, command.digest, steps, *limits, *added)
            return (_BEGIN, command.gid, command.digest, command.path, branches, *limits, *added)
        case Progress():
            return (_PROGRESS, *command)
        case Precommit():
            return (_PRECOMMIT, command.gid)
        case Notified():
            return (_NOTIFIED, *command)
        case Decide():
            why = (command.reason, command.culprit)
            return (_DECIDE, command.gid, command.decision, command.by, command.at_ms or at_ms, *why, command.done)
        case End():
            return (_END, command.gid, command.branches)
        case Forget():
            return (_FORGET, command.gids)


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
    if tag == _PRECOMMIT:
        return Precommit(*fields)
    return Forget(_texts(fields[0]))


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
