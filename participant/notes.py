"""Notes that a resource manager keeps beside its branches, for what is agreed among participants. A port.

A note is bytes under the name of a branch; what is in it, the resource manager does not know. It is written in a local
transaction of its own, apart from the rows of the branch, and the write compares first: so two processes, or two
requests, never overwrite what the other has just promised. All of ours keep notes, in a table `commitd_note`, and pass
the same tests (`tests/contract/test_notes.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, runtime_checkable

from participant.ids import BranchKey

__all__ = ["NOTE_BYTES_MAX", "NoteKeeper"]

NOTE_BYTES_MAX = 65_535  # of one branch


@runtime_checkable
class NoteKeeper(Protocol):
    """What a resource manager offers that keeps notes. Both raise what its other methods raise."""

    def note(self, key: BranchKey) -> Awaitable[bytes | None]:
        """The note of a branch; None if there is none."""

    def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, is_finished: bool = False
    ) -> Awaitable[bool]:
        """Replace the note, if it is `expected` now (None: if there is none); whether it was. Durable on return.

        A finished one is forgotten after the retention of its branch, any other one never.
        """
