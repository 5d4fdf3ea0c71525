"""What an action on the memory store receives as `tx`: an overlay over the committed keys.

A value is kept as its canonical bytes, so that nobody holds a reference into the store. An intent is the
overlay's net change: msgpack [[key, bytes or nil], …], sorted by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from participant.errors import ActionError
from participant.locks import Row
from participant.resource import OpenBranch
from participant.rm.store import NOTHING, Effects
from participant.values import canonical

__all__ = ["KEY_CHARS_MAX", "Transaction", "changes_of"]

KEY_CHARS_MAX = 512


def changes_of(intent: bytes) -> Iterable[tuple[str, bytes | None]]:
    """The changes that an intent stands for, as pairs; None deletes the key."""
    changes: Iterable[tuple[str, bytes | None]] = msgpack.unpackb(intent) if intent else ()
    return changes


class Transaction:
    """The local transaction of one action. Usable only while the action runs."""

    def __init__(self, committed: Mapping[str, bytes], base: bytes, branch: OpenBranch | None = None) -> None:
        self.branch = branch
        self._committed = committed
        self._changed = dict(changes_of(base))
        self._is_over = False

    async def get(self, key: str) -> Any:
        """A copy of the value, or None."""
        self._check(key)
        data = self._changed[key] if key in self._changed else self._committed.get(key)
        return None if data is None else msgpack.unpackb(data)

    async def put(self, key: str, value: Any) -> None:
        """Set a key to a JSON value that is not None. Raises WireError for anything else."""
        self._check(key)
        if value is None:
            raise ActionError("it put None; delete the key instead")
        self._changed[key] = canonical(value, f"value of {key!r}")

    async def delete(self, key: str) -> None:
        """Remove a key; nothing happens if it is not there."""
        self._check(key)
        self._changed[key] = None

    async def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with `prefix`, sorted."""
        self._check("any")
        candidates = (key for key in self._committed.keys() | self._changed.keys() if key.startswith(prefix))
        return sorted(key for key in candidates if self._changed.get(key, b"") is not None)

    def end(self) -> Effects:
        """The action is over; what it would change. A write that leaves a key as it was is none."""
        self._is_over = True
        committed = self._committed.get
        net = [change for change in self._changed.items() if committed(change[0]) != change[1]]
        if not net:
            return NOTHING
        net.sort()
        return Effects(frozenset([Row("key", (key,)) for key, _ in net]), msgpack.Packer().pack(net))

    def _check(self, key: str) -> None:
        if self._is_over:
            raise ActionError("its tx was used after the action had ended")
        if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARS_MAX:
            raise ActionError(f"a key must be text of 1 to {KEY_CHARS_MAX} characters, not {key!r:.80}")
