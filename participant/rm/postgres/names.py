"""What a prepared transaction of ours is called in PostgreSQL, and back. Sans-IO.

    commitd/<oid of the database>.<oid of our table>/<gid>/<branch>/<digest in hex>

At most 192 of the 199 bytes that there are (PostgreSQL, PREPARE TRANSACTION). The statement takes no parameters, so the
name stands in the SQL; nothing in it needs quoting. Names are shared by all databases of a server, which is why a table
is named that belongs to one: two databases may have branches of the same key. The digest is in the name because nobody
can read the branch's row before the commit.
"""

from __future__ import annotations

import hashlib

from participant.branch import Branch
from participant.ids import BranchKey, is_branch_id, is_gid

__all__ = ["Names"]


class Names:
    """The names of one database's branches.

    `table` is ours with its schema, as SQL: an action may set its own path; `notes` is beside it.
    `synchronous` is how far a commit must have come when it is answered, as PostgreSQL calls it.
    """

    def __init__(self, oids: str, table: str = "commitd_branch") -> None:
        self.table = table
        self.notes = table.removesuffix("commitd_branch") + "commitd_note"
        self.synchronous = "on"
        self.prefix = f"commitd/{oids}/"

    def of(self, branch: Branch) -> str:
        """The name of a prepared branch."""
        return f"{self.of_key(branch.key)}{branch.digest.hex()}"

    def of_key(self, key: BranchKey) -> str:
        """What the name of a branch begins with, whatever its digest."""
        return f"{self.prefix}{key.gid}/{key.branch}/"

    def lock_of(self, key: BranchKey) -> int:
        """The key of the advisory lock that whoever works on the branch has: 64 bits, signed."""
        return int.from_bytes(hashlib.blake2b(self.of_key(key).encode(), digest_size=8).digest(), signed=True)

    def read(self, name: str) -> tuple[BranchKey, bytes] | None:
        """The branch and its digest; None if the name is not of this database's branches."""
        if not name.startswith(self.prefix):
            return None
        parts = name.removeprefix(self.prefix).split("/")
        if len(parts) != 3 or not is_gid(parts[0]) or not is_branch_id(parts[1]):
            return None
        try:
            return BranchKey(parts[0], parts[1]), bytes.fromhex(parts[2])
        except ValueError:
            return None
