"""Branches as XA transaction identifiers, and back. Sans-IO.

The gid is the gtrid and the branch the bqual, 64 bytes at most each; both are of letters that need no quoting. The
format identifier says that it is ours. The server has one list for all its databases; a branch is of the database that
has its row.
"""

from __future__ import annotations

from participant.ids import BranchKey, is_branch_id, is_gid

__all__ = ["read_xid", "xid_of"]

_FORMAT = 0x636D7464  # "cmtd"


def xid_of(key: BranchKey) -> str:
    """As it stands in XA statements."""
    return f"'{key.gid}','{key.branch}',{_FORMAT}"


def read_xid(format_id: int, gid_length: int, branch_length: int, data: str | bytes) -> BranchKey | None:
    """A row of XA RECOVER; None if it is not ours."""
    text = data if isinstance(data, str) else data.decode("latin-1")
    gid, branch = text[:gid_length], text[gid_length : gid_length + branch_length]
    if format_id != _FORMAT or not is_gid(gid) or not is_branch_id(branch):
        return None
    return BranchKey(gid, branch)
