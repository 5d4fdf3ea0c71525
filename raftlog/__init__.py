"""A crash-safe replicated log for asyncio, on pysyncobj. Usable without the rest of this project."""

from __future__ import annotations

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
