"""What lies between machines: which direction is cut, which machine has power, how long a message takes.

Machines are known by name. A cut is one direction of one pair, so partitions may be one-way. The byte streams
(`network.py`) and the calls (`rpc.py`) travel over the same links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

__all__ = ["Latency", "Links"]


@dataclass(frozen=True, slots=True)
class Latency:
    """One message's way: `least_s`, plus an exponential time of mean `mean_s`, and sometimes a spike."""

    least_s: float = 0.000_2
    mean_s: float = 0.000_5
    spike_probability: float = 0.0
    spike_mean_s: float = 0.5

    def draw(self, rng: Random) -> float:
        delay = self.least_s + rng.expovariate(1.0) * self.mean_s
        if self.spike_probability and rng.random() < self.spike_probability:
            delay += rng.expovariate(1.0) * self.spike_mean_s
        return delay


class Links:
    """All links of one world. `latency` may be changed at any time."""

    def __init__(self, seed: int | str, latency: Latency | None = None) -> None:
        self.latency = latency or Latency()
        self._rng = Random(f"{seed}/links")
        self._cut: set[tuple[str, str]] = set()
        self._dark: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    def delay(self) -> float:
        """How long the next message takes, in seconds."""
        return self.latency.draw(self._rng)

    def open(self, source: str, target: str) -> bool:
        """Whether a message from `source` reaches `target` now. A machine always reaches itself."""
        if not self._cut and not self._dark:
            return True
        if source in self._dark or target in self._dark:
            return False
        return source == target or (source, target) not in self._cut

    def powered(self, name: str) -> bool:
        return name not in self._dark

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from `source` to `target`; the way back stays as it is."""
        self._cut.add((source, target))

    def partition(self, side: Iterable[str], other: Iterable[str]) -> None:
        """Cut both directions between every machine of one side and every machine of the other."""
        others = list(other)
        for one in side:
            for two in others:
                self.cut(one, two)
                self.cut(two, one)

    def mend(self, source: str, target: str) -> None:
        """Undo `cut`."""
        self._cut.discard((source, target))
        self._tell()

    def mend_all(self) -> None:
        """Undo every cut. Power is another matter."""
        self._cut.clear()
        self._tell()

    def power_off(self, name: str) -> None:
        """The machine is gone without a word: no reset, no end of file."""
        self._dark.add(name)

    def power_on(self, name: str) -> None:
        """The machine answers again; it knows nothing of its old connections."""
        self._dark.discard(name)
        self._tell()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever something that was not open may be."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
