"""What happened, as one running hash: two runs of the same seed must agree on it, on every machine."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

from coordinator.simulation.process import in_dead_process

__all__ = ["Trace"]


class Trace:
    """Every event of one run, in order. Keeps the hash of all and the text of the last `keep_max`."""

    def __init__(self, now: Callable[[], float], keep_max: int = 200) -> None:
        self._now = now
        self._hash = hashlib.blake2b(digest_size=12)
        self._last: deque[str] = deque(maxlen=keep_max)
        self._echo: Callable[[str], None] | None = None
        self.events = 0

    def echo(self, write: Callable[[str], None]) -> None:
        """Also give every event to `write`, as one line of text."""
        self._echo = write

    def note(self, kind: str, *fields: object) -> None:
        """Add an event. The fields' text must not depend on anything but the seed."""
        if in_dead_process():
            return
        line = f"{self._now():14.6f} {kind} {' '.join(map(str, fields))}"
        self._hash.update(line.encode())
        self._last.append(line)
        self.events += 1
        if self._echo is not None:
            self._echo(line)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def last(self) -> list[str]:
        """The text of the last events."""
        return list(self._last)
