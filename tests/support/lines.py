"""What the code under test says in its log, for a test to look at and to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

__all__ = ["Lines", "captured_lines"]


class Lines:
    """The lines, as they were said; `level` is added to each. Nothing is printed."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._said = asyncio.Event()

    def __call__(self, _logger: Any, level: str, line: Any) -> Any:
        self.lines.append({**line, "level": level})
        self._said.set()
        raise structlog.DropEvent

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.lines if line["event"] == event]

    async def until(self, holds: Callable[[], object], patience_s: float = 10.0) -> None:
        """Wait until `holds()`, asked again at every line."""
        async with asyncio.timeout(patience_s):
            while not holds():
                self._said.clear()
                await self._said.wait()


@contextmanager
def captured_lines() -> Iterator[Lines]:
    """Everything that is said inside, whatever its level."""
    before = structlog.get_config()
    lines = Lines()
    structlog.configure(processors=[lines], wrapper_class=structlog.stdlib.BoundLogger)
    try:
        yield lines
    finally:
        structlog.configure(**before)
