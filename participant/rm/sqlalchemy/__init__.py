"""ORM sessions over a database server's resource manager. `SQLAlchemy` is what a service creates; its actions receive
an `AsyncSession`. Needs SQLAlchemy: `pip install commitd[sqlalchemy]`, and the driver of the database.
"""

from __future__ import annotations

try:
    import sqlalchemy.ext.asyncio as _needed  # noqa: F401
except ImportError as missing:
    raise ImportError("SQLAlchemy is not installed: pip install 'commitd[sqlalchemy]'") from missing

from participant.rm.sqlalchemy.manager import SQLAlchemy

__all__ = ["SQLAlchemy"]
