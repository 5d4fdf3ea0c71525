"""The part of `coordinator.wire` that is about steps: sagas, TCC and messages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from coordinator.ledger.records import JITTER_DEFAULT_PERCENT, Mode, Report
from coordinator.wire_base import BRANCHES_MAX, DEADLINE_MAX_MS, ActionName, Message, Name, Reason, Value

__all__ = [
    "AGE_MAX_MS",
    "ATTEMPTS_MAX",
    "FIELD_CHARS_MAX",
    "NOT_BEFORE_MAX_MS",
    "ORDER_KEY_CHARS_MAX",
    "RETRY_BASE_DEFAULT_MS",
    "RETRY_CAP_DEFAULT_MS",
    "TOKEN_CHARS_MAX",
    "DeadAfterRequest",
    "LettersRequest",
    "ReportRequest",
    "RetryRequest",
    "StepRequest",
    "StepView",
    "WorkflowView",
]

AGE_MAX_MS = 604_800_000  # a week: each leader begins to count anew
ATTEMPTS_MAX = 1_000  # of a step before the decision; and refusals of a message, after which it is set aside
FIELD_CHARS_MAX = 64  # the name of a field that a result becomes
NOT_BEFORE_MAX_MS = 86_400_000  # a day: each leader begins to count anew
ORDER_KEY_CHARS_MAX = 128
TOKEN_CHARS_MAX = 192
RETRY_BASE_DEFAULT_MS = 100
RETRY_CAP_DEFAULT_MS = 10_000

_TOKEN = rf"^[!-~]{{1,{TOKEN_CHARS_MAX}}}$"


class RetryRequest(Message):
    """How often a step is begun before its refusal counts, and how long to wait in between: a window that doubles from
    `base_ms` to `cap_ms`, of which `jitter_percent` are drawn by chance. What must not fail, because it is decided, is
    begun anew without end."""

    attempts_max: int = Field(default=1, ge=1, le=ATTEMPTS_MAX)
    base_ms: int = Field(default=RETRY_BASE_DEFAULT_MS, ge=1, le=DEADLINE_MAX_MS)
    cap_ms: int = Field(default=RETRY_CAP_DEFAULT_MS, ge=1, le=DEADLINE_MAX_MS)
    jitter_percent: int = Field(default=JITTER_DEFAULT_PERCENT, ge=0, le=100, description="0: always the whole window.")


class DeadAfterRequest(Message):
    """When a message is set aside, instead of being tried for ever. Of both, the first counts; 0: never."""

    attempts_max: int = Field(default=0, ge=0, le=ATTEMPTS_MAX, description="Refusals.")
    age_max_ms: int = Field(
        default=0, ge=0, le=AGE_MAX_MS, description="Since the decision, as this leader has seen it; once it was tried."
    )


class StepRequest(Message):
    """How a branch takes part in a transaction that goes step by step. One branch with a step makes it one."""

    mode: Mode = Field(strict=False)
    after: list[Name] = Field(
        default_factory=list,
        max_length=BRANCHES_MAX,
        description="Branches, listed before this one, that must have succeeded before it begins.",
    )
    confirm: ActionName | None = Field(default=None, description="Of mode tcc: the action that makes it final.")
    undo: ActionName | None = Field(default=None, description="Of modes tcc and saga: the action that takes it back.")
    takes: dict[Annotated[str, Field(min_length=1, max_length=FIELD_CHARS_MAX)], Name] = Field(
        default_factory=dict,
        max_length=BRANCHES_MAX,
        description="Fields of the body, and the branches whose results they become, which this one then comes after."
        " The branch itself stands for its own result, which its confirm and its undo get.",
    )
    retry: RetryRequest = Field(default_factory=RetryRequest)
    not_before_ms: int = Field(
        default=0,
        ge=0,
        le=NOT_BEFORE_MAX_MS,
        description="Of mode forward: it begins so long after the decision, or later, never earlier.",
    )
    reported: Annotated[str, Field(min_length=1, max_length=FIELD_CHARS_MAX)] | None = Field(
        default=None,
        description="The action only begins the work: this field of its body becomes a token, with which somebody"
        " reports how the work has ended. Of modes saga, tcc and forward.",
    )

    order_key: Annotated[str, Field(min_length=1, max_length=ORDER_KEY_CHARS_MAX)] | None = Field(
        default=None,
        description="Of mode forward: those of one key run one after the other, in the order of their begin.",
    )

    dead_after: DeadAfterRequest = Field(default_factory=DeadAfterRequest, description="Of mode forward, at the end.")


class LettersRequest(Message):
    """An operator decides what becomes of the dead letters of a transaction. Recorded with the operator's name."""

    operator: Name
    reason: Reason
    branches: list[Name] = Field(default_factory=list, max_length=BRANCHES_MAX, description="Empty: all of them.")


class ReportRequest(Message):
    """Whoever has done the work that a step has begun says how it has ended."""

    token: Annotated[str, Field(pattern=_TOKEN)] = Field(description="The one that the step's action was given.")
    result: Any = Field(default=None, description="What the step gives to those that take its result.")
    refused: Reason | None = Field(default=None, description="Why the work will not be done. Absent: it is done.")


class StepView(Message):
    """How far a step has come, as far as the record knows: what has succeeded is noted a little later."""

    mode: Mode = Field(strict=False)
    after: list[str]
    confirm: str | None
    undo: str | None
    done: bool = Field(description="What comes before the decision has succeeded.")
    attempt: int = Field(description="How often it was begun before the decision, from 1.")
    settling: int = Field(description="The same for what the decision asks of it.")
    result: Any = Field(default=None, description="What it gave, if somebody takes it, of one that is shown alone.")
    not_before_ms: int = Field(default=0, description="How long after the decision it begins, at the earliest.")
    awaits_report: bool = Field(default=False, description="Its action has run, and nobody has reported yet.")
    reported: Report | None = Field(default=None, strict=False, description="What was reported of this attempt.")
    order_key: str | None = None
    awaits_turn: bool = Field(default=False, description="Others of its key, which were begun before it, are first.")
    dead: str | None = Field(default=None, description="Why it was set aside, if a person must say what becomes of it.")
    word: str | None = Field(default=None, description="Who had it delivered again, or dropped it, and why.")
    refused: str | None = Field(default=None, description="Of a workflow: why it was refused for good.")


class WorkflowView(Message):
    """What more there is to know of a transaction that is a workflow. Byte strings come as base64 text."""

    name: str
    result: Value = Field(description="What its code has returned, if it has.")
    diverged: str | None = Field(
        description="How a run of its code did not fit what is recorded, if the last one did not."
    )
