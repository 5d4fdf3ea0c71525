"""The SQLite resource manager. `SQLite` is what a service creates, `Transaction` what its actions receive as `tx`."""

from __future__ import annotations

from participant.rm.sqlite.manager import SQLite
from participant.rm.sqlite.transaction import Transaction

__all__ = ["SQLite", "Transaction"]
