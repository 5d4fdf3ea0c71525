"""The replicated log in one process: for tests, for trying things out, for users who need no second machine.

Owns a faithful model of what callers can observe of a cluster: elections, crashes, a missing majority, answers
that never come. It keeps nothing on a disk, and must never be kinder or harsher than `RaftLog`: both pass the
same contract suite. Only the test (or the user) decides who leads; but a group of one elects its only member.

    group = MemoryGroup(["n1", "n2", "n3"])
    logs = [group.join(name, Bank()) for name in ("n1", "n2", "n3")]
    for log in logs:
        await log.start()
    group.elect("n1")
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from raftlog.announcer import Announcer
from raftlog.errors import LogStopped
from raftlog.machine import Applier, Command, is_too_large, pack, take_batch
from raftlog.port import (
    Applied,
    Leadership,
    LeadershipListener,
    Member,
    Outcome,
    Refusal,
    Refused,
    Role,
    StateMachine,
    Status,
    Unknown,
)

__all__ = ["MemoryGroup", "MemoryLog"]

SNAPSHOT_EVERY_ENTRIES = 10_000

_Waiter: TypeAlias = asyncio.Future[Outcome]
_Proposal: TypeAlias = tuple[bytes | None, bytes, _Waiter]
_log = structlog.get_logger("raftlog")


@dataclass(slots=True)
class _Shared:
    """What the nodes of one group agree on. An entry is committed while a majority of the members runs."""

    members: dict[str, Member]
    snapshot_every_entries: int
    running: dict[str, MemoryLog] = field(default_factory=dict)
    term: int = 0
    leader: str | None = None
    commit_index: int = 0
    heard_index: int = 0  # up to here, followers know that they may apply
    change_index: int = 0  # the entry of the last change of the membership
    snapshot_index: int = 0
    snapshot: bytes = b""
    entries: list[bytes] = field(default_factory=list)  # those after the snapshot
    lost_answers: deque[bool] = field(default_factory=deque)

    @property
    def last_index(self) -> int:
        return self.snapshot_index + len(self.entries)

    def entry(self, index: int) -> bytes:
        return self.entries[index - self.snapshot_index - 1]

    def has_majority(self) -> bool:
        return 2 * len(self.members.keys() & self.running.keys()) > len(self.members)

    def append(self, entry: bytes) -> int:
        """The leader's next entry; only the leader looks at it for now."""
        self.entries.append(entry)
        self._commit()
        if self.leader is not None:
            self.running[self.leader].wake()
        return self.last_index

    def spread(self, applied_index: int) -> None:
        """The leader has applied so far, and told its callers; only then the others hear of it, as in a cluster."""
        if self.heard_index != applied_index:
            self.heard_index = applied_index
            self._wake_all()

    def elect(self, name: str) -> None:
        del self.entries[self.commit_index - self.snapshot_index :]
        self.term += 1
        self.leader = name
        self._wake_all()

    def started(self, log: MemoryLog) -> None:
        self.running[log.name] = log
        if self.members.keys() == {log.name}:
            self.elect(log.name)
        self._commit()
        self._wake_all()

    def ended(self, log: MemoryLog) -> None:
        del self.running[log.name]
        if self.leader == log.name:
            self.leader = None
        self._wake_all()

    def _commit(self) -> None:
        if self.leader is not None and self.has_majority():
            self.commit_index = self.last_index

    def _wake_all(self) -> None:
        for log in self.running.values():
            log.wake()

    def compact(self, index: int, snapshot: Callable[[], Iterable[bytes]]) -> None:
        """Replace the entries up to `index` by a snapshot, when there are enough of them."""
        if index - self.snapshot_index >= self.snapshot_every_entries:
            del self.entries[: index - self.snapshot_index]
            self.snapshot_index, self.snapshot = index, b"".join(snapshot())


class MemoryGroup:
    """A group of nodes that share one log. Its methods are the luck and the faults of that group."""

    def __init__(self, names: Iterable[str], *, snapshot_every_entries: int = SNAPSHOT_EVERY_ENTRIES) -> None:
        members = {name: Member(name, f"memory:{name}") for name in names}
        self._shared = _Shared(members, snapshot_every_entries)

    def join(self, name: str, machine: StateMachine) -> MemoryLog:
        """A handle for node `name`. After a crash or a stop a new handle, with an empty machine, restarts it."""
        return MemoryLog(self._shared, name, machine)

    def elect(self, name: str) -> None:
        """Make a running member the leader of the next term.

        What the old leader had not answered ends as Unknown; of that, what a majority had is applied all the
        same, the rest never. Raises: ValueError if no majority could have voted for `name`.
        """
        shared = self._shared
        if name not in shared.members.keys() & shared.running.keys() or not shared.has_majority():
            raise ValueError(f"{name} cannot be elected: it and a majority of {sorted(shared.members)} must run")
        shared.elect(name)

    def crash(self, name: str) -> None:
        """End a node at once: its state machine is gone, and what it owed its callers Unknown.

        Raises: ValueError if it does not run.
        """
        if name not in self._shared.running:
            raise ValueError(f"{name} cannot crash: it does not run")
        self._shared.running[name].halt("the node crashed")

    def lose_next_answer(self, *, applied: bool) -> None:
        """Let the next proposal that enters the log end as Unknown: applied, or never to be. Calls queue up."""
        self._shared.lost_answers.append(applied)


class MemoryLog:
    """One node of a `MemoryGroup`; implements `raftlog.port.ReplicatedLog`. Made by `join` or `single`."""

    def __init__(self, shared: _Shared, name: str, machine: StateMachine) -> None:
        self.name = name
        self._shared = shared
        self._applier = Applier(machine)
        self._applied_index = 0
        self._announcer = Announcer(shared.term)
        self._waiting: deque[_Proposal] = deque()  # not in the log yet
        self._pending: dict[int, list[_Waiter]] = {}  # by index in the log
        self._barriers: list[_Waiter] = []
        self._counters: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not running
        self._ended = asyncio.Event()
        self._broken_by: Exception | None = None
        self._turn: asyncio.Handle | None = None

    @classmethod
    def single(cls, machine: StateMachine, name: str = "n1") -> MemoryLog:
        """The only node of a group of its own: it leads as soon as it is started."""
        return MemoryGroup([name]).join(name, machine)

    async def start(self) -> None:
        """Join the group, and apply what the log already holds, once in the life of a handle.

        Raises: LogStopped if this handle has ended, ValueError if its name is running already.
        """
        if self._ended.is_set():
            raise LogStopped(f"node {self.name} has ended: join the group again, with an empty state machine")
        if self.name in self._shared.running:
            raise ValueError(f"a node named {self.name} runs already in this group")
        self._loop = asyncio.get_running_loop()
        self._shared.started(self)

    async def stop(self) -> None:
        """Leave the group; what is in the log and not answered ends as Unknown."""
        self.halt("the node was stopped")

    async def stopped(self) -> None:
        """See `ReplicatedLog.stopped`."""
        await self._ended.wait()
        if self._broken_by is not None:
            raise self._broken_by

    def propose(self, command: bytes, *, command_id: bytes | None = None) -> asyncio.Future[Outcome]:
        """See `ReplicatedLog.propose`."""
        waiter = self._waiter()
        if refused := self._refusal():
            waiter.set_result(refused)
        elif is_too_large(command, command_id):
            waiter.set_result(Refused(Refusal.TOO_LARGE))
        else:
            self._waiting.append((command_id, command, waiter))
            self.wake()
        return waiter

    async def barrier(self) -> Outcome:
        """See `ReplicatedLog.barrier`; refused while nobody leads."""
        if self._loop is None:
            return Refused(Refusal.STOPPED)
        if self._shared.leader is None or self.name not in self._shared.members:
            return Refused(Refusal.NOT_LEADER)
        waiter = self._waiter()
        self._barriers.append(waiter)
        self.wake()
        return await waiter

    async def add_member(self, member: Member) -> Outcome:
        """See `ReplicatedLog.add_member`; denied if it is one already, or without a majority."""
        if refused := self._refusal() or self._denial(possible=member.name not in self._shared.members):
            return refused
        self._shared.members[member.name] = member
        return await self._change_applied()

    async def remove_member(self, name: str) -> Outcome:
        """See `ReplicatedLog.remove_member`; denied if it is none, or without a majority."""
        if refused := self._refusal() or self._denial(possible=name in self._shared.members.keys() - {self.name}):
            return refused
        del self._shared.members[name]
        return await self._change_applied()

    @property
    def leadership(self) -> Leadership:
        """The current view."""
        return self._announcer.current

    def subscribe(self, listener: LeadershipListener) -> Callable[[], None]:
        """See `ReplicatedLog.subscribe`."""
        return self._announcer.subscribe(listener)

    def status(self) -> Status:
        """See `ReplicatedLog.status`; nothing is on a disk, so every entry counts as durable."""
        shared = self._shared
        return Status(
            name=self.name,
            leadership=self._announcer.current,
            members=tuple(shared.members.values()),
            connected=tuple(sorted(shared.running.keys() - {self.name})) if self._loop else (),
            last_index=shared.last_index,
            durable_index=shared.last_index,
            commit_index=shared.commit_index,
            applied_index=self._applied_index,
            snapshot_index=shared.snapshot_index,
            journal_bytes=0,
            counters=dict(self._counters),
        )

    def wake(self) -> None:
        """Take a turn soon: this is how anything in the group reaches this node."""
        if self._loop is not None and self._turn is None:
            self._turn = self._loop.call_soon(self._take_turn)

    def halt(self, why: str) -> None:
        """Stop serving at once: what is in the log is Unknown to its callers, what is not there is refused."""
        if self._loop is None:
            return
        self._loop = None
        self._ended.set()
        self._shared.ended(self)
        self._refuse_waiting(Refused(Refusal.STOPPED))
        self._lose_pending(why)
        self._answer(self._barriers, Unknown(why))
        self._barriers.clear()
        self._announcer.announce(Leadership(Role.FOLLOWER, self._announcer.current.term, None))

    def _take_turn(self) -> None:
        self._turn = None
        if self._loop is None:
            return
        try:
            self._step_down()
            self._apply()
            self._step_up()
            self._append()
            if self._shared.leader == self.name:
                self._shared.spread(self._applied_index)
        except Exception as error:  # noqa: BLE001  # the border: whatever it is, this node has lost its way
            _log.critical("log failed", node=self.name, error=repr(error), exc_info=error)
            self._broken_by = error
            self.halt("the node failed")

    def _step_down(self) -> None:
        """Follow whoever leads now; what was proposed in an older term is lost to its callers."""
        shared = self._shared
        if self._announcer.current.term == shared.term and self._announcer.current.leader == shared.leader:
            return
        if self._announcer.current.role is Role.LEADER:
            self._refuse_waiting(Refused(Refusal.NOT_LEADER, shared.leader))
            self._lose_pending("another node was elected")
        leader = shared.leader if shared.leader != self.name else None
        self._announcer.announce(Leadership(Role.FOLLOWER, shared.term, leader))

    def _apply(self) -> None:
        shared = self._shared
        if self.name not in shared.members:
            return
        if self._applied_index < shared.snapshot_index:
            self._applier.restore([shared.snapshot])
            self._applied_index = shared.snapshot_index
        asked = shared.leader == self.name or self._barriers  # else this node learns of commits later
        while self._applied_index < (shared.commit_index if asked else shared.heard_index):
            index = self._applied_index + 1
            results = self._applier.apply(index, shared.entry(index)) or [None]
            self._applied_index = index
            if waiters := self._pending.pop(index, None):
                for waiter, result in zip(waiters, results, strict=True):
                    self._answer([waiter], Applied(index, result))
        if shared.leader == self.name:  # not who is ahead of it: it still owes answers for these entries
            shared.compact(self._applied_index, self._applier.snapshot)
        if shared.leader is not None and shared.has_majority():
            self._answer(self._barriers, Applied(self._applied_index, None))
            self._barriers.clear()

    def _step_up(self) -> None:
        """Lead, if elected; everything of earlier terms has just been applied."""
        shared = self._shared
        if shared.leader == self.name:
            self._announcer.announce(Leadership(Role.LEADER, shared.term, self.name))

    def _append(self) -> None:
        """Put everything that waits into the log, as few entries as it takes."""
        while self._waiting and self._announcer.current.role is Role.LEADER:
            commands: list[Command] = []
            waiters: list[_Waiter] = []
            for command_id, command, waiter in take_batch(self._waiting):
                applied = self._shared.lost_answers.popleft() if self._shared.lost_answers else None
                if applied is not None:
                    self._answer([waiter], Unknown("the answer was lost"))
                if applied is not False:
                    commands.append((command_id, command))
                    waiters.append(waiter)
            if commands:
                self._counters["entries"] += 1
                self._counters["commands"] += len(commands)
                self._pending[self._shared.append(pack(commands))] = waiters

    async def _change_applied(self) -> Outcome:
        """Wait for the entry of a membership change, which the caller has just made."""
        waiter = self._waiter()
        self._shared.change_index = self._shared.append(pack([]))
        self._pending[self._shared.change_index] = [waiter]
        return await waiter

    def _denial(self, *, possible: bool) -> Refused | None:
        under_way = self._applied_index < self._shared.change_index
        return None if possible and not under_way and self._shared.has_majority() else Refused(Refusal.DENIED)

    def _refusal(self) -> Refused | None:
        if self._loop is None:
            return Refused(Refusal.STOPPED)
        leader = self._shared.leader
        if leader != self.name or self._announcer.current.role is not Role.LEADER:
            return Refused(Refusal.NOT_LEADER, leader if leader != self.name else None)
        return None

    def _waiter(self) -> _Waiter:
        return asyncio.get_running_loop().create_future()

    def _answer(self, waiters: Iterable[_Waiter], outcome: Outcome) -> None:
        for waiter in waiters:
            if not waiter.done():  # cancelled by its caller, or its answer was lost
                waiter.set_result(outcome)

    def _refuse_waiting(self, refused: Refused) -> None:
        self._answer([waiter for _, _, waiter in self._waiting], refused)
        self._waiting.clear()

    def _lose_pending(self, why: str) -> None:
        for waiters in self._pending.values():
            self._answer(waiters, Unknown(why))
        self._pending.clear()
