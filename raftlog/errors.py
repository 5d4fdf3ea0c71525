"""Errors of the replicated log, as a tree.

    LogError
    ├── ConfigError        the caller's configuration cannot work; names the field
    ├── LogStopped         the node is stopped or failed; nothing can be asked of it any more
    ├── Corrupt            what is on the disk is not what was written; names file and offset
    ├── DiskFailed         a write or a sync failed; the node stops and must be restarted
    ├── FormatError        intact bytes of a format version that this code does not know
    ├── FrameError         a peer sent something that is not our protocol
    └── InvariantError     a promise of our own code is broken; the node stops

Answers to a proposal are *values* (`raftlog.port.Outcome`), not exceptions: "unknown" must be faced.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "Corrupt",
    "DiskFailed",
    "FormatError",
    "FrameError",
    "InvariantError",
    "LogError",
    "LogStopped",
    "invariant",
]


class LogError(Exception):
    """Something went wrong in the replicated log."""


class ConfigError(LogError):
    """The configuration cannot work."""


class LogStopped(LogError):
    """The node is stopped."""


class Corrupt(LogError):
    """A file holds what was never written there, so the node refuses to start.

    Remove the replica from the cluster and add an empty one under a new name. Under its old name an empty replica would
    have forgotten what it voted for and acknowledged, and acknowledged entries could be lost.
    """

    def __init__(self, file: str, offset: int, why: str) -> None:
        super().__init__(f"{file} is corrupt at byte {offset}: {why}")
        self.file = file
        self.offset = offset
        self.why = why


class DiskFailed(LogError):
    """A write or a sync failed. What is on the disk is unknown from here on, so it is never retried."""


class FormatError(LogError):
    """An entry or a snapshot is intact, but not in a format that this code knows. Upgrade the node."""


class FrameError(LogError):
    """A peer sent bytes that are not a frame of our protocol."""


class InvariantError(LogError):
    """An invariant of our own code does not hold."""


def invariant(condition: bool, why: str) -> None:
    """Stop the node unless `condition` holds. Always on: unlike `assert`, no flag removes it."""
    if not condition:
        raise InvariantError(why)
