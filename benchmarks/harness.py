"""What every benchmark shares: its options, the machine it ran on, percentiles, tables, and the last line in JSON.

A report is Markdown on standard output, so `python -m benchmarks.log > benchmarks/results/log.md` is all it takes to
publish a run. Progress goes to standard error. With `--json`, the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

__all__ = [
    "Options",
    "Report",
    "data_directory",
    "free_ports",
    "options",
    "progress",
    "quiet",
    "use_uvloop",
]

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `directory` is where the data of the run is kept while it lasts."""

    quick: bool
    json: bool
    directory: Path


def options(description: str) -> Options:
    """Read the command line. Ends the process with status 2 if the directory has no disk under it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 45 seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line as well")
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--directory", type=Path, default=temporary, help="a directory on the disk to be measured")
    chosen = parser.parse_args()
    if not chosen.directory.is_dir():
        parser.error(f"{chosen.directory} is not a directory")
    if (kind := _filesystem(chosen.directory)) in _IN_MEMORY:
        parser.error(f"{chosen.directory} is on {kind}, where a sync costs nothing: choose another with --directory")
    return Options(chosen.quick, chosen.json, chosen.directory)


@contextmanager
def data_directory(chosen: Options) -> Iterator[Path]:
    """A fresh directory for the run, removed at its end."""
    with tempfile.TemporaryDirectory(prefix="commitd-benchmark-", dir=chosen.directory) as directory:
        yield Path(directory)


def use_uvloop() -> None:
    """Run this process's event loops on uvloop, as the command line of `commitd` does."""
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def quiet() -> None:
    """Let this process log nothing but errors, and those where they do not mix with the report."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def progress(text: str) -> None:
    """Tell a waiting person what is being measured."""
    print(text, file=sys.stderr, flush=True)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Report:
    """A Markdown document, printed as it grows."""

    def __init__(self, title: str, chosen: Options) -> None:
        self._options = chosen
        print(f"# {title}\n")

    def machine(self) -> None:
        """Describe what the numbers were measured on."""
        kind = "quick" if self._options.quick else "full"
        self.text(
            f"{kind.capitalize()} run on {_cpu()}, {os.cpu_count()} cores; {platform.system()} {platform.release()}; "
            f"{_filesystem(self._options.directory)}; {platform.python_implementation()} {platform.python_version()}. "
            f"Load average before the run {os.getloadavg()[0]:.1f}."
        )

    def heading(self, text: str) -> None:
        print(f"## {text}\n")

    def text(self, text: str) -> None:
        print(f"{text}\n")

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table with aligned columns: the first to the left, all others to the right."""
        cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        for row in [cells[0], rule, *cells[1:]]:
            first, *rest = (
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            print("| " + " | ".join([first, *rest]) + " |")
        print()

    def end(self, summary: dict[str, Any]) -> None:
        """Print the summary in JSON, if it was asked for."""
        if self._options.json:
            print(json.dumps(summary))
        sys.stdout.flush()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _filesystem(directory: Path) -> str:
    """The kind of file system that `directory` is on, as proc_mounts(5) names it."""
    path = directory.resolve()
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "an unknown file system"
    kinds = {Path(fields[1]): fields[2] for fields in map(str.split, mounts)}
    return next((kinds[above] for above in [path, *path.parents] if above in kinds), "an unknown file system")
