"""The part of `coordinator.wire` about finding transactions again, by keys and in lists, and about hearing of them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field

from coordinator.ledger.records import Phase
from coordinator.wire_base import Message, Name, Query, Reason
from participant.wire import BranchState

__all__ = [
    "EVENT_STREAM",
    "HEARTBEAT_S",
    "KEY_BYTES_MAX",
    "LAST_EVENT_ID",
    "LIST_LIMIT_DEFAULT",
    "LIST_LIMIT_MAX",
    "NOTIFY_CHARS_MAX",
    "AttemptView",
    "DoingView",
    "DropNoticeRequest",
    "Key",
    "ListQuery",
    "NotifyUrl",
]

KEY_BYTES_MAX = 128  # as UTF-8; every record has room for it
HEARTBEAT_S = 5.0  # a stream of events on which nothing came for so long says that it is still there
EVENT_STREAM = "text/event-stream"
LAST_EVENT_ID = "Last-Event-ID"
NOTIFY_CHARS_MAX = 512
LIST_LIMIT_DEFAULT = 50
LIST_LIMIT_MAX = 500

_CURSOR = r"^[0-9]{1,16}\.[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"

Millis = Annotated[int, Field(ge=0, lt=2**53)]


def _key(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a key is text that can be printed, in one line")
    if not 0 < (size := len(text.encode())) <= KEY_BYTES_MAX:
        raise ValueError(f"the key is {size} bytes as UTF-8; it has 1 to {KEY_BYTES_MAX}")
    return text


Key = Annotated[str, AfterValidator(_key), Field(description=f"1 to {KEY_BYTES_MAX} bytes of printable text.")]


def _notify(text: str) -> str:
    if not (text.isascii() and text.isprintable() and " " not in text and len(text) <= NOTIFY_CHARS_MAX):
        raise ValueError(f"a URL is at most {NOTIFY_CHARS_MAX} ASCII characters without spaces")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("write http:// or https://, a host and a path, without a user or a fragment")
    path = _unquoted(parts.path)
    if "\\" in path or {".", ".."} & {segment.partition(";")[0] for segment in path.split("/")}:
        raise ValueError("the path must not contain . or .. or a backslash")
    if parts.port == 0:
        raise ValueError("the port is not in 1 to 65535")
    return text


def _unquoted(path: str) -> str:
    """As somebody on the way may read it who decodes more than once."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return path


NotifyUrl = Annotated[str, AfterValidator(_notify), Field(description="An http or https URL that the cluster allows.")]


class DropNoticeRequest(Message):
    """An operator has an application told no more of a transaction. Recorded with the operator's name."""

    operator: Name
    reason: Reason


class AttemptView(Message):
    """One question that the leader asks until it is answered."""

    branch: str | None = Field(description="As it is called at its participant; null: the application, of a notice.")
    asks: str = Field(description="The verb; of the application, the notice.")
    times: int = Field(description="How often in a row, from 1.")
    under_way: bool
    heard: BranchState | None = Field(strict=False, description="What the branch has said last.")
    error: str | None = Field(description="Why the last time brought no useful answer.")


class DoingView(Message):
    """What the leader is doing about an open transaction. A new leader begins to count anew."""

    attempts: list[AttemptView]
    next_ms: int | None = Field(
        description="So soon the leader looks again, if nothing happens before; null: it waits for an answer."
    )


class ListQuery(Query):
    """Which transactions to list."""

    key: Key | None = Field(default=None, description="That were begun under this key.")
    phase: list[Phase] = Field(default_factory=list, description="May be repeated.")
    participant: Name | None = Field(default=None, description="Of any branch.")
    begun_after_ms: Millis | None = Field(default=None, description="Begun at this wall-clock millisecond or later.")
    begun_before_ms: Millis | None = Field(default=None, description="Begun before this wall-clock millisecond.")
    stuck: bool = Field(default=False, description="Only those that a person should look at.")
    dead: bool = Field(default=False, description="Only those with messages that were set aside.")
    limit: int = Field(default=LIST_LIMIT_DEFAULT, ge=1, le=LIST_LIMIT_MAX)
    cursor: Annotated[str, Field(pattern=_CURSOR)] | None = Field(default=None, description="From the page before.")
