"""The clients of the commit path's benchmark: processes that have transactions committed, one after the other each.

Each process has one `coordinator.client.Client`, as a service would, which all its clients use at the same time. A
client asks, waits for the answer, and asks for the next.
"""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from random import Random
from typing import Any, Protocol, Self, TypeAlias

from benchmarks.harness import quiet, use_uvloop
from coordinator.client import Branch, Client, Committed
from coordinator.client.outcomes import Ended
from coordinator.errors import CoordinatorError

__all__ = ["Answers", "Caller", "Calling", "ClientCaller", "Generators", "Script", "Style", "Work", "generators"]

PROCESSES = 2
ROWS_PER_CLIENT = 64  # taken in turn, so that no transaction waits for the second phase of the one before


class Style(StrEnum):
    """`PUT`: every branch writes one row that nobody else does. `LOOK`: the last one reads instead. `TRANSFER`: one
    cent from an account at one bank to an account at the other."""

    PUT = "put"
    LOOK = "look"
    TRANSFER = "transfer"


@dataclass(frozen=True, slots=True)
class Work:
    """What a transaction of some clients is.

    `rows`: how many each client writes in turn; `space`: keeps them apart from those of other work. `payload_bytes`:
    of each branch, beside the row's key. `accounts`: how many to choose from; `skew`: the exponent of the Zipf
    distribution that the choice follows, 0 for a uniform one.
    """

    style: Style
    participants: tuple[str, ...]
    branches: int = 2
    rows: int = ROWS_PER_CLIENT
    space: str = ""
    payload_bytes: int = 0
    accounts: int = 0
    skew: float = 0.0


@dataclass(slots=True)
class Answers:
    """What clients heard: the moment (monotonic clock) and the latency of each commit, in s, and why others failed."""

    ended_at_s: array[float] = field(default_factory=lambda: array("d"))
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Answers) -> None:
        """Take over what others heard."""
        self.ended_at_s.extend(other.ended_at_s)
        self.latencies_s.extend(other.latencies_s)
        self.failures.update(other.failures)

    def between(self, begin_s: float, end_s: float) -> list[float]:
        """The latencies of what was committed in that time, in s."""
        pairs = zip(self.ended_at_s, self.latencies_s, strict=True)
        return [latency for ended, latency in pairs if begin_s <= ended < end_s]


_Goal: TypeAlias = tuple[int, float] | None
"""How many transactions there shall be, and how many seconds they may take; None: until somebody says *enough*."""


class Caller(Protocol):
    """What one process's clients ask through."""

    async def commit(self, branches: Sequence[Branch]) -> str:
        """Have it committed; why it was not, or nothing."""


Calling: TypeAlias = Callable[[Sequence[str]], AbstractAsyncContextManager[Caller]]
"""Opens something to ask through, at these URLs. It travels to the processes by its name."""


class ClientCaller(AbstractAsyncContextManager[Caller]):
    """The client of `commitd`, as it comes."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.client = Client(urls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def ask(self, branches: Sequence[Branch]) -> Ended:
        """By two-phase commit."""
        return await self.client.commit(branches)

    async def commit(self, branches: Sequence[Branch]) -> str:
        try:
            ended = await self.ask(branches)
        except CoordinatorError as error:
            return str(error)
        return "" if isinstance(ended, Committed) else ended.reason


# In a process of clients -------------------------------------------------------------------------------------


class Script:
    """What the clients of one process ask for."""

    def __init__(self, work: Work, chance: Random) -> None:
        self._work = work
        self._chance = chance
        self._payload = chance.randbytes(work.payload_bytes // 2).hex()
        self._weights = list(accumulate((rank + 1) ** -work.skew for rank in range(work.accounts)))

    def transactions(self, client: int) -> Iterator[list[Branch]]:
        """One after the other, without end."""
        make = self._transfer if self._work.style is Style.TRANSFER else self._puts
        return (make(client, serial) for serial in count())

    def _puts(self, client: int, serial: int) -> list[Branch]:
        work = self._work
        value = [serial, self._payload] if self._payload else serial
        branches = []
        for at in range(work.branches):
            key = f"{work.space}{client}-{serial % work.rows}-{at}"
            participant = work.participants[at % len(work.participants)]
            branches.append(Branch(participant, "put", {"key": key, "value": value}))
        if work.style is Style.LOOK:
            branches[-1] = Branch(branches[-1].participant, "get", {"key": key})
        return branches

    def _transfer(self, _client: int, serial: int) -> list[Branch]:
        there, back = self._work.participants
        source, target = (there, back) if serial % 2 else (back, there)
        return [
            Branch(source, "debit", {"account": self._account(), "amount": 1}),
            Branch(target, "credit", {"account": self._account(), "amount": 1}),
        ]

    def _account(self) -> str:
        if not self._work.skew:
            return str(self._chance.randrange(self._work.accounts))
        (account,) = self._chance.choices(range(self._work.accounts), cum_weights=self._weights)
        return str(account)


class _Clients:
    """The clients of one process."""

    def __init__(self, caller: Caller, script: Script, numbers: range, goal: int | None) -> None:
        self.answers = Answers()
        self._caller = caller
        self._left = goal
        self._working = True
        self._cold = len(numbers)
        self._warm = asyncio.Event()
        if not numbers:
            self._warm.set()
        self._tasks = [asyncio.create_task(self._client(script.transactions(number))) for number in numbers]

    async def warm(self) -> None:
        """Wait until each has heard an answer."""
        await self._warm.wait()

    async def end(self) -> Answers:
        """Begin no more, and wait until each has heard the last answer."""
        self._working = False
        await asyncio.gather(*self._tasks)
        return self.answers

    async def finished(self, patience_s: float) -> Answers:
        """Wait until all that was to be done is done, or time is up."""
        await asyncio.wait(self._tasks, timeout=patience_s)
        return await self.end()

    async def _client(self, transactions: Iterator[list[Branch]]) -> None:
        is_cold = True
        while self._working and self._left != 0:
            if self._left is not None:
                self._left -= 1
            begun = time.monotonic()
            failure = await self._caller.commit(next(transactions))
            ended = time.monotonic()
            if failure:
                self.answers.failures[failure] += 1
            else:
                self.answers.ended_at_s.append(ended)
                self.answers.latencies_s.append(ended - begun)
            self._cold -= is_cold
            is_cold = False
            if not self._cold:
                self._warm.set()


async def _serve(control: Connection, seed: int) -> None:
    """Do what the measuring process says, until it says the end."""
    chance = Random(seed)
    while True:
        match await asyncio.to_thread(control.recv):
            case ("work", kind, urls, work, numbers, goal):
                async with kind(urls) as caller:
                    clients = _Clients(caller, Script(work, chance), numbers, goal and goal[0])
                    if goal is None:
                        await clients.warm()
                        control.send("warm")
                        await asyncio.to_thread(control.recv)  # "enough"
                        control.send(await clients.end())
                    else:
                        control.send(await clients.finished(goal[1]))
            case ("call", function, arguments):
                control.send(await function(*arguments))
            case _:
                return


def _process(control: Connection, seed: int) -> None:
    quiet()
    use_uvloop()
    asyncio.run(_serve(control, seed))


# In the measuring process ------------------------------------------------------------------------------------


class Generators:
    """The processes of the clients."""

    def __init__(self, controls: Sequence[Connection], processes: Sequence[BaseProcess]) -> None:
        self._controls = controls
        self._processes = processes

    @property
    def pids(self) -> list[int]:
        """For /proc."""
        return [process.pid or 0 for process in self._processes]

    async def begin(self, kind: Calling, urls: Sequence[str], work: Work, clients: int) -> None:
        """Let so many clients work, and wait until each has heard an answer."""
        self._tell(kind, urls, work, clients, None)
        await self._hear()

    async def end(self) -> Answers:
        """Let the clients end, and collect what they heard."""
        for control in self._controls:
            control.send("enough")
        return _together(await self._hear())

    async def have_done(
        self, kind: Calling, urls: Sequence[str], work: Work, clients: int, transactions: int, patience_s: float
    ) -> Answers:
        """Let so many clients ask for so many transactions together, and wait until that is done, or time is up."""
        self._tell(kind, urls, work, clients, (transactions, patience_s))
        return _together(await self._hear())

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Await a function of a module in one of the processes."""
        self._controls[0].send(("call", function, arguments))
        return await asyncio.to_thread(self._controls[0].recv)

    def _tell(self, kind: Calling, urls: Sequence[str], work: Work, clients: int, goal: _Goal) -> None:
        for at, control in enumerate(self._controls):
            numbers = range(at, clients, len(self._controls))
            share = None if goal is None else (len(range(at, goal[0], len(self._controls))), goal[1])
            control.send(("work", kind, tuple(urls), work, numbers, share))

    async def _hear(self) -> list[Any]:
        return [await asyncio.to_thread(control.recv) for control in self._controls]


@contextmanager
def generators() -> Iterator[Generators]:
    """Start the processes; end them at the end."""
    spawn = mp.get_context("spawn")
    controls, processes = [], []
    for seed in range(PROCESSES):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_process, args=(theirs, seed), daemon=True)
        process.start()
        theirs.close()  # so that a process's death is heard here
        controls.append(ours)
        processes.append(process)
    try:
        yield Generators(controls, processes)
        for control in controls:
            control.send(("end",))
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def _together(parts: Sequence[Answers]) -> Answers:
    answers = Answers()
    for part in parts:
        answers.add(part)
    return answers
