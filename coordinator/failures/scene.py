"""One transaction, one fault, one seed: what came of it.

What runs is production's code with production's time limits; only time, network, disks and HTTP's bytes are simulated
(`coordinator.simulation`). A scenario says what happens at which moment; then all is repaired, and comes to rest.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, TypeAlias

import structlog

from coordinator.client.outcomes import Committed, Ended
from coordinator.driver.admission import Admission
from coordinator.driver.replica import Replica, Tunables
from coordinator.errors import OutcomeUnknown, Unavailable
from coordinator.failures.measures import Run
from coordinator.failures.moments import Moment
from coordinator.failures.participants import ACTIONS, GIVER, Books, WatchedMemory, books_of
from coordinator.failures.protocols import Protocol, Request
from coordinator.failures.sight import Sight
from coordinator.ledger.records import Phase, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.simulation.links import Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.machines import Machine
from coordinator.simulation.network import Network
from coordinator.simulation.rpc import Rpc
from coordinator.simulation.servers import ParticipantApi, ReplicaApi
from coordinator.simulation.trace import Trace
from coordinator.simulation.web import SimClient, SimOutcomeSource, SimParticipants, SimPeers, url_of
from coordinator.simulation.worker import SimWorker
from coordinator.webhooks import NoticeView
from participant.ids import BranchKey
from participant.proof import Seal
from participant.recovery import Recovery, RecoverySettings
from participant.resource import ResourceLimits
from participant.service import ParticipantService
from participant.three_phase import ThreePhase
from participant.wire import Answer, BranchState, Operation
from raftlog.config import LogConfig, Security
from raftlog.node import RaftLog
from raftlog.port import Leadership, Member, Role

__all__ = ["CLIENT", "Scene", "SceneFailed"]

CLIENT = "client"
REST_S = 90.0  # after the repair, so long at most until everything is decided and told (virtual seconds)

_RAFT_PORT = 7_000
_LOOK_EVERY_S = 0.05
_SECRET = b"only for the simulation"
_SEAL = Seal(_SECRET)
_EPOCH_MS = 1_760_000_000_000
_TUNABLES = Tunables()
_GID = "transfer-1"

Strike: TypeAlias = Callable[["Scene"], None]


class SceneFailed(Exception):
    """The scene did not go as it is written: the fault never struck, or there was no leader to begin with."""


class Scene:
    """One run. A scenario uses what stands above *The play*."""

    def __init__(self, protocol: Protocol, name: str, seed: int, *, refuses: bool = False) -> None:
        self.loop = SimLoop(f"{seed}/{protocol.key}/{name}")
        self.links = Links(f"{seed}/{protocol.key}/{name}")
        self.rng = Random(f"{seed}/{protocol.key}/{name}/scenario")  # noqa: S311  # a seed, no secret
        self.protocol = protocol
        self.replicas = [f"r{number + 1}" for number in range(protocol.replicas)]
        self.banks = list(protocol.moves)
        self.machines: dict[str, Machine] = {}
        self.ahead_ms: dict[str, int] = {}  # how far the wall clock of a machine is ahead
        self._request = Request(_GID, protocol.moves, refuses)
        self._rpc = Rpc(self.loop, self.links)
        self._trace = Trace(self.loop.time)
        self._running: dict[str, Replica] = {}
        self._memories: dict[str, WatchedMemory] = {}
        self._strikes: dict[Moment, list[tuple[float, Strike]]] = {}
        self._reached: set[Moment] = set()
        self._voted: set[str] = set()
        self._told: set[str] = set()
        self._is_recorded = False
        self._repaired_at: float | None = None
        self._asked_at = 0.0
        self._answered_at = 0.0
        self._ended: Ended | None = None
        self._sight = Sight(self.banks, protocol.shows)
        self._failure: BaseException | None = None
        Network(self.loop, self.links)
        mains = ((self.replicas, self._run_replica), (self.banks, self._run_bank), ([CLIENT], self._run_client))
        for each, main in ((each, main) for names, main in mains for each in names):
            self.machines[each] = self._machine(each, main)
            self.ahead_ms[each] = 0

    def _machine(self, name: str, main: Callable[[Machine], Coroutine[Any, Any, None]]) -> Machine:
        machine = Machine(name, self.loop, self.links, self._trace, main)
        machine.on_exit = self._exited
        return machine

    def run(self) -> Run:
        """Play it to its end. Raises SceneFailed."""
        with _silent():
            try:
                return self.loop.run_until_complete(self._play())
            finally:
                self.loop.close()

    # For scenarios -----------------------------------------------------------------------------------------------

    def when(self, moment: Moment, strike: Strike, *, within_s: float = 0.0) -> None:
        """Strike when the moment comes, or up to `within_s` later. One that a protocol does not have, because nobody
        is told anything, comes with the decision."""
        if moment in (Moment.FIRST_TOLD, Moment.LAST_TOLD) and not self.protocol.told:
            moment = Moment.DECIDED
        if moment is Moment.PRECOMMITTED and self.protocol.phases < 3:
            moment = Moment.DECIDED
        self._strikes.setdefault(moment, []).append((self.rng.uniform(0.0, within_s), strike))

    def repair_in(self, seconds: float, *, whatever_happens: bool = False) -> None:
        """The fault has struck, and lasts so long: then what is down comes up, what is cut is mended. Unless it is to
        last `whatever_happens`, it ends as soon as the others have done everything: the rest would show nothing."""
        until = self.loop.time() + seconds
        if whatever_happens:
            self.loop.call_at(until, self._repair, context=contextvars.Context())
        else:
            self._repair_by(until)

    def _repair_by(self, until: float) -> None:
        now = self.loop.time()
        if now >= until or self._is_done_without():
            self._repair()
        else:
            self.loop.call_at(min(until, now + _LOOK_EVERY_S), self._repair_by, until, context=contextvars.Context())

    @property
    def leader(self) -> Machine:
        """The coordinator that leads, or led last."""
        leading = [name for name, replica in self._running.items() if replica.log.leadership.role is Role.LEADER]
        return self.machines[leading[0] if leading else self.replicas[0]]

    @property
    def takers(self) -> list[str]:
        """The names of all banks but the giver."""
        return [name for name in self.banks if name != GIVER]

    def others(self, machine: Machine) -> list[str]:
        """The names of all other machines."""
        return [name for name in self.machines if name != machine.name]

    # The play ------------------------------------------------------------------------------------------------------

    async def _play(self) -> Run:
        for name in (*self.replicas, *self.banks):
            self.machines[name].start()
        await self._until(self._is_ready, REST_S, "no coordinator leads")
        self.machines[CLIENT].start()
        try:
            await self._until(lambda: self._repaired_at is not None, 10 * REST_S, "the fault did not strike")
            at_rest = await self._rests(self.loop.time() + REST_S)
        finally:
            if self._failure is not None:
                raise SceneFailed(f"a process ended by itself: {self._failure!r}") from self._failure
        now = self.loop.time()
        books = {name: await self._books(name) for name in self.banks}
        committed = isinstance(self._ended, Committed)
        whole = all(books[name] == (moved if committed else 0, 0) for name, moved in self.protocol.moves.items())
        longest_s, second_s, *_ = self._sight.held_s(now)
        return Run(
            atomic=at_rest and self._ended is not None and whole,
            committed=committed,
            needless_abort=not committed and not self._request.refuses,
            recorded=self._is_recorded,
            locks_held_s=longest_s,
            others_held_s=second_s,
            unknown_s=(self._answered_at if self._ended is not None else now) - self._asked_at,
            half_done_s=self._sight.half_done_s(now),
        )

    def _is_ready(self) -> bool:
        leads = any(replica.log.leadership.role is Role.LEADER for replica in self._running.values())
        return leads and len(self._running) == len(self.replicas) and len(self._memories) == len(self.banks)

    async def _until(self, holds: Callable[[], bool], seconds: float, failure: str) -> None:
        deadline = self.loop.time() + seconds
        while not holds():
            if self.loop.time() > deadline or self._failure is not None:
                raise SceneFailed(failure)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _rests(self, deadline: float) -> bool:
        """Whether all comes to rest in time: the client has its answer, and nothing is owed to anybody."""
        while self._ended is None or self._sight.is_holding or not self._is_ready() or not self._is_finished():
            if self.loop.time() > deadline:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True

    def _is_done_without(self) -> bool:
        """Whether those that the fault has left have nothing more to do."""
        if self._ended is None or self._sight.is_holding:
            return False
        terms = {replica.log.leadership.term for replica in self._running.values()}
        return any(
            replica.log.leadership == Leadership(Role.LEADER, max(terms), name) and not replica.ledger.unfinished()
            for name, replica in self._running.items()
        )

    def _is_finished(self) -> bool:
        ledgers = [replica.ledger for replica in self._running.values()]
        same = len({ledger.revision for ledger in ledgers}) == 1
        return same and not any(ledger.unfinished() for ledger in ledgers)

    async def _books(self, name: str) -> Books:
        process = self.machines[name].process
        if process is None or name not in self._memories:
            raise SceneFailed(f"{name} is down at the end")
        return await process.run(books_of(self._memories[name]))

    def _repair(self) -> None:
        self.links.mend_all()
        for name, machine in self.machines.items():
            machine.resume()
            if name != CLIENT:
                machine.start()
        self._repaired_at = self.loop.time()

    def _reach(self, moment: Moment) -> None:
        """A moment has come; whoever waits for it strikes, outside of the process in which it came."""
        if moment in self._reached:
            return
        self._reached.add(moment)
        self._trace.note("moment", moment)
        for after_s, strike in self._strikes.get(moment, ()):
            if after_s:
                self.loop.call_later(after_s, strike, self, context=contextvars.Context())
            else:
                contextvars.Context().run(strike, self)

    def _exited(self, machine: Machine, error: BaseException | None) -> None:
        self._forget(machine.name)
        if error is not None or machine.name != CLIENT:
            self._failure = self._failure or error or SceneFailed(f"{machine.name} has ended")

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)
        self._memories.pop(name, None)

    # What runs -----------------------------------------------------------------------------------------------------

    def _wall_ms(self, name: str) -> int:
        return _EPOCH_MS + self.ahead_ms[name] + int(self.loop.time() * 1_000)

    async def _run_replica(self, machine: Machine) -> None:
        name = machine.name
        self._born(machine)
        members = tuple(Member(each, f"{each}:{_RAFT_PORT}") for each in self.replicas)
        config = LogConfig(cluster="simulated", name=name, members=members, security=Security(secret=_SECRET))
        ledger = Ledger()
        log = RaftLog(config, ledger, machine.disk, machine.chance(), SimWorker)
        replica = Replica(
            log,
            ledger,
            SimParticipants(self._rpc, self.banks, _TUNABLES.call_timeout_s),
            wall_ms=partial(self._wall_ms, name),
            chance=machine.chance(),
            admission=Admission(),
            tunables=_TUNABLES,
            seal=_SEAL,
        )
        ledger.subscribe(self._recorded)
        await replica.start()
        self._running[name] = replica
        ReplicaApi(self._rpc, name, replica, self.banks, _never)
        await log.stopped()

    async def _run_bank(self, machine: Machine) -> None:
        name = machine.name
        self._born(machine)
        memory = WatchedMemory(
            machine.disk, limits=ResourceLimits(), wall_ms=partial(self._wall_ms, name), worker=SimWorker
        )
        memory.watch(partial(self._came_to, name))
        await memory.open()
        self._memories[name] = memory
        settings = RecoverySettings()
        three_phase = ThreePhase(name, memory, _SEAL, SimPeers(self._rpc), settings.peers_after_s)
        service = ParticipantService(name, memory, ACTIONS, three_phase=three_phase)
        ParticipantApi(self._rpc, service, self.protocol.kind, partial(self._said, name), _nobody, _never)
        source = SimOutcomeSource(self._rpc, name, self.replicas)
        asking = Recovery(three_phase, source, settings, machine.chance(), silent=three_phase)
        recovery = asyncio.ensure_future(asking.run())
        failure = await memory.failed()
        recovery.cancel()
        raise failure

    async def _run_client(self, machine: Machine) -> None:
        urls = [url_of(name) for name in self.replicas]
        client = SimClient(self._rpc, urls, chance=machine.chance(), routed=False)
        self._asked_at = self.loop.time()
        self._reach(Moment.ASKED)
        while self._ended is None:
            try:
                self._ended = await self.protocol.transact(client, self._request)
            except (OutcomeUnknown, Unavailable):
                continue  # with the same gid
        self._answered_at = self.loop.time()

    def _born(self, machine: Machine) -> None:
        """A process begins; what is known of the one before it is void when that dies."""
        if machine.process is not None:
            machine.process.when_dead(partial(self._forget, machine.name))

    # What is seen --------------------------------------------------------------------------------------------------

    def _recorded(self, record: TransactionRecord) -> None:
        self._is_recorded |= not record.tombstone
        if record.phase is Phase.PRECOMMITTING:
            self._reach(Moment.PRECOMMITTED)
        if record.decision is not None:
            self._reach(Moment.DECIDED)

    def _said(self, name: str, _operation: Operation, answer: Answer | None) -> None:
        """A participant is about to answer."""
        if answer is None or answer.state is BranchState.UNKNOWN:
            return
        if Moment.DECIDED in self._reached:
            if answer.state is BranchState.PREPARED:
                return  # a vote or a precommit that comes late: a majority has decided without it
            self._told.add(name)
            self._reach(Moment.FIRST_TOLD)
            if len(self._told) >= self.protocol.told:
                self._reach(Moment.LAST_TOLD)
        else:
            self._voted.add(name)
            self._reach(Moment.FIRST_VOTE)
            if len(self._voted) >= self.protocol.votes:
                self._reach(Moment.LAST_VOTE)

    def _came_to(self, name: str, key: BranchKey, state: BranchState) -> None:
        """What a branch has come to, durably."""
        self._sight.came_to(name, key, state, self.loop.time())


def _nobody(_notice: NoticeView) -> None:
    """No transaction of a scene asks for notices."""


def _never(_moment: str) -> bool:
    return False


@contextmanager
def _silent() -> Iterator[None]:
    """What the code under the fault logs is for nobody."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
