"""The port below `rm.server.manager`: one database on a server that can prepare a transaction itself.

Such a server keeps prepared work, locks rows and queues those who wait; several processes may use it at once. So the
truth about a branch is the server's, and what a process remembers only saves it questions. Each branch has one row in a
table of ours, written in the transaction of its work, in the state COMMITTED: nobody sees it before the commit, and
then it is true. A branch that is prepared is therefore one that the server lists as such.

A prepared branch keeps its row from everybody, so its abort cannot be written there before it is rolled back; and
between the two it must not look unknown, for a late commit in one phase would then be obeyed. So its abort is written
beside the row first, under a name that no branch has, and a commit in one phase takes both places.

Implementations: `rm.postgres.backend`, `rm.mariadb.backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from participant.branch import Branch
from participant.errors import Reject
from participant.ids import BranchKey
from participant.resource import Call
from participant.rm.sweep import Foreign
from participant.wire import CONFLICT, BranchState

__all__ = ["Backend", "Blocked", "Conflict", "Prepared", "Stale", "Unit", "beside"]


def beside(key: BranchKey) -> BranchKey:
    """The place beside the row of a branch. No branch can have this name."""
    return BranchKey(key.gid, key.branch + "/")


class Conflict(Reject):
    """A no for rows that other branches kept or changed."""

    def __init__(self, why: str) -> None:
        super().__init__(CONFLICT + why)


class Stale(Exception):
    """What the transaction has read was changed by others since, or it was the victim of a deadlock: run it again."""


class Prepared(NamedTuple):
    """A prepared branch. `digest` is what it is bound to, `age_s` for how long it has been prepared."""

    key: BranchKey
    digest: bytes
    age_s: float


class Blocked(NamedTuple):
    """What a transaction waits for: a row, in words, and the branch that keeps it, if it is one of ours."""

    row: str
    holder: BranchKey | None
    holder_text: str


class Unit(Protocol):
    """One open transaction on a connection of its own. Every method may raise ResourceUnreachable."""

    async def run(self, call: Call) -> Any:
        """Run an action in it; the result. Raises whatever the action raises, and Stale."""

    async def vote(self, branch: Branch) -> Branch | None:
        """Write the row and prepare (`branch` is PREPARED), or both rows and commit (COMMITTED); durable on return.

        Gives the branch as it is then: READ_ONLY if it was to be prepared and had written nothing. None, and nothing
        was done, if the branch has a row already or another transaction works on it. Raises Reject (the database
        refuses), Stale, ResourceBusy (nothing was done).
        """

    async def rollback(self) -> None:
        """Undo, and give the connection back, whatever state it is in; nothing to do after `vote`. Raises nothing."""


class Backend(Protocol):
    """Every method may raise ResourceUnreachable: the outcome is unknown, and asking again is safe."""

    branches_max: int
    """How many branches the server can keep prepared."""

    async def open(self) -> None:
        """Connect, see that the server keeps what we promise, make our table. Raises SchemaError, ConfigError."""

    async def make_schema(self) -> str:
        """Run the user's schema; what it had to wait for, for too long, or "". Raises SchemaError."""

    async def close(self) -> None:
        """Close every connection."""

    async def prepared(self) -> list[Prepared]:
        """All prepared branches of this database, of whatever process, oldest first."""

    async def foreign(self) -> list[Foreign]:
        """All prepared transactions of this database that no participant of ours has made."""

    async def load(self, key: BranchKey) -> Branch:
        """What is true of a branch: PREPARED, a final state, or UNKNOWN. Completes what `doom` has begun."""

    async def begin(self, key: BranchKey) -> Unit | None:
        """Open a transaction; None if another one is open or prepared for this branch. Raises ResourceBusy."""

    async def settle(self, branch: Branch, *, is_read_only: bool) -> bool:
        """Write ABORTED without any work; False if there is a row already, or a transaction works on the branch.

        `is_read_only`: in the place of a vote READ_ONLY, and nothing else.
        """

    async def doom(self, aborted: Branch) -> None:
        """Write, beside the row of a prepared branch, that it is aborted; durable on return. `finish` makes it true."""

    async def finish(self, prepared: Branch, to: BranchState) -> bool:
        """Commit or roll back what is prepared; False if nothing is. Leaves no row after a rollback."""

    async def touch(self, key: BranchKey, at_ms: int) -> None:
        """Keep a row from being forgotten for another retention."""

    async def blocked_by(self, unit: Unit) -> Blocked | None:
        """What its transaction waits for now."""

    async def waiting(self, units: Sequence[Unit]) -> int:
        """How many of these transactions wait for a lock now."""

    async def note(self, key: BranchKey) -> bytes | None:
        """The note of a branch (`participant.notes`)."""

    async def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, changed_at_ms: int, is_finished: bool
    ) -> bool:
        """Replace the note, if it is `expected`; whether it was. Durable on return."""

    async def forget(self, before_ms: int, branches_max: int) -> int:
        """Drop rows last changed before `before_ms`, at most so many; how many there were. And as many finished notes,
        which are not counted.
        """

    async def read(self, call: Call) -> Any:
        """Run a function on the committed rows. Raises ActionError if it writes, and whatever it raises."""
