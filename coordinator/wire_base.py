"""What all messages of `coordinator.wire` are made of: names, numbers, and how strictly they are read."""

from __future__ import annotations

from base64 import b64encode
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from participant.wire import ACTION_CHARS_MAX

__all__ = [
    "BRANCHES_MAX",
    "DEADLINE_LONG_MAX_MS",
    "DEADLINE_MAX_MS",
    "NAME_PATTERN",
    "REASON_CHARS_MAX",
    "ActionName",
    "CommitProtocol",
    "Message",
    "Name",
    "Query",
    "Reason",
    "Value",
]

BRANCHES_MAX = 64
DEADLINE_MAX_MS = 3_600_000
DEADLINE_LONG_MAX_MS = 604_800_000  # a week: with a step that is reported
REASON_CHARS_MAX = 512  # of an operator, and of a report that something was refused
# Narrower than `participant.ids`: "." and ".." would vanish from a path.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Reason = Annotated[str, Field(min_length=1, max_length=REASON_CHARS_MAX)]
ActionName = Annotated[str, Field(min_length=1, max_length=ACTION_CHARS_MAX)]


def _said_in_json(value: Any) -> Any:
    match value:
        case bytes():
            return b64encode(value).decode()
        case list():
            return [_said_in_json(item) for item in value]
        case dict():
            return {key: _said_in_json(item) for key, item in value.items()}
    return value


Value = Annotated[Any, PlainSerializer(_said_in_json, when_used="json")]
"""What an answer says of a value of `participant.values`: as it is, but for byte strings, which are base64 text."""


class Message(BaseModel):
    """Strict (no text where a number belongs) and closed (an unknown field is an error)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CommitProtocol(StrEnum):
    """How branches without steps are committed.

    In three phases, participants that hear nothing end it by a majority; with the last one, which is unsafe when the
    network is parted, each by itself.
    """

    TWO_PHASE = "two-phase"
    THREE_PHASE = "three-phase"
    UNSAFE_COMMIT_ON_SILENCE = "three-phase-unsafe-commit-on-silence"


class Query(BaseModel):
    """Parameters after the `?`: text, so that numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
