"""What a process remembers of the branches of its server: its open work, and what it has seen prepared.

The server's word goes before it: what is remembered saves a question, and is dropped when the server says otherwise.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from participant.branch import Branch
from participant.ids import BranchKey
from participant.rm.server.backend import Backend, Prepared, Unit
from participant.wire import BranchState

__all__ = ["SUSPECTS_MAX", "Held", "Known", "Opened"]

SUSPECTS_MAX = 100_000  # branches whose vote was lost with its connection, remembered to ask before they run again


@dataclass(slots=True)
class Opened:
    """An interactive branch: nothing of it is durable."""

    unit: Unit
    timer: asyncio.TimerHandle
    works: int
    last_digest: bytes
    last_result: Any


@dataclass(frozen=True, slots=True)
class Held:
    """A prepared branch. `since` is this process's time; `age_s` how long it had been prepared by then."""

    digest: bytes
    since: float
    age_s: float = 0.0


class Known:
    """The memory of one `ServerManager`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.open: dict[BranchKey, Opened] = {}
        self.held: dict[BranchKey, Held] = {}  # oldest first
        self._suspects: dict[BranchKey, None] = {}

    def __len__(self) -> int:
        return len(self.open) + len(self.held)

    def is_anything(self, key: BranchKey) -> bool:
        """Whether there is a reason to ask the server before a branch runs."""
        return key in self.open or key in self.held or key in self._suspects

    def held_since(self, key: BranchKey) -> float | None:
        """Since when a branch is prepared, in this process's time; None if it is not known to be."""
        held = self.held.get(key)
        return None if held is None else held.since

    def suspect(self, key: BranchKey) -> None:
        """A vote was lost on its way: it may be true."""
        if len(self._suspects) < SUSPECTS_MAX:
            self._suspects[key] = None

    async def truth(self, key: BranchKey) -> Branch:
        """What is true of a branch. Raises ResourceUnreachable."""
        if key in self.open:
            return Branch(key, BranchState.WORKING)
        branch = await self._backend.load(key)
        self._suspects.pop(key, None)
        return branch

    async def drop(self, key: BranchKey) -> bool:
        """Undo the open work of a branch; whether there was any."""
        opened = self.open.pop(key, None)
        if opened is None:
            return False
        opened.timer.cancel()
        await opened.unit.rollback()
        return True

    async def listed(self) -> list[Prepared]:
        """What the server lists as prepared; memory follows it. What came to be held since it was asked stays."""
        before = frozenset(self.held)
        listed = await self._backend.prepared()
        now = asyncio.get_running_loop().time()
        held = {
            each.key: self.held.get(each.key) or Held(each.digest, now, each.age_s)
            for each in listed
            if each.key in self.held or each.key not in before  # it may have ended meanwhile
        }
        held.update({key: value for key, value in self.held.items() if key not in before and key not in held})
        self.held = held
        return listed
