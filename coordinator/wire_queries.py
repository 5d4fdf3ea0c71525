"""The part of `coordinator.wire` about finding transactions again, by keys and in lists, and about hearing of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from coordinator.ledger.records import Phase
from coordinator.wire_base import Name, Query

__all__ = [
    "EVENT_STREAM",
    "HEARTBEAT_S",
    "KEY_BYTES_MAX",
    "LAST_EVENT_ID",
    "LIST_LIMIT_DEFAULT",
    "LIST_LIMIT_MAX",
    "Key",
    "ListQuery",
]

KEY_BYTES_MAX = 128  # as UTF-8; every record has room for it
HEARTBEAT_S = 5.0  # a stream of events on which nothing came for so long says that it is still there
EVENT_STREAM = "text/event-stream"
LAST_EVENT_ID = "Last-Event-ID"
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


class ListQuery(Query):
    """Which transactions to list."""

    key: Key | None = Field(default=None, description="That were begun under this key.")
    phase: list[Phase] = Field(default_factory=list, description="May be repeated.")
    participant: Name | None = Field(default=None, description="Of any branch.")
    begun_after_ms: Millis | None = Field(default=None, description="Begun at this wall-clock millisecond or later.")
    begun_before_ms: Millis | None = Field(default=None, description="Begun before this wall-clock millisecond.")
    stuck: bool = Field(default=False, description="Only those that a person should look at.")
    limit: int = Field(default=LIST_LIMIT_DEFAULT, ge=1, le=LIST_LIMIT_MAX)
    cursor: Annotated[str, Field(pattern=_CURSOR)] | None = Field(default=None, description="From the page before.")
