"""The contract between a coordinator and a participant. The participant owns it: a server owns its API.

HTTP, version 1. JSON or msgpack by content type; `body` and `result` are any JSON value (or, in msgpack, any
msgpack value); everything else is text.

    GET  /v1/capabilities                        Capabilities
    POST /v1/branches/{gid}/{branch}/work        {action, body?, seq?} -> Answer  (interactive style; not durable)
    POST /v1/branches/{gid}/{branch}/prepare     {action?, body?, works?} -> Answer  PREPARED, READ_ONLY or ABORTED
    POST /v1/branches/{gid}/{branch}/commit      {action?, body?, works?, one_phase?} -> Answer
    POST /v1/branches/{gid}/{branch}/abort       {} -> Answer                ABORTED, always, unless COMMITTED
    POST /v1/branches/{gid}/{branch}/prevent     {} -> Answer                PREPARED, READ_ONLY, COMMITTED or ABORTED
    GET  /v1/branches/{gid}/{branch}/outcome     Answer                      never changes anything
    POST /v1/branches/{gid}/{branch}/canvass     {three_phase} -> Answer     in three phases, see wire_three_phase.py;
    POST /v1/branches/{gid}/{branch}/precommit   the same                    they bring a branch to no end, but
    POST /v1/branches/{gid}/{branch}/preabort    the same                    ABORTED by `canvass`, if it has not voted
    POST /v1/branches                            {operations: [Operation]} -> {answers: [Answer]}, same order
    GET  /v1/branches/stream                     a WebSocket for such arrays, see below
    GET  /v1/in-doubt                            {branches: [{gid, branch}]}  prepared, and waiting for a decision
    GET  /v1/status                              {prepared, oldest_prepared_s, waiting, working, decided,
                                                 prepared_sum_s, prepared_by_ms: {bound: branches}, conflicts}

An Answer with a state is a fact, durable before it was said. What is not an answer (no connection, a 5xx, a
timeout) is *unknown*, and only unknown: the coordinator asks again, and every operation may be repeated.

An answer UNKNOWN to anything but `outcome` did nothing and is no vote; its `reason` says why (a request that is not
understood, a branch bound to another body, a commit of what was never prepared). The first two are said so in an
array; alone, such a request gets 4xx.

The stream is an offer to a coordinator that sends many arrays (capability `stream`). Messages are binary msgpack:
`[number, [Operation, ...]]`, with a number of its choice, and back `[number, [[index, Answer], ...]]`, any
number of them, each answer as soon as it is true, each index once. The first may be empty, and says that every
operation has been tried and all of them wait, for row locks for example. `[number, reason]`, reason a text, refuses an
array of which nothing was done. What is not answered when the connection ends is unknown; what waited for a row is not
voted down for having waited long, but may still come to a yes that nobody hears.

The status is for those who watch a participant; no coordinator asks for it, and a participant need not have it.
`participant.resource.ResourceStatus` says what its fields mean.

The reason of a no that begins with `conflict: ` says that other transactions are to blame (a row that they kept locked,
perhaps because each waits for the other): the same work may succeed in a new transaction.

`work` carries `seq`, the number of `work` requests before it in this branch. A repeat is recognised by it, and
so is a hole: a participant that lost earlier work (work is not durable) aborts the branch instead of
preparing half of it. The end could be missing too: a late repeat of the first work alone looks whole. So a prepare
without an action carries `works`, how many there were, and the participant votes no if it holds another number. The
answer to `work` has the header `Commitd-Enlist: <participant>;branch=<branch>`.

The result of a commit in one phase is kept with its branch, as durable as the state, and a repeat gives it again: a
step of a saga may take it, and whoever leads by then asks for it anew.

Work can also be asked for at a URL of the service's own, by a request in its own form with the header
`Commitd-Work: <gid>;branch=<branch>;seq=<seq>`. A 2xx response with the header `Commitd-Enlist` says that the branch is
WORKING; a 4xx that the work was refused. Without `Commitd-Enlist` it did not take part.

A request about one branch may have the headers `traceparent` and `tracestate` (W3C Trace Context). Where many
operations share a request, each has a field `trace` instead, with the one header's value, and behind a space the
other's; only a participant with the capability `trace` gets it. It is no part of what is asked for: a repeat in another
trace is a repeat, and what is malformed is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from participant.errors import WireError
from participant.ids import BranchKey, is_branch_id, is_gid
from participant.traceparent import read_trace
from participant.values import canonical
from participant.wire_three_phase import TERMS_FIELDS, Terms

__all__ = [
    "ACTION_CHARS_MAX",
    "BRANCHES_PATH",
    "CONFLICT",
    "ENLIST_HEADER",
    "ENVELOPE_BYTES",
    "RESULT_BYTES_MAX",
    "STREAM_PATH",
    "STREAM_PROTOCOL",
    "WIRE_VERSION",
    "WORKS_MAX",
    "WORK_HEADER",
    "Answer",
    "BranchState",
    "Capabilities",
    "Operation",
    "Verb",
    "Work",
    "branch_path",
]

WIRE_VERSION = 1
CONFLICT = "conflict: "
ENLIST_HEADER = "Commitd-Enlist"
WORK_HEADER = "Commitd-Work"
ACTION_CHARS_MAX = 64
WORKS_MAX = 1_000_000  # work requests of one branch
BRANCHES_PATH = "/v1/branches"
STREAM_PATH = f"{BRANCHES_PATH}/stream"
STREAM_PROTOCOL = "commitd.branches.v1"  # a WebSocket subprotocol
RESULT_BYTES_MAX = 16_384  # of an action, in its canonical encoding
RESULT_ENVELOPE_BYTES = 16
ENVELOPE_BYTES = 1_024  # one operation beside its body, at most


def branch_path(key: BranchKey, verb: str) -> str:
    """Where one operation on a branch is asked for."""
    return f"{BRANCHES_PATH}/{key.gid}/{key.branch}/{verb}"


class Verb(StrEnum):
    """What can be asked of a branch."""

    WORK = "work"
    PREPARE = "prepare"
    COMMIT = "commit"
    ABORT = "abort"
    PREVENT = "prevent"
    OUTCOME = "outcome"
    CANVASS = "canvass"
    PRECOMMIT = "precommit"
    PREABORT = "preabort"


class BranchState(StrEnum):
    """What a participant says of a branch.

    UNKNOWN: nothing was ever heard of it (or it was forgotten after the retention). WORKING: an interactive
    branch is open, nothing is durable. PREPARED: a durable, irrevocable yes. READ_ONLY: it voted yes, wrote
    nothing, and takes no part in phase two. COMMITTED and ABORTED are final. ABORTED without ever having been
    prepared is the tombstone that `abort` and `prevent` leave, so that a late prepare is refused.
    """

    UNKNOWN = "unknown"
    WORKING = "working"
    PREPARED = "prepared"
    READ_ONLY = "read-only"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Operation(NamedTuple):
    """One request about one branch.

    `action` names what `body` asks for; None on prepare means "prepare what my earlier work requests did".
    `one_phase` (commit only): prepare and commit in one step; the vote and the outcome are one answer. A branch
    that is PREPARED already waits for the decision, and answers that.
    `seq` (work only): how many work requests of this branch came before.
    `works` (without an action, where the branch votes): how many work requests there were; None: not said.
    `trace`: what it belongs to for those who watch (`participant.traceparent`); no part of what is asked for.
    `three_phase`: what goes with it in a transaction in three phases (`participant.wire_three_phase`).
    """

    verb: Verb
    key: BranchKey
    action: str | None = None
    body: Any = None
    one_phase: bool = False
    seq: int = 0
    works: int | None = None
    trace: str = ""
    three_phase: Terms | None = None

    def to_map(self) -> dict[str, Any]:
        """The wire form, as an element of an array."""
        form: dict[str, Any] = {"verb": self.verb.value, "gid": self.key.gid, "branch": self.key.branch}
        if self.action is not None:
            form |= {"action": self.action, "body": self.body}
        if self.one_phase:
            form["one_phase"] = True
        if self.seq:
            form["seq"] = self.seq
        if self.works is not None:
            form["works"] = self.works
        if self.trace:
            form["trace"] = self.trace
        if self.three_phase is not None:
            form["three_phase"] = self.three_phase.to_map()
        return form

    @classmethod
    def from_map(cls, form: object, where: str) -> Operation:
        """An operation from its wire form. Raises WireError, naming the field under `where`."""
        if not isinstance(form, dict):
            raise WireError(where, "an operation must be a map")
        if not form.keys() <= _OPERATION_FIELDS.keys():
            name = next(name for name in form if name not in _OPERATION_FIELDS)
            raise WireError(where, f"unknown field {name!r}; known are {', '.join(_OPERATION_FIELDS)}")
        get = form.get
        operation = cls(
            _verb(get("verb"), where),
            _key(get("gid"), get("branch"), where),
            _action(get("action"), where),
            get("body"),
            _flag(form["one_phase"], where, "one_phase") if "one_phase" in form else False,
            _count(form["seq"], where, "seq") if "seq" in form else 0,
            None if get("works") is None else _count(form["works"], where, "works", least=1),
            read_trace(form["trace"]) if "trace" in form else "",
            _terms(form["three_phase"], f"{where}.three_phase") if "three_phase" in form else None,
        )
        operation._check(where)
        return operation

    def _check(self, where: str) -> None:
        if self.action is None and self.body is not None:
            raise WireError(f"{where}.body", "a body needs an action to go with")
        if self.verb is Verb.WORK and self.action is None:
            raise WireError(f"{where}.action", "work needs an action")
        if self.one_phase and self.verb is not Verb.COMMIT:
            raise WireError(f"{where}.one_phase", "only a commit can be in one phase")
        if self.works is not None and (self.action is not None or not self.votes):
            raise WireError(f"{where}.works", "only a vote on earlier work, without an action, counts it")
        self._check_three_phase(f"{where}.three_phase")

    def _check_three_phase(self, where: str) -> None:
        terms = self.three_phase
        if self.verb in _IN_BALLOTS and (terms is None or terms.ballot is None):
            raise WireError(f"{where}.ballot", f"{self.verb} needs one")
        if self.verb in _IN_BALLOTS and terms is not None and not terms.participant:
            raise WireError(f"{where}.participant", f"{self.verb} must name the participant that is meant")
        if terms is not None and (self.one_phase or self.verb not in _IN_THREE_PHASES):
            raise WireError(where, f"does not go with {self.verb}")

    @property
    def in_three_phases(self) -> bool:
        """Whether it belongs to a transaction in three phases."""
        return self.three_phase is not None

    @property
    def votes(self) -> bool:
        """Whether it asks the branch for its vote."""
        return self.verb is Verb.PREPARE or self.one_phase

    @property
    def may_wait(self) -> bool:
        """Whether it takes on work, and so may have to wait for a row. What ends a branch never does."""
        return self.verb is Verb.PREPARE or self.verb is Verb.WORK or self.one_phase


class Work(NamedTuple):
    """What `WORK_HEADER` says: which branch a request to a URL of the service's own works for, and `Operation.seq`."""

    key: BranchKey
    seq: int

    def __str__(self) -> str:
        return f"{self.key.gid};branch={self.key.branch};seq={self.seq}"

    @classmethod
    def of(cls, header: str) -> Work:
        """Raises WireError."""
        match [part.strip() for part in header.split(";")]:
            case [gid, branch, seq] if branch.startswith("branch=") and seq.startswith("seq="):
                digits = seq.removeprefix("seq=")
                number = int(digits) if digits.isdecimal() and len(digits) <= len(str(WORKS_MAX)) else None
                key = _key(gid, branch.removeprefix("branch="), WORK_HEADER)
                return cls(key, _count(number, WORK_HEADER, "seq"))
        raise WireError(WORK_HEADER, f"must be <gid>;branch=<branch>;seq=<number>, not {_shown(header)}")


class Answer(NamedTuple):
    """What the participant says: the branch's state now, why (for ABORTED), and the result of `work`, or of a commit
    in one phase.

    `retry` asks the coordinator to come again: the branch is neither refused nor done (e.g. overloaded); the
    state then says nothing about the operation. `three_phase`: which way it leans, or how it knows its end.
    """

    state: BranchState
    reason: str = ""
    result: Any = None
    retry: bool = False
    three_phase: Terms | None = None

    def to_map(self) -> dict[str, Any]:
        """The wire form; fields that say nothing are left out."""
        form: dict[str, Any] = {"state": self.state.value}
        if self.reason:
            form["reason"] = self.reason
        if self.result is not None:
            form["result"] = self.result
        if self.retry:
            form["retry"] = True
        if self.three_phase is not None:
            form["three_phase"] = self.three_phase.to_map()
        return form

    @classmethod
    def from_map(cls, form: object, where: str) -> Answer:
        """An answer from its wire form; fields of later versions are ignored. Raises WireError."""
        if isinstance(form, dict):
            if form.get("result") is not None:
                _check_result(form["result"], where)
            state, reason, retry = form.get("state"), form.get("reason", ""), form.get("retry", False)
            if isinstance(state, str) and state in _STATES and isinstance(reason, str) and isinstance(retry, bool):
                terms = form.get("three_phase")
                known = None if terms is None else Terms.from_map(terms, f"{where}.three_phase")
                return cls(_STATES[state], reason, form.get("result"), retry, known)
            raise WireError(where, f"not an answer: a map whose state is {_shown(state)}")
        raise WireError(where, f"not an answer: {_shown(form)}")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this participant can do; the coordinator chooses the commit path by it (docs: commit path).

    `arrays`: whether it takes many operations in one request, `operations_max` of them, each with a body of
    `body_bytes_max`. `stream`: whether it takes such arrays over a connection that stays (`STREAM_PATH`).
    `trace`: whether an operation in them may name its trace. `three_phase`: the id of the secret with which it takes
    part in transactions in three phases (`participant.proof`); "": it does not.
    """

    name: str
    version: int = WIRE_VERSION
    prevent: bool = True
    one_phase: bool = True
    read_only: bool = True
    arrays: bool = True
    stream: bool = True
    trace: bool = True
    operations_max: int = 256
    body_bytes_max: int = 65_536
    actions: tuple[str, ...] = field(default=())
    three_phase: str = ""

    @property
    def array_bytes_max(self) -> int:
        """How large an array may be if all its operations are as large as they may be."""
        return self.operations_max * (self.body_bytes_max + ENVELOPE_BYTES)


_OPERATION_FIELDS = dict.fromkeys(
    ("verb", "gid", "branch", "action", "body", "one_phase", "seq", "works", "trace", "three_phase")
)
_IN_BALLOTS = frozenset((Verb.CANVASS, Verb.PRECOMMIT, Verb.PREABORT))
_IN_THREE_PHASES = _IN_BALLOTS | {Verb.PREPARE, Verb.COMMIT, Verb.ABORT}
_STATES = {state.value: state for state in BranchState}
_VERBS = {verb.value: verb for verb in Verb}


def _shown(value: object) -> str:
    """A value in a message; only text in full, because others may be nested too deeply to be written."""
    return f"{value!r:.80}" if isinstance(value, str) else f"a value of type {type(value).__name__}"


def _check_result(result: object, where: str) -> None:
    """What nobody could be sent again, or take into a body of his own, is no answer."""
    size = len(canonical({"result": result}, where))
    if size > RESULT_BYTES_MAX + RESULT_ENVELOPE_BYTES:
        raise WireError(where, f"a result has {size:,} bytes; at most {RESULT_BYTES_MAX:,} are kept")


def _terms(form: object, where: str) -> Terms:
    unknown = sorted(map(str, form.keys() - set(TERMS_FIELDS))) if isinstance(form, dict) else []
    if unknown:
        raise WireError(where, f"unknown field {unknown[0]!r}; known are {', '.join(TERMS_FIELDS)}")
    return Terms.from_map(form, where)


def _verb(value: object, where: str) -> Verb:
    verb = _VERBS.get(value) if isinstance(value, str) else None
    if verb is None:
        raise WireError(f"{where}.verb", f"must be one of {', '.join(_VERBS)}, not {_shown(value)}")
    return verb


def _key(gid: object, branch: object, where: str) -> BranchKey:
    if not isinstance(gid, str) or not is_gid(gid):
        raise WireError(f"{where}.gid", f"must be 1 to 64 of A-Z a-z 0-9 _ . : -, not {_shown(gid)}")
    if not isinstance(branch, str) or not is_branch_id(branch):
        raise WireError(f"{where}.branch", f"must be 1 to 64 of A-Z a-z 0-9 _ . : -, not {_shown(branch)}")
    return BranchKey(gid, branch)


def _action(value: object, where: str) -> str | None:
    if value is None or (isinstance(value, str) and 0 < len(value) <= ACTION_CHARS_MAX):
        return value
    raise WireError(f"{where}.action", f"must be text of 1 to {ACTION_CHARS_MAX} characters, or absent")


def _flag(value: object, where: str, field: str) -> bool:
    if not isinstance(value, bool):
        raise WireError(f"{where}.{field}", "must be true or false")
    return value


def _count(value: object, where: str, field: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= WORKS_MAX:
        raise WireError(f"{where}.{field}", f"must be an integer from {least} to {WORKS_MAX:,}")
    return value
