"""The port below `rm.engine`: one embedded database, used by one thread.

A store knows rows and intents; it knows nothing of verdicts, locks or waiting. Implementations: `rm.sqlite.store`,
`rm.memory.store`.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

import msgpack

from participant.branch import Branch
from participant.errors import ActionError
from participant.ids import BranchKey
from participant.locks import Row
from participant.resource import Call, OpenBranch

__all__ = ["NOTHING", "Effects", "Ran", "Store", "drive", "pack_rows", "unpack_rows"]


class Effects(NamedTuple):
    """What an action would change: the rows to lock, and the intent, which `Store.apply` understands."""

    rows: frozenset[Row]
    intent: bytes

    def __bool__(self) -> bool:
        return bool(self.intent)


NOTHING = Effects(frozenset(), b"")


class Ran(NamedTuple):
    """An action ran to its end: what it returned, and what it would change."""

    result: Any
    effects: Effects


class Store(Protocol):
    """Every method blocks. An exception that is not documented here is fatal for the store."""

    def open(self) -> list[tuple[BranchKey, frozenset[Row]]]:
        """Own the data; the prepared branches with the rows that they lock, oldest first.

        Raises: AlreadyOwned, SchemaError, ResourceBusy, ResourceFailed.
        """

    def close(self) -> None:
        """Give the data back."""

    def begin(self) -> None:
        """Start one local transaction. Raises ResourceBusy (nothing happened)."""

    def commit(self) -> None:
        """End it. What was saved and applied since `begin` is durable on return. Raises ResourceFailed."""

    def load(self, key: BranchKey) -> Branch | None:
        """The row of a branch."""

    def save(self, branch: Branch, effects: Effects = NOTHING) -> None:
        """Write the row of a branch, and what it promises; replaces what was there."""

    def intent(self, key: BranchKey) -> bytes:
        """The intent that was saved with a prepared branch."""

    def note(self, key: BranchKey) -> bytes | None:
        """The note of a branch (`participant.notes`)."""

    def save_note(self, key: BranchKey, note: bytes, *, changed_at_ms: int, is_finished: bool) -> None:
        """Write it; replaces what was there."""

    def run(self, call: Call, base: bytes, branch: OpenBranch | None = None) -> Ran:
        """Run an action on top of the intent `base`, and leave nothing of it behind.

        `branch`: that of the action; None for a view. The effects are those of both together. Raises whatever the
        action raises; IntentConflict for `base`.
        """

    def apply(self, intent: bytes) -> None:
        """Make an intent's changes true, all or none. Raises IntentConflict."""

    def forget(self, before_ms: int, branches_max: int) -> int:
        """Drop finished branches last changed before `before_ms`, at most so many; how many there were. And as many
        finished notes, which are not counted.
        """


def drive(action: Coroutine[Any, Any, Any]) -> Any:
    """Run an action to its end in this thread, and return its result.

    An action runs while the database's only writer waits for it, so it may await its `tx`, which never
    suspends, and nothing else. Raises ActionError if it tries, and whatever the action raises.
    """
    try:
        action.send(None)
    except StopIteration as end:
        return end.value
    except CancelledError as error:  # no Exception: it would end the thread's work instead of the branch
        raise ActionError("it raised CancelledError") from error
    action.close()
    raise ActionError("it awaited something other than its tx; do that before the transaction or after it")


def pack_rows(rows: frozenset[Row]) -> bytes:
    """Rows as bytes."""
    listed = [[row.table, row.key] for row in rows]
    if len(listed) > 1:
        listed.sort(key=repr)
    packed: bytes = msgpack.Packer().pack(listed)
    return packed


def unpack_rows(data: bytes) -> frozenset[Row]:
    """The inverse of `pack_rows`."""
    return frozenset(Row(table, tuple(key)) for table, key in msgpack.unpackb(data))
