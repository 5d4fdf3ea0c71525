"""What a power cut leaves, chosen instead of drawn: the random numbers that make `SimDisk.crash` do one thing.

`SimDisk` asks, in this order: how many of the unsynced changes of names survive, and for each file which length, and
which of its unsynced blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Self, TypeVar

__all__ = ["CONTENT_ONLY", "EVERYTHING", "EXTREMES", "NAMES_ONLY", "NOTHING"]

T = TypeVar("T")


class _Chosen(Random):
    """`names` and `content`: whether what was not synced of them survives."""

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, what: str, *, names: bool, content: bool) -> None:
        super().__init__(0)
        self._what, self._names, self._content = what, names, content

    def __repr__(self) -> str:
        return self._what

    def randint(self, a: int, b: int) -> int:
        return b if self._names else a

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 1 if self._content else 0  # the length: the whole, or what was synced

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]
        return seq[-1]  # the blocks: all of them

    def random(self) -> float:
        return 0.5


NOTHING = _Chosen("nothing", names=False, content=False)
EVERYTHING = _Chosen("everything", names=True, content=True)
NAMES_ONLY = _Chosen("names only", names=True, content=False)
CONTENT_ONLY = _Chosen("content only", names=False, content=True)
EXTREMES: tuple[Random, ...] = (NOTHING, EVERYTHING, NAMES_ONLY, CONTENT_ONLY)
