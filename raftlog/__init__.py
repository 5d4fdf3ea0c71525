"""A crash-safe replicated log for asyncio, on pysyncobj. Usable without the rest of this project.

The names are looked up when first used: a participant imports `raftlog.disk` and must not load pysyncobj for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftlog.config import LogConfig, Security, Timing
    from raftlog.disk import RealDisk
    from raftlog.memory import MemoryGroup, MemoryLog
    from raftlog.node import RaftLog
    from raftlog.port import (
        Applied,
        Leadership,
        Member,
        Outcome,
        Refusal,
        Refused,
        ReplicatedLog,
        Role,
        StateMachine,
        Status,
        Unknown,
    )

__all__ = [
    "Applied",
    "Leadership",
    "LogConfig",
    "Member",
    "MemoryGroup",
    "MemoryLog",
    "Outcome",
    "RaftLog",
    "RealDisk",
    "Refusal",
    "Refused",
    "ReplicatedLog",
    "Role",
    "Security",
    "StateMachine",
    "Status",
    "Timing",
    "Unknown",
]


if not TYPE_CHECKING:  # which takes it for a promise that there is any name

    def __getattr__(name: str) -> Any:
        match name:
            case "LogConfig" | "Security" | "Timing":
                return getattr(import_module("raftlog.config"), name)
            case "RealDisk":
                return getattr(import_module("raftlog.disk"), name)
            case "MemoryGroup" | "MemoryLog":
                return getattr(import_module("raftlog.memory"), name)
            case "RaftLog":
                return getattr(import_module("raftlog.node"), name)
        if name in __all__:
            return getattr(import_module("raftlog.port"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
