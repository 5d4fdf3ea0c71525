"""Branches as XA transaction identifiers, and back. Sans-IO.

The gid is the gtrid and the branch the bqual, 64 bytes at most each; both are of letters that need no quoting. The
server has one list for all its databases, so the format identifier says that a branch is ours, in its first byte, and
of which database, in the other three.
"""

from __future__ import annotations

import hashlib

from participant.ids import BranchKey, is_branch_id, is_gid

__all__ = ["Names", "xid_of"]

_OURS = 0x63  # "c"


class Names:
    """The identifiers of one database's branches."""

    def __init__(self, database: str) -> None:
        self.format_id = int.from_bytes(bytes([_OURS]) + hashlib.blake2b(database.encode(), digest_size=3).digest())

    def of(self, key: BranchKey) -> str:
        """As it stands in XA statements."""
        return f"'{key.gid}','{key.branch}',{self.format_id}"

    def read(self, format_id: int, gid_length: int, branch_length: int, data: str | bytes) -> BranchKey | None:
        """A row of XA RECOVER; None if it is not of this database."""
        text = data if isinstance(data, str) else data.decode("latin-1")
        gid, branch = text[:gid_length], text[gid_length : gid_length + branch_length]
        if format_id != self.format_id or not is_gid(gid) or not is_branch_id(branch):
            return None
        return BranchKey(gid, branch)

    def is_foreign(self, format_id: int, gid_length: int, branch_length: int, data: str | bytes) -> bool:
        """Whether a row of XA RECOVER is of no participant of ours, of this database or another."""
        is_elsewhere = format_id >> 24 == _OURS and format_id != self.format_id
        return not is_elsewhere and self.read(format_id, gid_length, branch_length, data) is None


def xid_of(format_id: int, gid_length: int, branch_length: int, data: str | bytes) -> str:
    """Any row of XA RECOVER, as it stands in XA statements."""
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return f"{_quoted(raw[:gid_length])},{_quoted(raw[gid_length : gid_length + branch_length])},{format_id}"


def _quoted(part: bytes) -> str:
    is_plain = all(0x20 <= byte < 0x7F and byte not in b"'\\" for byte in part)
    return f"'{part.decode('ascii')}'" if is_plain else f"X'{part.hex()}'"
