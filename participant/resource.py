"""The port of a resource manager: the keeper of one database's part of a transaction.

Implementations: `participant.rm.sqlite`, `participant.rm.memory`. All of them pass the public contract suite,
`participant.testing`.

Every operation does three things in *one* local transaction, durable before it returns: it asks the branch's
row what is true (`participant.branch`), does the work of the branch, and writes the row. An `Answer` is
therefore a fact; whatever is raised instead leaves the outcome unknown, and the operation may be repeated.

Isolation. From prepare (or work) to the decision, the rows that a branch *changes* are locked against other
branches: one that wants to change such a row waits, and runs again on the new rows once it is free. Rows that it only
reads are not locked: two branches that each read what the other changes can both commit (write skew). Where that
matters, let both change one row, e.g. a counter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from participant.errors import ConfigError
from participant.ids import BranchKey
from participant.values import canonical, digest_of
from participant.wire import Answer

__all__ = [
    "PREPARED_BOUNDS_MS",
    "Action",
    "Call",
    "OpenBranch",
    "ResourceLimits",
    "ResourceManager",
    "ResourceStatus",
]

PREPARED_BOUNDS_MS = (1, 10, 100, 1_000, 10_000)  # of `ResourceStatus.prepared_by_ms`

Action: TypeAlias = Callable[[Any, Any], Coroutine[Any, Any, Any]]
"""`async def action(tx, body) -> result`. `tx` is the resource manager's; nothing else may be awaited in it."""


class Call(NamedTuple):
    """An action with its body. `digest` identifies both, so that another request for the same branch is refused."""

    name: str
    function: Action
    body: Any
    digest: bytes

    @classmethod
    def of(cls, name: str, function: Action, body: Any) -> Call:
        """Raises WireError if the body is not a value (`participant.values`)."""
        return cls(name, function, body, digest_of(name, canonical(body, "body")))


class OpenBranch:
    """The branch that a `tx` works for. `number()` names what its actions make: 0, 1, 2 …, the same in each run."""

    __slots__ = ("key", "taken")

    def __init__(self, key: BranchKey, taken: int = 0) -> None:
        """`taken`: how many numbers earlier work of the branch has."""
        self.key = key
        self.taken = taken

    def number(self) -> int:
        """The next number."""
        self.taken += 1
        return self.taken - 1


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """`lock_wait_s`: how long a branch waits for a row before it votes no, at most. `deadlock_wait_s`: how long one
    branch may keep a row from another of a transaction with a greater gid before that one votes no, because they may
    wait for each other elsewhere. `unprepared_limit_s`: how long an interactive branch may stay unprepared, counted
    from its first work. `retention_s`: how long a finished branch is remembered; it must exceed the longest outage of
    all coordinators together, because a forgotten branch cannot say how it ended. `branches_max`: how many
    branches may be working or prepared at once; another one is asked to come again.
    """

    lock_wait_s: float = 3.0
    unprepared_limit_s: float = 60.0
    retention_s: float = 86_400.0
    branches_max: int = 10_000
    deadlock_wait_s: float = 0.5

    def __post_init__(self) -> None:
        for name in ("lock_wait_s", "deadlock_wait_s", "unprepared_limit_s", "retention_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: must be more than 0 seconds, not {getattr(self, name)!r}")
        if self.branches_max < 1:
            raise ConfigError(f"branches_max: must be at least 1, not {self.branches_max!r}")


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """The measures of a resource manager, to watch; nothing may depend on them.

    Now. `prepared`: prepared branches; `oldest_prepared_s`: how long the oldest of them has been prepared, 0 without
    any. `waiting`: branches whose request waits for rows. `working`: interactive branches that are open, not prepared.

    Since `open`. `decided`: branches that were prepared and have ended; `prepared_sum_s`: how long they were prepared,
    all together; `prepared_by_ms`: how many of them for how long, each counted once: with the first of
    `PREPARED_BOUNDS_MS` that it did not exceed, or in the last place if it exceeded them all. `conflicts`: votes of no
    for rows that others kept, those whose reason begins with `wire.CONFLICT`.

    A branch that `open` has recovered counts as prepared since `open`.
    """

    prepared: int
    oldest_prepared_s: float
    waiting: int
    working: int
    decided: int
    prepared_sum_s: float
    prepared_by_ms: tuple[int, ...]
    conflicts: int

    def to_map(self) -> dict[str, Any]:
        """The wire form: `prepared_by_ms` has the bounds for keys, "1" to "10000", and "more"."""
        bounds = (*map(str, PREPARED_BOUNDS_MS), "more")
        return asdict(self) | {"prepared_by_ms": dict(zip(bounds, self.prepared_by_ms, strict=True))}


class ResourceManager(Protocol):
    """One database. Every method but `open` raises ResourceClosed before `open` and after `close`.

    All but `open` and `close` may raise ResourceBusy (nothing was done) and ResourceFailed (unknown until a
    restart). A request for a branch that is bound to another one raises BranchConflict. All of this is raised by
    awaiting.

    One whose database may hold prepared transactions of others can be a `participant.rm.sweep.ForeignLister`, too.

    An `async def` is all that is asked for. One that returns a future instead is spared a task for each operation of an
    array, and sees all of them before the event loop goes on, so that they can share a forced write.
    """

    is_in_order: bool
    """Whether what is asked for has been tried before anything is answered that was asked for later."""

    async def open(self) -> None:
        """Own the data; recover what is prepared, with its locks. Raises AlreadyOwned and SchemaError, too."""

    async def close(self) -> None:
        """Finish what is under way and give the data back. Work that is not prepared is lost."""

    def work(self, key: BranchKey, call: Call, seq: int) -> Awaitable[Answer]:
        """Run an action as the `seq`-th of an interactive branch. WORKING with the result, or ABORTED. Not
        durable.
        """

    def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> Awaitable[Answer]:
        """Vote. `call=None` prepares what `work` did before. PREPARED, READ_ONLY or ABORTED (or COMMITTED, if
        late).

        `works`, with `call=None`: how much work the caller has seen done. A branch that holds another number of works,
        repeats not counted, votes no: some were lost, and the rest are not what the caller wants. None: not said.
        """

    def commit(self, key: BranchKey) -> Awaitable[Answer]:
        """Make a prepared branch's changes true. COMMITTED.

        PREPARED with `retry` and a reason means that somebody wrote to its rows outside the protocol: the branch
        stays as it is, and an operator must help. Anything else contradicts the caller.
        """

    def commit_one_phase(self, key: BranchKey, call: Call | None, works: int | None = None) -> Awaitable[Answer]:
        """Vote, as in `prepare`, and commit in one step. COMMITTED or ABORTED."""

    def abort(self, key: BranchKey) -> Awaitable[Answer]:
        """Undo; or, for an unknown branch, leave the tombstone. ABORTED, unless it is COMMITTED."""

    def prevent(self, key: BranchKey, reason: str) -> Awaitable[Answer]:
        """What `abort` does to a branch that has not voted yes; a prepared one stays so. Never UNKNOWN or WORKING."""

    def outcome(self, key: BranchKey) -> Awaitable[Answer]:
        """What is true of the branch; changes nothing."""

    async def in_doubt(self) -> list[BranchKey]:
        """Every prepared branch, oldest first."""

    async def status(self) -> ResourceStatus:
        """What it measures of itself."""

    async def read(self, call: Call) -> Any:
        """Run a function on the committed rows and return its result; it must not write (ActionError)."""

    async def failed(self) -> BaseException:
        """Wait until the resource manager has failed for good, and say why."""
