"""Every command that the ledger knows, and its bytes in the log.

A command is a msgpack array: [COMMANDS_VERSION, tag, fields...]; a branch in it is [branch, participant, action,
body, works]. Golden bytes of the version are kept in `tests/unit/coordinator/ledger/test_commands.py`; a version that
this code does not know is fatal, because guessing would let replicas diverge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from types import NoneType
from typing import Any, TypeAlias

import msgpack

from coordinator.ledger.errors import CommandError
from coordinator.ledger.records import BranchRecord, Decision, Path

__all__ = [
    "BY_DEADLINE",
    "BY_INQUIRY",
    "BY_OPERATOR",
    "BY_VOTES",
    "COMMANDS_VERSION",
    "Begin",
    "Command",
    "Decide",
    "End",
    "Forget",
    "decode",
    "encode",
    "stamped",
]

COMMANDS_VERSION = 2

# Who decides (`Decide.by`).
BY_VOTES = "votes"  # the driver, from what the participants said
BY_DEADLINE = "deadline"  # the driver, because a vote did not come in time
BY_INQUIRY = "inquiry"  # a participant in doubt asked for a transaction that nobody recorded
BY_OPERATOR = "operator "  # a prefix: the operator's name follows


@dataclass(frozen=True, slots=True)
class Begin:
    """The branches of a transaction, before any of them is bound by a decision. All of them open."""

    gid: str
    digest: bytes
    path: Path
    branches: tuple[BranchRecord, ...]
    deadline_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Decide:
    """The decision; the first one in the log wins. `done` names branches that need no phase two (read-only, or
    voted no). Abort of an unknown gid leaves a record without branches, so that a late Begin is refused."""

    gid: str
    decision: Decision
    by: str
    at_ms: int
    reason: str = ""
    culprit: str | None = None
    done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """These branches confirmed the decision; nobody waits for it, so it rides along with other entries."""

    gid: str
    branches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """These transactions are finished and past their retention; unfinished ones among them are kept."""

    gids: tuple[str, ...]


Command: TypeAlias = Begin | Decide | End | Forget


class _Tag(IntEnum):
    BEGIN = 1
    DECIDE = 2
    END = 3
    FORGET = 4


_TEXT, _BYTES, _INT, _ARRAY = (str,), (bytes,), (int,), (tuple,)
_TEXT_OR_NIL, _INT_OR_NIL = (str, NoneType), (int, NoneType)
_FIELDS: dict[int, tuple[tuple[type, ...], ...]] = {
    _Tag.BEGIN: (_TEXT, _BYTES, _TEXT, _ARRAY, _INT, _INT),
    _Tag.DECIDE: (_TEXT, _TEXT, _TEXT, _INT, _TEXT, _TEXT_OR_NIL, _ARRAY),
    _Tag.END: (_TEXT, _ARRAY),
    _Tag.FORGET: (_ARRAY,),
}
_BRANCH_FIELDS = (_TEXT, _TEXT, _TEXT_OR_NIL, _BYTES, _INT_OR_NIL)


def stamped(command: Command, at_ms: int) -> Command:
    """The same command with the proposer's wall clock; commands without an `at_ms` as they are."""
    return replace(command, at_ms=at_ms) if isinstance(command, Begin | Decide) else command


def encode(command: Command) -> bytes:
    """The command's bytes in the log.

    Raises CommandError when a value has no bytes (text with a lone surrogate, a number of more than 64 bits).
    """
    try:
        packed: bytes = msgpack.packb((COMMANDS_VERSION, *_fields(command)))
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
    if type(tag) is not int or tag not in _FIELDS:
        raise CommandError(f"a command has the tag {tag!r}; known are {', '.join(map(str, _FIELDS))}")
    _check(_Tag(tag).name, fields, _FIELDS[tag])
    return _command(_Tag(tag), fields)


def _fields(command: Command) -> tuple[Any, ...]:
    match command:
        case Begin():
            branches = tuple((b.branch, b.participant, b.action, b.body, b.works) for b in command.branches)
            limits = (command.deadline_ms, command.at_ms)
            return (_Tag.BEGIN, command.gid, command.digest, command.path, branches, *limits)
        case Decide():
            why = (command.reason, command.culprit)
            return (_Tag.DECIDE, command.gid, command.decision, command.by, command.at_ms, *why, command.done)
        case End():
            return (_Tag.END, command.gid, command.branches)
        case Forget():
            return (_Tag.FORGET, command.gids)


def _command(tag: _Tag, fields: list[Any]) -> Command:
    match tag:
        case _Tag.BEGIN:
            gid, digest, path, branches, deadline_ms, at_ms = fields
            return Begin(gid, digest, _member(Path, path), tuple(map(_branch, branches)), deadline_ms, at_ms)
        case _Tag.DECIDE:
            gid, decision, by, at_ms, reason, culprit, done = fields
            return Decide(gid, _member(Decision, decision), by, at_ms, reason, culprit, _texts(done))
        case _Tag.END:
            gid, ended = fields
            return End(gid, _texts(ended))
        case _Tag.FORGET:
            return Forget(_texts(fields[0]))


def _branch(fields: Any) -> BranchRecord:
    if type(fields) is not tuple:
        raise CommandError(f"a branch is an array, not {type(fields).__name__}")
    _check("branch", fields, _BRANCH_FIELDS)
    branch, participant, action, body, works = fields
    return BranchRecord(branch, participant, action, body, works=works)


def _check(what: str, fields: Any, allowed: tuple[tuple[type, ...], ...]) -> None:
    """Types are compared exactly: msgpack's `true` is not the number 1."""
    if len(fields) != len(allowed):
        raise CommandError(f"{what} has {len(fields)} fields instead of {len(allowed)}")
    for position, (value, types) in enumerate(zip(fields, allowed, strict=True)):
        if type(value) not in types:
            names = " or ".join(t.__name__ for t in types)
            raise CommandError(f"{what} holds {type(value).__name__} in field {position} instead of {names}")


def _texts(values: tuple[Any, ...]) -> tuple[str, ...]:
    for value in values:
        if type(value) is not str:
            raise CommandError(f"a list of names holds {type(value).__name__}")
    return values


def _member(enum: Any, value: str) -> Any:
    try:
        return enum(value)
    except ValueError as error:
        raise CommandError(f"{value!r} is not a {enum.__name__.lower()}") from error
