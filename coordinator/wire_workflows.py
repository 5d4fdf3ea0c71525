"""The part of `coordinator.wire` that is about workflows: how one is begun, and what a worker says and hears.

A value is given as JSON has it: byte strings in it come as base64 text.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from coordinator.ledger.workflows import StepState
from coordinator.wire import DEADLINE_MIN_MS, BranchRequest
from coordinator.wire_base import BRANCHES_MAX, DEADLINE_MAX_MS, Message, Name, Value
from coordinator.wire_queries import Key, NotifyUrl

__all__ = [
    "CLAIM_WAIT_MAX_MS",
    "FAILURE_CHARS_MAX",
    "OFFERS_MAX",
    "RUNNING_MAX",
    "WORKFLOWS_MAX",
    "ClaimAnswer",
    "ClaimQuery",
    "ClaimRequest",
    "OfferView",
    "RunEndRequest",
    "RunView",
    "StepAnswer",
    "StepAsk",
    "WorkflowRequest",
]

CLAIM_WAIT_MAX_MS = 2_000  # less than the lease of what the worker runs
WORKFLOWS_MAX = 256  # that one worker knows
RUNNING_MAX = 1_024  # that one worker runs at once, of one shard
OFFERS_MAX = 64  # in one answer
FAILURE_CHARS_MAX = 4_096  # of why the code has failed; what the record keeps is shorter


class WorkflowRequest(Message):
    """Begin a workflow: some worker that knows its code is to run it."""

    gid: Name | None = Field(default=None, description="The transaction's name; a UUIDv7 if absent.")
    workflow: Name
    input: Any = Field(default=None, description="What the code is given; as large as a body may be.")
    deadline_ms: int = Field(
        default=DEADLINE_MAX_MS,
        ge=DEADLINE_MIN_MS,
        le=DEADLINE_MAX_MS,
        description="How long the code may take, with everything it waits for, before all is undone.",
    )
    key: Key | None = Field(default=None, description="As of a transaction.")
    notify: NotifyUrl | None = Field(default=None, description="As of a transaction.")
    trace: str | None = Field(default=None, description="As of a transaction.")


class ClaimRequest(Message):
    """A worker says what it runs, and asks for more. What it has run and does not name here, it has let go."""

    worker: Name = Field(description="This worker's own name, another one for each process.")
    workflows: list[Name] = Field(min_length=1, max_length=WORKFLOWS_MAX, description="Those whose code it has.")
    running: list[Name] = Field(max_length=RUNNING_MAX, description="The gids that it runs, of this shard.")
    room: int = Field(ge=0, le=OFFERS_MAX, description="How many more it would run.")


class ClaimQuery(BaseModel):
    """Numbers are read from text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait_ms: int = Field(
        default=0, ge=0, le=CLAIM_WAIT_MAX_MS, description="How long to wait until there is something to run."
    )


class OfferView(Message):
    """A workflow that this worker is to run, from its beginning."""

    gid: str
    workflow: str
    input: Value
    begun_at_ms: int = Field(description="Wall-clock milliseconds of the leader at that time.")
    steps: int = Field(description="How many steps are recorded, and will be answered without a call if they are done.")


class ClaimAnswer(Message):
    """`lost`: what the worker need not run any more, because it is decided or another one runs it."""

    offers: list[OfferView]
    lost: list[str]


class StepAsk(Message):
    """The code asks for its next step. The same again is harmless, and gets the same answer."""

    worker: Name
    number: int = Field(ge=1, le=BRANCHES_MAX, description="Of the step in its workflow.")
    call: Annotated[
        BranchRequest,
        Field(
            description="As in a transaction, but without `branch` and `step.after`; it is called `s` and its number."
        ),
    ]


class StepAnswer(Message):
    """What has become of the step. While it is pending: the same request again."""

    state: StepState = Field(strict=False)
    result: Value = Field(description="Of what is done.")
    reason: str = Field(description="Of what was refused.")
    at_ms: int = Field(description="When the step was recorded, in wall-clock milliseconds of the leader; 0: not yet.")


class RunEndRequest(Message):
    """The code has come to its end: it gave a result, which commits, or it failed, which aborts."""

    worker: Name
    steps: int = Field(ge=0, le=BRANCHES_MAX, description="How many steps it has asked for.")
    result: Any = Field(default=None, description="As large as a body may be.")
    failure: Annotated[str, Field(min_length=1, max_length=FAILURE_CHARS_MAX)] | None = Field(
        default=None, description="Why it failed; then there is no result."
    )


class RunView(Message):
    """Who runs a workflow, as far as the leader knows."""

    gid: str
    workflow: str
    worker: str | None = Field(description="Absent: nobody; it waits for a worker that knows it, or it has ended.")
