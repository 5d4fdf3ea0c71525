"""The PostgreSQL resource manager. `PostgreSQL` is what a service creates, `Transaction` what its actions receive as
`tx`. Needs asyncpg: `pip install commitd[postgres]`.
"""

from __future__ import annotations

from participant.rm.postgres.manager import PostgreSQL
from participant.rm.postgres.transaction import Transaction

__all__ = ["PostgreSQL", "Transaction"]
