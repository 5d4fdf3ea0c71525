"""How old prepared transactions of others are. Where the database keeps no time of them, since when they are seen.

Sans-IO: the time is an argument, of any clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from participant.rm.sweep import Foreign

__all__ = ["FOREIGN_MAX_AGE_S", "Seen", "Sightings"]

FOREIGN_MAX_AGE_S = 300.0  # then it is an alarm


class Seen(NamedTuple):
    """A prepared transaction of somebody else. `is_least`: it is as old as that at least, since it was seen then."""

    name: str
    age_s: float
    is_least: bool


class Sightings:
    """Of one database: since when each is seen that has no age of its own."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def aged(self, foreign: Iterable[Foreign], now: float) -> list[Seen]:
        """All that are there now, with their ages. Those that are gone are forgotten."""
        listed = list(foreign)
        self._since = {each.name: self._since.get(each.name, now) for each in listed if each.age_s is None}
        return [
            Seen(each.name, now - self._since[each.name], is_least=True)
            if each.age_s is None
            else Seen(each.name, each.age_s, is_least=False)
            for each in listed
        ]
