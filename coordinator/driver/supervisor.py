"""Who is driven here: every unfinished transaction while this replica leads, none while it does not.

Owns: the drivers, and their alarms. Must never do: decide anything about a transaction. A takeover is nothing special:
each unfinished record gets a driver without a plan, and that driver's first step asks for what is missing. There may be
very many, and a leader that is busy with them for longer than an election takes is no leader any more; so they are
taken up a few at a time, undecided ones first.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from random import Random

import structlog

from coordinator.driver.admission import Admission
from coordinator.driver.alarms import Alarms
from coordinator.driver.doing import Doing
from coordinator.driver.driver import Driver, Shared
from coordinator.driver.performer import Performer
from coordinator.driver.spans import Spans
from coordinator.driver.terms import Notary
from coordinator.driver.waiters import Waiters
from coordinator.errors import NotLeader
from coordinator.facts import Expiry
from coordinator.ledger.records import Decision, Path, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.two_phase import Plan
from raftlog.port import Leadership, ReplicatedLog, Role

__all__ = ["TAKEN_UP_AT_ONCE_MAX", "Supervisor"]

TAKEN_UP_AT_ONCE_MAX = 128  # records; a few milliseconds

_log = structlog.get_logger(__name__)


class Supervisor:
    """Starts, wakes and drops drivers as leadership and the ledger change. To be used between start and stop.

    `decided` counts the transactions that were decided while they were driven here.
    """

    def __init__(
        self,
        log: ReplicatedLog,
        ledger: Ledger,
        performer: Performer,
        waiters: Waiters,
        admission: Admission,
        chance: Random,
        notary: Notary,
    ) -> None:
        self._replicated = log
        self._ledger = ledger
        self._performer = performer
        self._waiters = waiters
        self._admission = admission
        self._alarms = Alarms(self._ring)
        # Jitter is drawn for every event, and is no secret: a generator of the system would be dear.
        jitter = Random(chance.getrandbits(64))  # noqa: S311
        self._spans = Spans()
        self._shared = Shared(
            ledger, performer, self._spans, notary, self._alarms, jitter, waiters.implied, self._ended
        )
        self._drivers: dict[str, Driver] = {}
        self._undecided: set[str] = set()
        self._broken: set[str] = set()
        self.decided: Counter[tuple[Path, Decision]] = Counter()
        self._term: int | None = None
        self._inherited: deque[str] = deque()  # unfinished gids that have no driver yet
        self._taking_up: asyncio.Handle | None = None
        self._unsubscribe = [ledger.subscribe(self._changed), log.subscribe(self._leadership_changed)]

    def start(self) -> None:
        """Take up what is there, if this replica leads already."""
        self._leadership_changed(self._replicated.leadership)

    async def stop(self) -> None:
        """Drop everything; whoever waits hears *deciding*."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._drop_all()
        await self._performer.stop()

    @property
    def leading(self) -> bool:
        """Whether this replica drives transactions now."""
        return self._term is not None

    @property
    def in_flight(self) -> int:
        """Undecided transactions that are driven here."""
        return len(self._undecided)

    @property
    def open(self) -> int:
        """Unfinished transactions that are driven here, or will be in a moment."""
        return len(self._drivers) + len(self._inherited)

    @property
    def broken(self) -> int:
        """Transactions whose driver failed in this term; nobody drives them here."""
        return len(self._broken)

    def require_leading(self) -> None:
        """Raises NotLeader unless this replica leads."""
        if self._term is None:
            raise NotLeader(self._replicated.leadership.leader)

    def plan_of(self, gid: str) -> Plan | None:
        """What was asked for under `gid`, while it is driven here for a caller."""
        driver = self._drivers.get(gid)
        return None if driver is None else driver.plan

    def doing(self, gid: str) -> Doing | None:
        """What is being done about it, if it is driven here."""
        driver = self._drivers.get(gid)
        return None if driver is None else driver.doing()

    def expire(self, gid: str, expiry: Expiry) -> None:
        """Let the deadline of an undecided transaction come now, if it is driven here. Raises: NotLeader."""
        self.require_leading()
        self._take_up(gid)
        if gid in self._undecided:
            self._drivers[gid].expire(expiry)

    def submit(self, gid: str) -> None:
        """The sender of an undecided transaction says that its source is done. Raises: NotLeader."""
        self.require_leading()
        self._take_up(gid)
        if gid in self._undecided:
            self._drivers[gid].submit()

    def admit(self, notify: str) -> None:
        """Let a new transaction begin here, of which somebody wants to be told at `notify`, if that is not "". Raises:
        NotLeader, Overloaded."""
        self.require_leading()
        self._admission.admit(in_flight=self.in_flight, open_=self.open, records=len(self._ledger))
        if notify:
            untold = self._ledger.untold
            self._admission.admit_notice(untold=len(untold), at_host=untold.at(notify))

    def drive(self, plan: Plan) -> None:
        """Drive a new transaction. Raises: NotLeader, Overloaded, Unreachable."""
        self.admit(plan.notify)
        self._performer.admit(dict.fromkeys(branch.participant for branch in plan.branches))
        self._start(plan.gid, plan)

    def _leadership_changed(self, leadership: Leadership) -> None:
        term = leadership.term if leadership.role is Role.LEADER else None
        if term == self._term:
            return
        self._drop_all()
        self._term = term
        if term is None:
            _log.info("leadership.follows", term=leadership.term, leader=leadership.leader)
            return
        unfinished = self._ledger.unfinished()
        _log.info("leadership.leads", term=term, taken_over=len(unfinished))
        self._inherited.extend(record.gid for record in unfinished if record.decision is None)
        self._inherited.extend(record.gid for record in unfinished if record.decision is not None)
        self._take_some_up()

    def _take_some_up(self) -> None:
        self._taking_up = None
        for _ in range(min(TAKEN_UP_AT_ONCE_MAX, len(self._inherited))):
            self._take_up(self._inherited.popleft())
        if self._inherited:
            self._taking_up = asyncio.get_running_loop().call_soon(self._take_some_up)

    def _take_up(self, gid: str) -> None:
        """Drive an unfinished record that has no driver."""
        record = self._ledger.get(gid)
        if record is not None and not record.finished and gid not in self._drivers and gid not in self._broken:
            self._start(gid, None)

    def _drop_all(self) -> None:
        self._inherited.clear()
        if self._taking_up is not None:
            self._taking_up.cancel()
            self._taking_up = None
        for driver in self._drivers.values():
            driver.close()
        self._drivers.clear()
        self._spans.end_all()
        self._alarms.clear()
        self._undecided.clear()
        self._broken.clear()
        self._term = None
        self._performer.cancel_all()
        self._waiters.release_all()

    def _start(self, gid: str, plan: Plan | None) -> None:
        driver = Driver(gid, plan, self._shared)
        self._drivers[gid] = driver
        self._broken.discard(gid)
        record = self._ledger.get(gid)
        decision = None if record is None else record.decision
        if decision is None:
            self._undecided.add(gid)
        work = plan or record
        if work is not None and work.trace:
            self._spans.begin(gid, work.trace, work.path, decision, is_taken_over=plan is None)
        driver.wake()

    def _ring(self, gid: str) -> None:
        self._drivers[gid].wake()

    def _changed(self, record: TransactionRecord) -> None:
        """The ledger changed a record, in the middle of its `apply`."""
        if self._term is None:
            return
        decision = record.decision
        if decision is not None and record.gid in self._undecided:
            self._undecided.remove(record.gid)
            self.decided[record.path, decision] += 1
            self._spans.decided(record.gid, decision)
        driver = self._drivers.get(record.gid)
        if driver is not None:
            driver.changed()
        elif not record.finished and (decision is not None or record.gid not in self._broken):
            self._start(record.gid, None)

    def _ended(self, driver: Driver, well: bool) -> None:
        if self._drivers.get(driver.gid) is not driver:
            return
        del self._drivers[driver.gid]
        self._spans.end(driver.gid)
        self._undecided.discard(driver.gid)
        record = self._ledger.get(driver.gid)
        if not well:
            self._broken.add(driver.gid)
        elif record is not None and not record.finished:
            self._start(driver.gid, None)  # the gid was begun by another request, which still wants driving
