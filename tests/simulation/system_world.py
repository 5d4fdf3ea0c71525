"""The system world: replicas on a real replicated log, banks on simulated disks, clients; and faults over all of them.

What runs is production code: `RaftLog`, `Ledger`, `Replica` with its supervisor and drivers, `ParticipantService` over
the memory resource manager, `Recovery`, `Client`, `Worker`. Only time, network, disks and HTTP's bytes are simulated.

The banks of a run are of three kinds (`bank.Kind`), so that transactions take every path. Faults lie in wait for the
moments between two steps of a commit: a leader that holds the branches but no decision, or has just told a caller; a
participant whose vote is durable but not said; a worker whose code has just heard what a step has given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import msgpack

from coordinator.client.worker import Worker
from coordinator.driver.admission import Admission
from coordinator.driver.replica import Replica, Tunables
from coordinator.ledger.commands import Decide
from coordinator.ledger.records import Path, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.simulation.machines import Machine
from coordinator.simulation.rpc import Flaws, Rpc
from coordinator.simulation.servers import ParticipantApi, ReplicaApi
from coordinator.simulation.web import SimClient, SimNotifier, SimOutcomeSource, SimParticipants, SimPeers, url_of
from coordinator.simulation.worker import SimWorker
from participant.branch import Branch
from participant.errors import ResourceFailed
from participant.proof import Seal
from participant.recovery import Recovery, RecoverySettings
from participant.resource import ResourceLimits
from participant.rm.memory import Memory
from participant.rm.store import NOTHING, Effects
from participant.service import ParticipantService
from participant.three_phase import ThreePhase
from participant.wire import Answer, Operation
from raftlog.config import LogConfig, Security
from raftlog.errors import DiskFailed
from raftlog.node import RaftLog
from raftlog.port import Role
from tests.simulation.bank import ACTIONS, INITIAL
from tests.simulation.checkers.branches import Branches
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.flows import Flows
from tests.simulation.checkers.letters import Letters
from tests.simulation.checkers.money import Money
from tests.simulation.checkers.notices import Notices
from tests.simulation.checkers.order import Order
from tests.simulation.checkers.reports import Reports
from tests.simulation.checkers.steps import Effect, Steps
from tests.simulation.errands import EFFECTS, errands
from tests.simulation.flows import transfer
from tests.simulation.office import Office, Tray
from tests.simulation.settings import Settings
from tests.simulation.tally import Tally
from tests.simulation.teller import Teller
from tests.simulation.world import PROGRESS_S, SECRET, TIMING, World, members_of

__all__ = ["SystemWorld"]

_REPLICAS = ["r1", "r2", "r3"]
_CLIENTS = ["c1", "c2", "c3"]
_WORKERS = ["w1", "w2"]

_EPOCH_MS = 1_760_000_000_000
_SKEW_MS = 30_000  # two machines' wall clocks differ by up to twice this
_TUNABLES = Tunables(retention_s=1_200.0)
_LIMITS = ResourceLimits(lock_wait_s=3.0, unprepared_limit_s=20.0, retention_s=7_200.0)
_MOMENTS = ("begun", "begun", "begun", "implied", "implied", "telling", "decided", "asked", "answering", "answering")
_MOMENTS_OF_WORKERS = ("heard", "heard")
_AT_ONCE = (4, 64)  # workflows of one worker
_WORKER_LIVES_S = 120.0  # before it makes room for another one, in good order
_RECOVERY = RecoverySettings(grace_s=3.0, interval_s=1.0, interval_max_s=8.0, peers_after_s=1.0)
_SEAL = Seal(SECRET)


class SystemWorld(World):
    """One run of one seed; `harder` may change what the seed chose."""

    def __init__(self, seed: int, harder: Callable[[Settings], Settings] = lambda settings: settings) -> None:
        super().__init__("system", seed)
        self.settings = harder(Settings.draw(self.rng))
        self.rpc = Rpc(self.loop, self.links)
        self.decisions = Decisions(self.findings)
        self.steps = Steps(self.findings, self.decisions)
        self.notices = Notices(self.findings, self.decisions)
        self.branches = Branches(self.findings, self.decisions, self.steps)
        self.money = Money(self.findings, INITIAL)
        self.reports = Reports(self.findings)
        self.letters = Letters(self.findings)
        self.order = Order(self.findings)
        self.flows = Flows(self.findings, self.decisions, self.steps)
        self._tray = Tray(self.loop.time)
        self._newest: dict[str, int] = {}  # by gid: the revision of the newest record of it
        self.tally = Tally(self.decisions, self.settings.kinds)
        self._banks = list(self.settings.kinds)
        self._clients = _CLIENTS[: self.settings.clients]
        self._replicas: dict[str, Replica] = {}
        self._resources: dict[str, Memory] = {}
        self._skew_ms: dict[str, int] = {}
        kinds = (
            (_REPLICAS, self._run_replica),
            (self._banks, self._run_bank),
            (self._clients, self._run_client),
            (["office"], self._run_office),
            (_WORKERS[: self.settings.workers], self._run_worker),
        )
        for name, main in ((name, main) for names, main in kinds for name in names):
            self.add_machine(name, main, kept_up=name not in self._clients)
            self._skew_ms[name] = self.rng.randint(-_SKEW_MS, _SKEW_MS)
        moments = _MOMENTS_OF_WORKERS if self.settings.workers else ()
        self.plan_faults(self.settings.faults, _MOMENTS + moments)

    def summary(self) -> str:
        answers = ", ".join(f"{count} {what}" for what, count in sorted(self.decisions.answers.items()))
        return (
            f"{len(self._banks)} banks, {self.faults.done} faults, {len(self.decisions.committed)} committed; "
            f"clients heard: {answers}, {self.decisions.ahead} of them ahead of every ledger; "
            f"{self.notices}; {self.reports}; {self.order}; {self.letters}; {self.flows}; {self.tally}"
        )

    # Rounds ------------------------------------------------------------------------------------------------------

    def begin_round(self, group: asyncio.TaskGroup) -> None:
        self.rpc.flaws = self.settings.flaws

    async def settle(self) -> None:
        """Clients end, every transaction is final on every replica, no branch waits; then all must agree."""
        self.rpc.flaws = Flaws()
        deadline = self.loop.time() + PROGRESS_S
        for what, holds in (
            ("all clients answered", self._all_answered),
            ("all ledgers equal and every transaction final", self._all_final),
            ("all branches ended", self._none_in_doubt),
        ):
            if not await self.wait_until(what, holds, deadline):
                return
        self._check()
        self.trace.note("settled", len(self.decisions.committed))

    def _all_answered(self) -> bool:
        return not any(self.machines[name].up for name in self._clients)

    def _all_final(self) -> bool:
        ledgers = [self._replicas[name].ledger for name in _REPLICAS if name in self._replicas]
        revisions = {ledger.revision for ledger in ledgers}
        finished = not any(ledger.unfinished() for ledger in ledgers)
        latest = len(revisions) == 1 and min(revisions) >= self.decisions.revision  # replicas begin with less
        return len(ledgers) == len(_REPLICAS) and latest and finished

    def _none_in_doubt(self) -> bool:
        engines: list[Any] = [self._resources[name]._engine for name in self._banks if name in self._resources]
        waiting = any(engine._prepared or engine._open or engine._parked for engine in engines)
        return len(engines) == len(self._banks) and not waiting

    def _check(self) -> None:
        self.decisions.check()
        self.notices.check()
        self.flows.check()
        balances: dict[str, int] = {}
        effects: dict[tuple[str, str, str], Effect] = {}
        for name in self._banks:
            store: Any = self._resources[name]._engine._store
            self.branches.check(name, list(store._branches.values()))
            for row, packed in store._rows.items():
                if row.startswith(EFFECTS):
                    gid, branch, what = row.removeprefix(EFFECTS).split("/")
                    effects[gid, branch, what] = tuple(msgpack.unpackb(packed))
                else:
                    balances[f"{name}/{row}"] = msgpack.unpackb(packed)
        self.steps.check(effects, self.reports.effects_due, self.letters.dropped)
        self.money.check(self._committed(), balances)

    def _committed(self) -> list[str]:
        """What the ledgers hold as committed, and what a one-phase bank committed for a client that gave up."""
        recorded = self.decisions.committed
        alone: list[str] = []
        for name in self._banks:
            store: Any = self._resources[name]._engine._store
            for branch in store._branches.values():
                gid = branch.key.gid
                if branch.state == "committed" and self.decisions.of(gid) is None:
                    alone.append(gid)
        return recorded + alone

    def excused(self, machine: Machine, error: BaseException | None) -> bool:
        self._replicas.pop(machine.name, None)
        self._resources.pop(machine.name, None)
        if machine.name in self._clients:
            return error is None
        return isinstance(error, DiskFailed | ResourceFailed) and machine.disk.failures > 0

    def favourite(self) -> str | None:
        for name, replica in self._replicas.items():
            if self.machines[name].running and replica.log.leadership.role is Role.LEADER:
                return name
        return None

    # Processes ---------------------------------------------------------------------------------------------------

    def _wall(self, name: str) -> Callable[[], int]:
        skew_ms = self._skew_ms[name]
        return lambda: _EPOCH_MS + skew_ms + int(self.loop.time() * 1_000)

    async def _run_replica(self, machine: Machine) -> None:
        name = machine.name
        self._replicas.pop(name, None)
        chance = machine.chance()
        config = LogConfig(
            cluster="simulated",
            name=name,
            members=members_of(_REPLICAS),
            security=Security(secret=SECRET),
            timing=TIMING,
            snapshot_entries=self.settings.snapshot_entries,
        )
        ledger = Ledger()
        log = RaftLog(config, ledger, machine.disk, chance, SimWorker)
        ledger.subscribe(partial(self._recorded, name, log))
        self.tally.watch(log, ledger)
        participants = SimParticipants(self.rpc, self._banks, _TUNABLES.call_timeout_s)
        replica = Replica(
            log,
            ledger,
            participants,
            wall_ms=self._wall(name),
            chance=chance,
            admission=Admission(),
            tunables=_TUNABLES,
            notifier=SimNotifier(self.rpc, _TUNABLES.call_timeout_s),
            seal=_SEAL,
        )
        self._listen(name, replica)
        await replica.start()
        self._replicas[name] = replica
        ReplicaApi(self.rpc, name, replica, self._banks, self._struck(name))
        await log.stopped()

    async def _run_bank(self, machine: Machine) -> None:
        name = machine.name
        self._resources.pop(name, None)
        memory = Memory(machine.disk, limits=_LIMITS, wall_ms=self._wall(name), worker=SimWorker)
        await memory.open()
        self._watch(name, memory)
        self._resources[name] = memory
        part = ThreePhase(name, memory, _SEAL, SimPeers(self.rpc), _RECOVERY.peers_after_s)
        service = ParticipantService(name, memory, ACTIONS | errands(self.loop.time, self._tray.put), three_phase=part)
        kind = self.settings.kinds[name]
        ParticipantApi(self.rpc, service, kind, partial(self._said, name), self.notices.heard, self._struck(name))
        source = SimOutcomeSource(self.rpc, name, _REPLICAS)
        finisher = Recovery(part, source, _RECOVERY, machine.chance(), silent=part)
        recovery = asyncio.ensure_future(finisher.run())
        failure = await memory.failed()
        recovery.cancel()
        raise failure

    def _recorded(self, name: str, log: RaftLog, record: TransactionRecord) -> None:
        """The ledger of a replica changed."""
        self.decisions.recorded(name, record)
        self.tally.recorded(record)
        self.steps.recorded(record)
        self.notices.recorded(record)
        if record.revision > self._newest.get(record.gid, 0):
            self._newest[record.gid] = record.revision
            for checker in (self.reports, self.letters, self.order, self.flows):
                checker.recorded(record)
        if log.leadership.role is Role.LEADER and record.branches:
            if record.decision is not None:
                self.faults.moment("decided", name)
            elif record.path is not Path.CLASSIC:
                self.faults.moment("begun", name)

    def _listen(self, name: str, replica: Replica) -> None:
        """Hear of every decision that a leader takes for true before the log holds it."""
        supervisor: Any = replica.supervisor
        shared = supervisor._shared

        def watched(decide: Decide) -> None:
            if replica.waiters.known(decide.gid).decision is None:
                self.decisions.implied(name, decide)
                self.faults.moment("implied", name)
            shared.implied(decide)

        supervisor._shared = replace(shared, implied=watched)

    def _said(self, name: str, operation: Operation, answer: Answer | None) -> None:
        """A bank answers, or is asked for what it cannot do (None)."""
        if answer is None:
            what = f"{name}: {operation.verb} of {operation.key}"
            self.findings.report("nobody is asked for what it cannot do", what)
        else:
            self.branches.said(name, operation.key, answer)

    def _struck(self, name: str) -> Callable[[str], bool]:
        return lambda moment: self.faults.moment(moment, name)

    def _watch(self, name: str, memory: Memory) -> None:
        """Show the checkers every change of a branch; the bank's own code stays as it is."""
        store: Any = memory._engine._store
        save = store.save

        def watched(branch: Branch, effects: Effects = NOTHING) -> None:
            self.branches.moves(name, store.load(branch.key), branch)
            if self.steps.owns(branch.key):
                for checker in (self.reports, self.letters, self.order):
                    checker.moves(branch)
            save(branch, effects)

        store.save = watched

    async def _run_office(self, machine: Machine) -> None:
        checkers = (self.findings, self.reports, self.letters, self.order)
        await Office(machine.chance(), self.rpc, _REPLICAS, self._tray, checkers).run()

    async def _run_worker(self, machine: Machine) -> None:
        """One process of an application: a worker in it, and the next one when that has gone."""
        chance = machine.chance()
        urls = [url_of(name) for name in _REPLICAS]
        workflow = transfer(self.flows, self.steps, lambda: self._struck(machine.name)("heard"))
        while True:
            client = SimClient(self.rpc, urls, timeout_s=8.0, attempt_timeout_s=4.0, chance=chance, routed=False)
            async with client, Worker(client, [workflow], at_once_max=chance.choice(_AT_ONCE), chance=chance):
                await asyncio.sleep(chance.expovariate(1.0) * _WORKER_LIVES_S)

    async def _run_client(self, machine: Machine) -> None:
        if machine.process is None or not self.working:
            return
        incarnation = machine.process.incarnation
        async with asyncio.TaskGroup() as group:
            for number in range(self.settings.tellers):
                teller = Teller(
                    f"{machine.name}-{incarnation}-{number}",
                    Random(machine.chance().getrandbits(64) + number),
                    self.rpc,
                    self.settings,
                    _REPLICAS,
                    lambda: self.working,
                    (self.findings, self.decisions, self.money, self.steps, self.flows),
                    self.trace,
                )
                group.create_task(teller.run(self.settings.think_s))
