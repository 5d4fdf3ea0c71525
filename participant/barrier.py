"""The barrier of one branch whose steps are local transactions of their own, as one table of data. Sans-IO.

A step is done in one ordinary local transaction of its participant: the user's rows, and one row of ours for the
branch. There is no prepared state; what is done can be taken back by another step only. Three protocols work so:

    TCC       try, then confirm or cancel
    saga      action, and compensate if it must not stay
    message   one step, which a sender has decided on already

    NEW ── try ─────▶ TRIED ── confirm ▶ CONFIRMED
                      TRIED ── cancel ─▶ CANCELLED
    NEW ── action ──▶ ACTED ── compensate ▶ COMPENSATED
    NEW ── try, action ▶ REFUSED      (the function raised Reject: nothing was changed, and the answer stays)
    NEW, REFUSED ── cancel ▶ CANCELLED, ── compensate ▶ COMPENSATED      (there is nothing to undo: a tombstone)
    NEW ── message ─▶ RECEIVED

Two rules. One: whatever may happen to a branch stands in `RULES`, and nothing changes a row but `Row.done`,
`Row.refused` and `Row.emptied`, which ask the table first. Two: this file does not know how a row is locked or made
durable.

What the table gives is what `participant.branch` gives to branches that are prepared: a repeat gets the same answer, a
cancel before its try is an empty rollback, a try after that is refused. A CONTRADICTION is what cannot happen while
every party is right, such as the confirm of what was never tried: nothing is done, and somebody must be told.

Confirm, cancel, compensate and message have nobody to say no to, so a function must not refuse in them.

RUNNING is the row while its function runs, and nobody else ever sees it: it is locked, and committed with another
state. Whoever does see it knows that a function has ended the transaction by itself, with its work half done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgpack

from participant.branch import REASON_CHARS_MAX, Verdict
from participant.errors import BranchConflict, InvariantError, Reject, StepError, WireError
from participant.ids import BranchKey, is_branch_id, is_gid
from participant.values import canonical, digest_of

__all__ = [
    "FINAL",
    "RESULT_BYTES_MAX",
    "RULES",
    "Contradiction",
    "Done",
    "Outcome",
    "Refused",
    "Row",
    "Rule",
    "State",
    "Step",
    "StepKind",
    "Verdict",
]

RESULT_BYTES_MAX = 16_384  # as msgpack: it is kept for the repeats


class StepKind(StrEnum):
    """What can be asked of a branch."""

    TRY = "try"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    ACTION = "action"
    COMPENSATE = "compensate"
    MESSAGE = "message"

    @property
    def is_first(self) -> bool:
        """Whether a branch begins with it. What ends one has an answer of its own in the row."""
        return self in _FIRST


_FIRST = frozenset({StepKind.TRY, StepKind.ACTION, StepKind.MESSAGE})


class State(StrEnum):
    """What is true of a branch."""

    NEW = "new"  # no row
    RUNNING = "running"
    TRIED = "tried"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    ACTED = "acted"
    COMPENSATED = "compensated"
    RECEIVED = "received"
    REFUSED = "refused"


# Nothing need follow, so that the row may be forgotten in time. What was tried waits for its end, however long.
FINAL = frozenset(State) - {State.NEW, State.RUNNING, State.TRIED}


@dataclass(frozen=True, slots=True)
class Rule:
    """One cell of the table. `next`: every state the branch may have afterwards. `why`: for refusals."""

    verdict: Verdict
    next: tuple[State, ...]
    why: str = ""


def _run(*states: State) -> Rule:
    return Rule(Verdict.RUN, states)


def _empty(state: State) -> Rule:
    return Rule(Verdict.EMPTY, (state,))


def _repeat(state: State) -> Rule:
    return Rule(Verdict.REPEAT, (state,))


def _refuse(state: State, why: str) -> Rule:
    return Rule(Verdict.REFUSE, (state,), why)


def _contradiction(state: State, why: str) -> Rule:
    return Rule(Verdict.CONTRADICTION, (state,), why)


_HALF_DONE = (
    "the function of an earlier step has ended the transaction by itself (COMMIT, or a statement that commits): its "
    "work may be half done; look at its rows, mend them, and delete the row of this branch in commitd_barrier"
)

_WITHIN_ONE_PROTOCOL: Mapping[tuple[State, StepKind], Rule] = {
    (State.NEW, StepKind.TRY): _run(State.TRIED, State.REFUSED),
    (State.NEW, StepKind.CONFIRM): _contradiction(
        State.NEW, "confirm of what was never tried here, or whose row is lost"
    ),
    (State.NEW, StepKind.CANCEL): _empty(State.CANCELLED),
    (State.TRIED, StepKind.TRY): _repeat(State.TRIED),
    (State.TRIED, StepKind.CONFIRM): _run(State.CONFIRMED),
    (State.TRIED, StepKind.CANCEL): _run(State.CANCELLED),
    (State.CONFIRMED, StepKind.TRY): _repeat(State.CONFIRMED),
    (State.CONFIRMED, StepKind.CONFIRM): _repeat(State.CONFIRMED),
    (State.CONFIRMED, StepKind.CANCEL): _contradiction(State.CONFIRMED, "cancel of what is confirmed"),
    (State.CANCELLED, StepKind.TRY): _refuse(State.CANCELLED, "tried too late: the branch is cancelled"),
    (State.CANCELLED, StepKind.CONFIRM): _contradiction(State.CANCELLED, "confirm of what is cancelled"),
    (State.CANCELLED, StepKind.CANCEL): _repeat(State.CANCELLED),
    #
    (State.NEW, StepKind.ACTION): _run(State.ACTED, State.REFUSED),
    (State.NEW, StepKind.COMPENSATE): _empty(State.COMPENSATED),
    (State.ACTED, StepKind.ACTION): _repeat(State.ACTED),
    (State.ACTED, StepKind.COMPENSATE): _run(State.COMPENSATED),
    (State.COMPENSATED, StepKind.ACTION): _refuse(State.COMPENSATED, "asked too late: the branch is compensated"),
    (State.COMPENSATED, StepKind.COMPENSATE): _repeat(State.COMPENSATED),
    #
    (State.REFUSED, StepKind.TRY): _repeat(State.REFUSED),
    (State.REFUSED, StepKind.CONFIRM): _contradiction(State.REFUSED, "confirm of what was refused"),
    (State.REFUSED, StepKind.CANCEL): _empty(State.CANCELLED),
    (State.REFUSED, StepKind.ACTION): _repeat(State.REFUSED),
    (State.REFUSED, StepKind.COMPENSATE): _empty(State.COMPENSATED),
    #
    (State.NEW, StepKind.MESSAGE): _run(State.RECEIVED),
    (State.RECEIVED, StepKind.MESSAGE): _repeat(State.RECEIVED),
}


def _across(state: State, kind: StepKind) -> Rule:
    """Steps of one protocol meet a branch of another."""
    if state is State.RUNNING:
        return _contradiction(state, _HALF_DONE)
    return _contradiction(state, f"{kind} of a branch that is {state}: that is the work of another protocol")


RULES: Mapping[tuple[State, StepKind], Rule] = MappingProxyType(
    {(state, kind): _across(state, kind) for state in State for kind in StepKind} | dict(_WITHIN_ONE_PROTOCOL)
)


class Step(NamedTuple):
    """One step of one branch. `digest` identifies what was asked for, so that the key is not used for anything else."""

    key: BranchKey
    kind: StepKind
    digest: bytes

    @classmethod
    def of(cls, gid: str, branch: str, kind: str, body: Any = None) -> Step:
        """From what a request says. Raises WireError, which names the field."""
        for name, value, fits in (("gid", gid, is_gid), ("branch", branch, is_branch_id)):
            if not isinstance(value, str) or not fits(value):
                raise WireError(name, "must be 1 to 64 of A-Z a-z 0-9 _ . : -")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise WireError("kind", f"must be one of {', '.join(_KINDS)}")
        return cls(BranchKey(gid, branch), _KINDS[kind], digest_of(kind, canonical(body, "body")))

    def __str__(self) -> str:
        return f"{self.kind} of {self.key}"


_KINDS = {kind.value: kind for kind in StepKind}


@dataclass(frozen=True, slots=True)
class Done:
    """The step is done, and durable: now, or long ago. `verdict` says which, and answers are equal without it."""

    result: Any = None
    verdict: Verdict = field(default=Verdict.RUN, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The step is not done, and never will be. That is durable, too."""

    reason: str
    verdict: Verdict = field(default=Verdict.RUN, compare=False)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Somebody broke the protocol. Nothing was done; a person has to look."""

    why: str


Outcome: TypeAlias = Done | Refused | Contradiction
"""What a step came to. Whatever is raised instead leaves it unknown, and the step may be repeated."""


class Row(NamedTuple):
    """What is kept of one branch.

    `digest` and `result` are those of the step that began it, `end_digest` and `end_result` those of the one that ended
    it. `changed_at_ms` is wall-clock time, for people and for the retention, never for a decision.
    """

    key: BranchKey
    state: State = State.NEW
    digest: bytes = b""
    result: bytes = b""
    end_digest: bytes = b""
    end_result: bytes = b""
    reason: str = ""
    changed_at_ms: int = 0

    def judge(self, step: Step) -> Rule:
        """What the table says. Raises BranchConflict for the repeat of a step with another body than it had."""
        rule = RULES[self.state, step.kind]
        known = self.digest if step.kind.is_first else self.end_digest
        if rule.verdict is Verdict.REPEAT and known != step.digest:
            raise BranchConflict(f"{step} came before, with another body: a gid must never be used twice")
        return rule

    def done(self, step: Step, result: Any, at_ms: int) -> Row:
        """After the function has returned `result`. Raises StepError if that cannot be kept."""
        return self._move(step, Verdict.RUN, RULES[self.state, step.kind].next[0], at_ms, _packed(result, step))

    def refused(self, step: Step, no: Reject, at_ms: int) -> Row:
        """After the function has raised Reject, and its changes are undone. Raises StepError if it may not refuse."""
        if State.REFUSED not in RULES[self.state, step.kind].next:
            raise StepError(
                f"{step} was refused ({no.reason}), but nobody can take that no: mend it, and it is repeated"
            )
        reason = no.reason[:REASON_CHARS_MAX].encode("utf-8", "replace").replace(b"\0", b"?").decode()
        return self._move(step, Verdict.RUN, State.REFUSED, at_ms)._replace(reason=reason)

    def emptied(self, step: Step, at_ms: int) -> Row:
        """The tombstone."""
        return self._move(step, Verdict.EMPTY, RULES[self.state, step.kind].next[0], at_ms)

    def outcome(self, step: Step, rule: Rule) -> Outcome:
        """What to say, of the row as it is now and the rule that brought it there, or left it as it was."""
        match rule.verdict:
            case Verdict.CONTRADICTION:
                return Contradiction(rule.why)
            case Verdict.REFUSE:
                return Refused(self.reason or rule.why, rule.verdict)
        if self.state is State.REFUSED:
            return Refused(self.reason, rule.verdict)
        return Done(_unpacked(self.result if step.kind.is_first else self.end_result), rule.verdict)

    def _move(self, step: Step, verdict: Verdict, to: State, at_ms: int, result: bytes = b"") -> Row:
        rule = RULES[self.state, step.kind]
        if rule.verdict is not verdict or to not in rule.next:
            raise InvariantError(f"{step}: {verdict} must not lead from {self.state} to {to}")
        moved = self._replace(state=to, changed_at_ms=at_ms)
        if step.kind.is_first:
            return moved._replace(digest=step.digest, result=result)
        return moved._replace(end_digest=step.digest, end_result=result)


def _packed(result: Any, step: Step) -> bytes:
    """A result as it is kept; nothing, if it is None. Raises StepError."""
    if result is None:
        return b""
    try:
        data = canonical(result, "result")
    except WireError as error:
        raise StepError(f"{step} was undone, because its function returned what cannot be kept: {error}") from error
    if len(data) > RESULT_BYTES_MAX:
        raise StepError(
            f"{step} was undone, because its result has {len(data):,} bytes: at most {RESULT_BYTES_MAX:,} are kept for "
            "the repeats; return a key, and keep the rest in a table"
        )
    return data


def _unpacked(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False, unicode_errors="replace") if data else None
