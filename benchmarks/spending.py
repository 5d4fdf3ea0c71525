"""What processes have used of the machine, as the kernel counts it: CPU time and resident memory (proc(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["CORES", "Reading", "cpu_s", "resident_bytes"]

CORES = os.cpu_count() or 1

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME = 11, 12  # fields of /proc/PID/stat, counted behind the name, which may hold anything
_IDLE = (3, 4)  # idle and iowait, in the first line of /proc/stat
_STEAL = 7  # and those behind it are counted before


@dataclass(frozen=True, slots=True)
class Reading:
    """What had been spent at one moment of the monotonic clock.

    `cpu_s`: by kind of process. `syncs`: forced writes. `machine_s`: CPU of everything that runs on this machine.
    """

    at_s: float
    cpu_s: Mapping[str, float]
    syncs: int
    machine_s: float

    @classmethod
    def now(cls, cpu_s: Mapping[str, float], syncs: int) -> Self:
        """At this moment."""
        return cls(time.monotonic(), cpu_s, syncs, _machine_s())


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of the processes with all their threads, those that have ended included."""
    return sum(_ticks(pid) for pid in pids) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Memory of the process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[_UTIME]) + int(fields[_STIME])


def _machine_s() -> float:
    times = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    return sum(ticks for at, ticks in enumerate(times[: _STEAL + 1]) if at not in _IDLE) / _TICKS_PER_S
