"""The API between a caller and the coordinator: every message, its limits, its two encodings. Version 1.

Owns: shapes and limits. Must never do: look at the ledger, or decide anything.

The models are strict (no text where a number belongs), closed (an unknown field is an error) and the only
source of the OpenAPI document. `body` is any value of `participant.values`; it is kept in its canonical bytes, so
that two requests that mean the same have the same digest.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgpack
from pydantic import BaseModel, Field, RootModel, ValidationError
from pydantic_core import from_json, to_json

from coordinator.errors import FieldError, Invalid, Malformed
from coordinator.ledger.records import Decision, Notice, Path, Phase
from coordinator.wire_base import (
    BRANCHES_MAX,
    DEADLINE_LONG_MAX_MS,
    NAME_PATTERN,
    ActionName,
    CommitProtocol,
    Message,
    Name,
    Query,
    Reason,
)
from coordinator.wire_queries import DoingView, Key, NotifyUrl
from coordinator.wire_steps import StepRequest, StepView, WorkflowView
from participant.errors import WireError
from participant.values import canonical
from participant.wire import WORKS_MAX

__all__ = [
    "API_VERSION",
    "BODY_BYTES_MAX",
    "BRANCHES_MAX",
    "DEADLINE_DEFAULT_MS",
    "DEADLINE_MIN_MS",
    "GID_RANDOM_BITS",
    "LEADER_HEADER",
    "MSGPACK_SEQ",
    "REQUEST_BYTES_MAX",
    "TRANSACTIONS_MAX",
    "WAIT_GRACE_MS",
    "WAIT_MAX_MS",
    "BeginQuery",
    "BranchRequest",
    "BranchView",
    "ClusterView",
    "CommitProtocol",
    "Encoding",
    "FieldProblem",
    "HealthView",
    "InquiryRequest",
    "MemberView",
    "Name",
    "Outcome",
    "OutcomeQuery",
    "OutcomeView",
    "ParticipantView",
    "ParticipantsView",
    "Problem",
    "ResolveRequest",
    "TransactionAnswer",
    "TransactionPage",
    "TransactionRequest",
    "TransactionRequests",
    "TransactionView",
    "TransactionsAnswer",
    "begin_wait_ms",
    "decode",
    "encode",
    "handle_of",
    "new_gid",
    "pack_body",
    "parse",
    "parse_name",
    "unpack_body",
]

API_VERSION = "1"
BODY_BYTES_MAX = 65_536  # one branch's body, in its canonical encoding
REQUEST_BYTES_MAX = 1_048_576
TRANSACTIONS_MAX = 256  # in one request
DEADLINE_MIN_MS = 100
DEADLINE_DEFAULT_MS = 10_000
WAIT_GRACE_MS = 2_000  # what a decision at the deadline may take to be recorded
WAIT_MAX_MS = 30_000  # the longest that one request waits for an outcome
LEADER_HEADER = "Commitd-Leader"
MSGPACK_SEQ = "application/msgpack-seq"
GID_RANDOM_BITS = 74

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)


class Encoding(StrEnum):
    """How a message is written; the value is the media type."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"


class Outcome(StrEnum):
    """All that a caller can hear of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    DECIDING = "deciding"


class BranchRequest(Message):
    """One participant's part. Without `action`, the branch did its work before (interactive style)."""

    branch: Name | None = Field(default=None, description="Unique in the transaction; b1, b2, … by position if absent.")
    participant: Name = Field(description="A name of the configuration's [participants].")
    action: ActionName | None = None
    body: Any = Field(default=None, description=f"Any value of at most {BODY_BYTES_MAX} bytes as msgpack.")
    works: int | None = Field(
        default=None,
        ge=1,
        le=WORKS_MAX,
        description="Without an action: how many work requests the branch has answered. It votes no if it lost any.",
    )
    step: StepRequest | None = Field(default=None, description="Absent: two-phase, whatever the others are.")


class TransactionRequest(Message):
    """Commit all of these branches, or none."""

    gid: Name | None = Field(default=None, description="The transaction's name; a UUIDv7 if absent.")
    branches: Annotated[list[BranchRequest], Field(min_length=1, max_length=BRANCHES_MAX)]
    deadline_ms: int = Field(
        default=DEADLINE_DEFAULT_MS,
        ge=DEADLINE_MIN_MS,
        le=DEADLINE_LONG_MAX_MS,
        description="How long a leader collects votes before it decides to abort. At most an hour without `reported`.",
    )
    key: Key | None = Field(
        default=None, description="The caller's own name for what it does; transactions may share it."
    )
    notify: NotifyUrl | None = Field(
        default=None, description="Where to tell how it was decided, and that it has ended."
    )
    protocol: CommitProtocol = Field(default=CommitProtocol.TWO_PHASE, strict=False)
    trace: str | None = Field(default=None, description="A W3C traceparent, and behind a space the tracestate, if any.")


class TransactionRequests(
    RootModel[TransactionRequest | Annotated[list[Any], Field(min_length=1, max_length=TRANSACTIONS_MAX)]]
):
    """One transaction, or an array of them (each a TransactionRequest): none waits for another or fails with it.

    What is wrong with one is its own answer; so the array's items have no schema here.
    """


class InquiryRequest(Message):
    """A participant in doubt asks. A transaction that nobody recorded is made aborted before the answer."""

    participant: Name
    branch: Name


class ResolveRequest(Message):
    """An operator decides an undecided transaction. Recorded with the operator's name."""

    decision: Decision = Field(strict=False)
    operator: Name
    reason: Reason


class BeginQuery(Query):
    wait_ms: int | None = Field(
        default=None,
        ge=0,
        le=WAIT_MAX_MS,
        description="How long to wait for the decision before *deciding*; a little more than the deadline if absent.",
    )


def begin_wait_ms(message: TransactionRequest, query: BeginQuery) -> int:
    """How long to wait for the decision."""
    return min(message.deadline_ms + WAIT_GRACE_MS, WAIT_MAX_MS) if query.wait_ms is None else query.wait_ms


class OutcomeQuery(Query):
    wait_ms: int = Field(default=0, ge=0, le=WAIT_MAX_MS, description="How long to wait for the decision.")


class OutcomeView(Message):
    """How the transaction ended, or where to ask again."""

    gid: str
    outcome: Outcome = Field(strict=False)
    reason: str | None = Field(default=None, description="Why it was aborted.")
    branch: str | None = Field(default=None, description="The branch that refused, if one did.")
    handle: str | None = Field(default=None, description="Where to ask again, while deciding.")


class FieldProblem(Message):
    field: str
    detail: str


class Problem(Message):
    """RFC 9457 problem details; from `code` on, the members are extensions. `retry_after_s`: as the header says it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retry_safe: bool
    retry_after_s: float | None = None
    request_id: str
    errors: list[FieldProblem] = Field(default_factory=list)


class TransactionAnswer(Message):
    """What one transaction of an array would have been answered if it had come alone."""

    status: int
    body: OutcomeView | Problem


class TransactionsAnswer(RootModel[OutcomeView | list[TransactionAnswer]]):
    """To one transaction its outcome; to an array an array of the same order.

    Who accepts `application/msgpack-seq` gets [position, status, body] for each, in the order of the decisions.
    """


class BranchView(Message):
    branch: str
    participant: str
    action: str | None
    ended: bool = Field(description="Nothing more is owed to it: it confirmed the decision, or needs no phase two.")
    step: StepView | None = Field(default=None, description="If the transaction goes step by step.")


class TransactionView(Message):
    """The record of one transaction. `*_at_ms` are wall-clock milliseconds of the leader at that time."""

    gid: str
    outcome: Outcome = Field(strict=False)
    phase: Phase = Field(strict=False)
    path: Path = Field(strict=False)
    branches: list[BranchView]
    deadline_ms: int
    begun_at_ms: int
    decided_at_ms: int | None
    decided_by: str | None
    reason: str | None
    branch: str | None = Field(description="The branch that refused, if one did.")
    revision: int
    key: str | None = Field(default=None, description="The caller's own name for what it does.")
    notify: str | None = Field(default=None, description="Where the application wants to be told.")
    notified: Notice = Field(default=Notice.NONE, strict=False, description="What it has taken last.")
    notice_dropped: str | None = Field(default=None, description="Who has it told no more, and why.")
    doing: DoingView | None = Field(default=None, description="Of one that is shown alone, while it is open.")
    stuck: str | None = Field(default=None, description="Why a person should look at it, if so.")
    workflow: WorkflowView | None = None


class TransactionPage(Message):
    """Newest first. `cursor` is given to the next request; null on the last page."""

    transactions: list[TransactionView]
    cursor: str | None


class MemberView(Message):
    name: str
    address: str
    url: str | None = Field(description="Its client URL, if the configuration of this replica names it.")


class HealthView(Message):
    """`status` is *ok* or *unavailable*; `detail` says why."""

    status: str
    detail: str


class ClusterView(Message):
    """One replica's picture of the cluster, not a linearizable read. Indexes count log entries."""

    cluster: str
    shard: int = Field(description="Of the group that this replica belongs to.")
    shards: int = Field(description="How many there are.")
    node: str
    role: str
    term: int
    leader: str | None
    leader_url: str | None
    members: list[MemberView]
    connected: list[str]
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    journal_bytes: int
    in_flight: int = Field(description="Undecided transactions that this replica drives.")
    open: int = Field(description="Unfinished transactions that this replica drives.")
    waiting: int = Field(description="Requests that wait here for an outcome.")
    broken: int = Field(description="Transactions that this replica failed to drive; its log says why.")
    recorded: int = Field(description="Transactions in the ledger.")
    counters: dict[str, int]


class ParticipantView(Message):
    name: str
    url: str


class ParticipantsView(Message):
    participants: list[ParticipantView]


def handle_of(gid: str) -> str:
    """The path of a transaction, the same at every replica."""
    return f"/v1/transactions/{gid}"


def new_gid(at_ms: int, chance: int) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) from wall-clock milliseconds and at least GID_RANDOM_BITS random bits."""
    high, low = divmod(chance & ((1 << GID_RANDOM_BITS) - 1), 1 << 62)
    return str(UUID(int=(at_ms & ((1 << 48) - 1)) << 80 | _VERSION_AND_VARIANT | high << 64 | low))


def decode(data: bytes, encoding: Encoding) -> Any:
    """The value that `data` holds. Raises Malformed."""
    try:
        if encoding is Encoding.MSGPACK:
            return msgpack.unpackb(data)
        return from_json(data, allow_inf_nan=False)
    except RecursionError as error:
        raise Malformed("the body is nested too deeply") from error
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(f"the body is not {encoding.value}: {error or type(error).__name__}") from error


def encode(message: BaseModel, encoding: Encoding) -> bytes:
    """The bytes of one of our messages."""
    if encoding is Encoding.MSGPACK:
        packed: bytes = msgpack.packb(message.model_dump(mode="json"))
        return packed
    return to_json(message)


_M = TypeVar("_M", bound=BaseModel)


def parse(model: type[_M], value: Any) -> _M:
    """`value` as a message. Raises Invalid, which names each wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fields = tuple(
            FieldError(".".join(str(part) for part in wrong["loc"]) or "body", wrong["msg"])
            for wrong in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise Invalid("; ".join(f"{f.field}: {f.detail}" for f in fields), fields=fields) from error


def parse_name(text: str, field: str) -> str:
    """`text` as a `Name`, fit for a path. Raises Invalid, naming `field`."""
    if re.fullmatch(NAME_PATTERN, text) is None:
        raise Invalid.field(field, f"{text!r:.80} is not 1 to 64 of A-Z a-z 0-9 _ . : -, a letter or digit first")
    return text


def pack_body(body: Any, field: str) -> bytes:
    """The canonical encoding of a branch's body. Raises Invalid, naming `field` and the place within it."""
    try:
        packed = canonical(body, field)
    except WireError as error:
        raise Invalid.field(error.field, error.why) from error
    if len(packed) > BODY_BYTES_MAX:
        raise Invalid.field(field, f"is {len(packed)} bytes as msgpack; at most {BODY_BYTES_MAX} are allowed")
    return packed


def unpack_body(packed: bytes) -> Any:
    """What `pack_body` packed; no bytes at all stand for nothing."""
    return msgpack.unpackb(packed) if packed else None
