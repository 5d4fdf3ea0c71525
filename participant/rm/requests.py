"""What can be asked of an `Engine`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from participant.branch import Ask
from participant.ids import BranchKey
from participant.resource import Call
from participant.values import digest_of

__all__ = [
    "BranchRequest",
    "Forget",
    "ListInDoubt",
    "Measure",
    "OtherRequest",
    "Read",
    "ReadNote",
    "Request",
    "SwapNote",
    "Ticket",
]

_INTERACTIVE = digest_of(None, b"")  # what a branch is bound to that was built by `work`


class BranchRequest(NamedTuple):
    """`call` with WORK, and with PREPARE and COMMIT_ONE_PHASE in the declared style; `works` with these two in the
    interactive style; `reason` with PREVENT.
    """

    ask: Ask
    key: BranchKey
    call: Call | None = None
    seq: int = 0
    reason: str = ""
    works: int | None = None

    @property
    def digest(self) -> bytes:
        """What the request asks for."""
        return self.call.digest if self.call is not None else _INTERACTIVE

    @property
    def binding(self) -> bytes:
        """What the branch is bound to by it."""
        return _INTERACTIVE if self.ask is Ask.WORK else self.digest

    def is_repeat_of(self, other: BranchRequest) -> bool:
        return (self.ask, self.seq, self.digest) == (other.ask, other.seq, other.digest)


@dataclass(frozen=True, slots=True)
class Read:
    """Run a function that writes nothing."""

    call: Call


@dataclass(frozen=True, slots=True)
class ListInDoubt:
    """Name the prepared branches."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Say what is measured (`ResourceStatus`)."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop finished branches older than this."""

    before_ms: int
    branches_max: int


@dataclass(frozen=True, slots=True)
class ReadNote:
    """Give the note of a branch (`participant.notes`)."""

    key: BranchKey


@dataclass(frozen=True, slots=True)
class SwapNote:
    """Replace it, if it is `expected`."""

    key: BranchKey
    expected: bytes | None
    note: bytes
    is_finished: bool


OtherRequest: TypeAlias = Read | ListInDoubt | Measure | Forget | ReadNote | SwapNote
Request: TypeAlias = BranchRequest | OtherRequest

Ticket: TypeAlias = object
"""Whatever the caller wants back with the result of a request."""
