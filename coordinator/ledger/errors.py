"""Errors of the ledger, as a tree. Both are fatal for a node: its state would no longer be that of the others.

    LedgerError
    ├── CommandError     bytes that are not a command of this version, or a command that has no bytes
    └── SnapshotError    chunks that are not a whole snapshot of this version

What the rules forbid is no error but a value (`table.Rejected`), the same on every replica.
"""

from __future__ import annotations

__all__ = ["CommandError", "LedgerError", "SnapshotError"]


class LedgerError(Exception):
    """The ledger cannot read what it was given."""


class CommandError(LedgerError):
    """Not a command."""


class SnapshotError(LedgerError):
    """Not a snapshot."""
