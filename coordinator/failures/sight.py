"""What everybody can see of one run while it lasts: whose rows are held, and whose part is there to be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.protocols.modes import SEPARATOR
from participant.ids import BranchKey
from participant.wire import BranchState

__all__ = ["Sight"]


class Sight:
    """Of one transaction at these banks. `shows`: as in `Protocol`. Times are in seconds, and never go back."""

    def __init__(self, banks: Iterable[str], shows: Mapping[str, int]) -> None:
        self._shows = shows
        self._held_since: dict[tuple[str, BranchKey], float] = {}
        self._longest_s = dict.fromkeys(banks, 0.0)
        self._seen = dict.fromkeys(self._longest_s, 0)  # what each bank shows to everybody
        self._committed: set[tuple[str, BranchKey]] = set()
        self._half_since: float | None = None
        self._half_done_s = 0.0

    def came_to(self, bank: str, key: BranchKey, state: BranchState, now: float) -> None:
        """What a branch has come to, durably. To be told again changes nothing."""
        place = bank, key
        if state is BranchState.PREPARED:
            self._held_since.setdefault(place, now)
            return
        if (since := self._held_since.pop(place, None)) is not None:
            self._longest_s[bank] = max(self._longest_s[bank], now - since)
        if state is BranchState.COMMITTED and place not in self._committed:
            self._committed.add(place)
            self._seen[bank] += self._shows.get(key.branch.partition(SEPARATOR)[2], 0)
            self._compare(now)

    def _compare(self, now: float) -> None:
        """Whether the banks show parts of the transfer without the others, and for how long they did."""
        self._half_done_s = self.half_done_s(now)
        self._half_since = now if len(set(self._seen.values())) > 1 else None

    @property
    def is_holding(self) -> bool:
        """Whether any bank holds rows."""
        return bool(self._held_since)

    def held_s(self, now: float) -> list[float]:
        """For how long each bank has held rows without a break, at most; the longest first."""
        held = dict(self._longest_s)
        for (bank, _), since in self._held_since.items():
            held[bank] = max(held[bank], now - since)
        return sorted(held.values(), reverse=True)

    def half_done_s(self, now: float) -> float:
        """For how long, all together, a part of it was there to be read without the others."""
        return self._half_done_s + (0.0 if self._half_since is None else now - self._half_since)
