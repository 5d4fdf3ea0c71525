"""A handful of replicas without threads, sockets or a wall clock: schedules are written out, step by step.

A schedule is a function over `World`; the same one runs on the stock library (`tests.support.stock`) and on ours
(`tests.support.ours`). Links behave like TCP: in order, once, and when a link is cut everything in flight on it is
lost and both ends are told.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import combinations, permutations
from typing import Any, TypeAlias

__all__ = ["Answer", "Message", "Network", "Settings", "World"]

Message: TypeAlias = dict[str, Any]

TICK_S = 0.2  # longer than a heartbeat, so that every tick of a leader speaks to its followers
NEVER_S = 1e6


class Answer(StrEnum):
    """What a caller was told about its command."""

    APPLIED = "applied"
    REFUSED = "refused"  # it was not applied and will not be
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a schedule may ask of both libraries. `append_bytes`: the most that one append carries."""

    append_bytes: int = 1 << 20
    lease_s: float = NEVER_S


class Network:
    """What is in flight, by direction."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Message]] = {}
        self._links: set[frozenset[str]] = set()

    def linked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self._links

    def link(self, a: str, b: str) -> None:
        self._links.add(frozenset((a, b)))

    def cut(self, a: str, b: str) -> None:
        self._links.discard(frozenset((a, b)))
        for direction in ((a, b), (b, a)):
            self._queues.pop(direction, None)

    def send(self, source: str, target: str, message: Message) -> bool:
        if not self.linked(source, target):
            return False
        self._queues.setdefault((source, target), deque()).append(copy.deepcopy(message))
        return True

    def in_flight(self, source: str, target: str) -> deque[Message]:
        """The queue itself: a schedule may look, take out, and put back later."""
        return self._queues.setdefault((source, target), deque())


class World(ABC):
    """Replicas, links, disks and callers. Only what a schedule asks for happens, and time passes only in `tick`."""

    def __init__(self, names: Iterable[str], settings: Settings) -> None:
        self.names = tuple(names)
        self.settings = settings
        self.network = Network()
        self.now = 1_000.0
        self.up: set[str] = set()
        self.failures: list[tuple[str, Exception]] = []
        self.answers: dict[bytes, Answer] = {}
        for name in self.names:
            self._start(name)

    # One replica, as a library does it ---------------------------------------------------------------------

    @abstractmethod
    def _boot(self, name: str) -> None:
        """Make the replica from what its disk holds."""

    @abstractmethod
    def _halt(self, name: str) -> None:
        """Drop the replica as `kill -9` does: the disk's cache survives it."""

    @abstractmethod
    def _tick(self, name: str) -> None:
        """Let the replica look at its clock, apply, and speak."""

    @abstractmethod
    def _receive(self, name: str, peer: str, message: Message) -> None: ...

    @abstractmethod
    def _connected(self, name: str, peer: str) -> None: ...

    @abstractmethod
    def _disconnected(self, name: str, peer: str) -> None: ...

    @abstractmethod
    def _expire(self, name: str) -> None:
        """Let the replica's election timeout have passed."""

    @abstractmethod
    def put(self, name: str, value: bytes, then: Callable[[], None] = lambda: None) -> None:
        """Propose `value` at the replica; `answers` gets what its caller hears, who then does `then`."""

    @abstractmethod
    def state(self, name: str) -> list[bytes]:
        """The values that the replica's state machine holds, in order."""

    @abstractmethod
    def leads(self, name: str) -> bool: ...

    @abstractmethod
    def term(self, name: str) -> int: ...

    @abstractmethod
    def last_index(self, name: str) -> int: ...

    @abstractmethod
    def snapshot(self, *names: str, trim: bool = True) -> None:
        """Let replicas snapshot what they have applied; without `trim`, stop short of trimming the log."""

    @abstractmethod
    def write_back(self) -> None:
        """The kernel writes its dirty pages back by itself, as it does every half minute."""

    @abstractmethod
    def rot(self, name: str, content: bytes) -> None:
        """One bit of `content` changes on the disk of a replica that is down."""

    @abstractmethod
    def _lose_power(self, name: str) -> None:
        """Forget what was never made durable."""

    # What a schedule does ----------------------------------------------------------------------------------

    def tick(self, *names: str, after_s: float = TICK_S) -> None:
        """Some time passes; the replicas (all that are up, unless named) look at their clocks once."""
        self.now += after_s
        for name in names or self.names:
            self._guarded(name, self._tick)

    def deliver(self, source: str, target: str, count: int | None = None) -> int:
        """Deliver what is in flight now on one link, or only the first `count` messages; how many there were."""
        queue = self.network.in_flight(source, target)
        count = len(queue) if count is None else min(count, len(queue))
        for _ in range(count):
            self.hear(target, source, queue.popleft())
        return count

    def hear(self, name: str, peer: str, message: Message) -> None:
        """A message that somebody sends to the replica, calling itself `peer`."""
        self._guarded(name, partial(self._receive, peer=peer, message=message))

    def exchange(self, *names: str, rounds: int = 1) -> None:
        """Deliver everything in flight among the replicas (all, unless named), `rounds` times."""
        for _ in range(rounds):
            for source, target in permutations(names or self.names, 2):
                self.deliver(source, target)

    def settle(self, *names: str, rounds: int = 8) -> None:
        """Time passes and messages arrive, until nothing more should change."""
        for _ in range(rounds):
            self.tick(*names)
            self.exchange(*names)

    def elect(self, name: str, *voters: str) -> None:
        """Let the replica stand for election and hear the votes of `voters` (all, unless named)."""
        self._expire(name)
        self.tick(name, after_s=0)
        for voter in voters or self.names:
            self.deliver(name, voter)
            self.deliver(voter, name)

    def link(self, a: str, b: str) -> None:
        if not self.network.linked(a, b) and {a, b} <= self.up:
            self.network.link(a, b)
            self._connected(a, b)
            self._connected(b, a)

    def dialled_by(self, name: str, stranger: str) -> None:
        """Somebody who is no member connects to the replica, and says nothing."""
        self._connected(name, stranger)

    def cut(self, a: str, b: str) -> None:
        if self.network.linked(a, b):
            self.network.cut(a, b)
            for name, peer in ((a, b), (b, a)):
                if name in self.up:
                    self._disconnected(name, peer)

    def isolate(self, name: str) -> None:
        for other in self.names:
            self.cut(name, other)

    def join_up(self, *names: str) -> None:
        """Link the replicas (all, unless named) with each other."""
        for a, b in combinations(names or self.names, 2):
            self.link(a, b)

    def crash(self, *names: str) -> None:
        """`kill -9`."""
        for name in self.up.intersection(names):
            self.up.discard(name)
            self.isolate(name)
            self._halt(name)

    def restart(self, *names: str) -> None:
        """Start crashed replicas from their disks, and link them with every other one."""
        for name in names:
            self._start(name)

    def power_cut(self, *names: str) -> None:
        """Machines (all, unless named) lose power; when it is back, they start again."""
        names = names or self.names
        self.crash(*names)
        for name in names:
            self._lose_power(name)
        self.restart(*names)

    # What a schedule asks ----------------------------------------------------------------------------------

    def told(self, answer: Answer) -> list[bytes]:
        return [value for value, heard in self.answers.items() if heard is answer]

    def lost(self, *names: str) -> list[bytes]:
        """Values whose caller was told *applied*, and that none of the replicas holds."""
        held = {value for name in names or sorted(self.up) for value in self.state(name)}
        return [value for value in self.told(Answer.APPLIED) if value not in held]

    def close(self) -> None:
        self.crash(*sorted(self.up))

    def _start(self, name: str) -> None:
        self._boot(name)
        self.up.add(name)
        for other in self.names:
            if other != name:
                self.link(name, other)

    def _guarded(self, name: str, step: Callable[[str], None]) -> None:
        if name not in self.up:
            return
        try:
            step(name)
        except Exception as error:  # noqa: BLE001  # whatever it is: each library has its own way with it
            self.failures.append((name, error))
            self._failed(name)

    @abstractmethod
    def _failed(self, name: str) -> None:
        """What the library does about an exception in a step: go on, or stop the replica."""
