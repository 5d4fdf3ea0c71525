"""The port of the replicated log: what every implementation promises, and nothing about how.

`RaftLog` (`raftlog.node`) keeps the promises on several machines, `MemoryLog` (`raftlog.memory`) in one
process; both pass `tests/contract/test_log.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from asyncio import Future

__all__ = [
    "Applied",
    "Leadership",
    "LeadershipListener",
    "Member",
    "Outcome",
    "Refusal",
    "Refused",
    "ReplicatedLog",
    "Role",
    "StateMachine",
    "Status",
    "Unknown",
]


@dataclass(frozen=True, slots=True)
class Applied:
    """The command is durable on a majority and has been applied here; `result` is what `apply` returned."""

    index: int
    result: Any


class Refusal(StrEnum):
    """Why a proposal was turned away. It has not been applied and, unless proposed again, never will be."""

    NOT_LEADER = "not-leader"
    OVERLOADED = "overloaded"
    TOO_LARGE = "too-large"
    DENIED = "denied"  # a membership change that cannot be made now
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Refused:
    """The proposal was turned away before it entered the log."""

    reason: Refusal
    leader: str | None = None  # whom to ask instead, as far as this node knows


@dataclass(frozen=True, slots=True)
class Unknown:
    """The proposal entered the log of a leader that lost its office: it may yet be applied, once, or never.

    Proposing it again *with the same command id* is safe; so is reading the state after a barrier.
    """

    reason: str


Outcome: TypeAlias = Applied | Refused | Unknown


class Role(StrEnum):
    LEADER = "leader"
    FOLLOWER = "follower"


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads, in which term. `role` is LEADER only once every entry of earlier terms is applied here."""

    role: Role
    term: int
    leader: str | None


LeadershipListener: TypeAlias = Callable[[Leadership], None]


@dataclass(frozen=True, slots=True)
class Member:
    """One replica: a name that never changes and an address (`host:port`) that may."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Status:
    """One node's view, for operators. Indexes count log entries; every counter starts at 0 with the process."""

    name: str
    leadership: Leadership
    members: tuple[Member, ...]
    connected: tuple[str, ...]
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    journal_bytes: int
    counters: dict[str, int]


class StateMachine(Protocol):
    """What the log drives. All three methods are called from the event loop's thread, one at a time."""

    def apply(self, index: int, command: bytes) -> Any:
        """Apply one command. Total and deterministic: the same commands give the same state on every node.

        It must never raise; an exception is fatal for the node, because skipping the command here and not
        elsewhere would let replicas diverge. The result of a command with an id must be a msgpack value.
        """

    def snapshot(self) -> Iterable[bytes]:
        """Capture the state *now*, quickly; encode it lazily.

        The call itself must take no longer than a few milliseconds (copy references, not contents). The
        returned iterable is consumed later in another thread, while `apply` goes on.
        """

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by what `snapshot` gave on some node; chunk borders may differ."""


class ReplicatedLog(Protocol):
    """A log of opaque commands, agreed on by a majority, applied in the same order everywhere."""

    async def start(self) -> None:
        """Recover what is on the disk, then join the cluster.

        Raises: Corrupt, DiskFailed, ConfigError.
        """

    async def stop(self) -> None:
        """Leave quietly: what is in the log and unanswered ends as Unknown, what is not in it yet is refused."""

    async def stopped(self) -> None:
        """Return once the node was stopped; raise what broke it if it broke. The process should then end."""

    def propose(self, command: bytes, *, command_id: bytes | None = None) -> Future[Outcome]:
        """Append `command` through the leader, which must be this node. The future never ends with an exception.

        A future that is cancelled takes nothing back.

        With a `command_id` (at most 64 bytes), a second proposal of the same id within the last
        `DEDUPE_WINDOW` identified commands is applied once and answered with the first result.
        """

    async def barrier(self) -> Outcome:
        """A linearizable read point, on any node.

        After `Applied`, this node's state machine reflects every command acknowledged anywhere before the
        call. Concurrent callers share one round.
        """

    @property
    def leadership(self) -> Leadership:
        """The current view."""

    def subscribe(self, listener: LeadershipListener) -> Callable[[], None]:
        """Call `listener` on every change from now on; the returned function ends that."""

    def status(self) -> Status:
        """A consistent picture of this node."""

    async def add_member(self, member: Member) -> Outcome:
        """Add one replica; Refused(DENIED) while another change is under way."""

    async def remove_member(self, name: str) -> Outcome:
        """Remove one replica other than the leader itself."""
