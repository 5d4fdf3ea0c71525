"""The in-memory resource manager. `Memory` is what a service creates, `Transaction` what its actions receive as
`tx`.
"""

from __future__ import annotations

from participant.rm.memory.manager import Memory
from participant.rm.memory.transaction import Transaction

__all__ = ["Memory", "Transaction"]
