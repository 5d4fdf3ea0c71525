"""The MariaDB resource manager. `MariaDB` is what a service creates, `Transaction` what its actions receive as `tx`.
Needs asyncmy: `pip install commitd[mariadb]`.
"""

from __future__ import annotations

from participant.rm.mariadb.manager import MariaDB
from participant.rm.mariadb.transaction import Transaction

__all__ = ["MariaDB", "Transaction"]
