"""A `ServerManager` that keeps notes (`participant.notes`)."""

from __future__ import annotations

from participant.ids import BranchKey
from participant.rm.server.manager import ServerManager

__all__ = ["NotingManager"]


class NotingManager(ServerManager):
    """`participant.notes.NoteKeeper`, over the table of its backend."""

    async def note(self, key: BranchKey) -> bytes | None:
        self._check_open()
        return await self._backend.note(key)

    async def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, is_finished: bool = False
    ) -> bool:
        self._check_open()
        at_ms = self._wall_ms()
        return await self._backend.swap_note(key, expected, note, changed_at_ms=at_ms, is_finished=is_finished)
