"""The demo on standard error while it runs: what happens, and a bar where there is a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from coordinator.demo.workload import Heard
from coordinator.wire import Outcome

__all__ = ["Show"]


class Show:
    """A `run.Spectator`. To be used with `with`."""

    def __init__(self, transfers: int, console: Console) -> None:
        self._console = console
        self._counts = dict.fromkeys(Outcome, 0)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(self._described(), total=transfers)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """One line, above the bar."""
        self._console.print(f"{self._progress.tasks[0].elapsed or 0.0:6.1f} s  {line}", highlight=False, markup=False)

    def answered(self, heard: Heard) -> None:
        """Move the bar."""
        self._counts[heard.outcome] += 1
        self._progress.update(self._task, advance=1, description=self._described())

    def _described(self) -> str:
        return f"{self._counts[Outcome.COMMITTED]:,} committed, {self._counts[Outcome.ABORTED]:,} aborted"
