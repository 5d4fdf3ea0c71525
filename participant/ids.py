"""Names of transactions and branches, and the limits that every participant can rely on.

A gid is 1 to 64 bytes of `[A-Za-z0-9_.:-]`: it fits an XA gtrid (64 bytes, X/Open XA, section 4.2), a PostgreSQL
prepared transaction name together with its branch (199 bytes), a URL path segment and a shell word, unquoted.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["BRANCH_BYTES_MAX", "GID_BYTES_MAX", "BranchKey", "is_branch_id", "is_gid"]

GID_BYTES_MAX = 64
BRANCH_BYTES_MAX = 64

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


def is_gid(text: str) -> bool:
    """Whether `text` can name a transaction."""
    return _NAME.fullmatch(text) is not None


def is_branch_id(text: str) -> bool:
    """Whether `text` can name a branch; the same alphabet and length as a gid."""
    return _NAME.fullmatch(text) is not None


class BranchKey(NamedTuple):
    """One participant's part of one transaction; ordered by gid, then branch. A tuple, so that it is hashed in C."""

    gid: str
    branch: str

    def __str__(self) -> str:
        return f"{self.gid}/{self.branch}"
