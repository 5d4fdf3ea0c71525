"""Driving one open transaction on the leader: no task of its own, only `decide`, over and over.

Owns: the facts of one transaction. Must never do: remember what is true (the ledger does) or know what comes next
(`protocols` does). It is woken by the end of an effect, by a change of the record and by its alarm; several
wake-ups in one turn of the event loop make one step.

There may be very many of them, which wait for a participant that is gone: so each is kept small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import structlog

from coordinator.driver.alarms import Alarms
from coordinator.driver.doing import Doing, doing_of
from coordinator.driver.performer import Performer
from coordinator.driver.spans import Spans
from coordinator.driver.terms import Notary
from coordinator.effects import Call, CallEnded, Effect, Event, Propose, Tell
from coordinator.facts import YES_STATES, Expiry, Facts
from coordinator.ledger.commands import Decide
from coordinator.ledger.records import BranchRecord, Path, Phase, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.modes import name_of
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan
from coordinator.wire import unpack_body
from participant.ids import BranchKey
from participant.traceparent import trace_fields
from participant.wire import Operation, Verb

__all__ = ["Driver", "Shared"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all drivers of a replica have in common. An alarm has the name of the gid, and wakes its driver.

    `implied` is called with each decision that is true before the log holds it. `ended` is called once for a driver,
    when nothing is owed to anybody any more (True) or when our own code failed (False): then the transaction stays as
    it is until an operator or another leader takes it up.
    """

    ledger: Ledger
    performer: Performer
    spans: Spans
    notary: Notary
    alarms: Alarms
    chance: Random
    implied: Callable[[Decide], None]
    ended: Callable[[Driver, bool], None]


class Driver:
    """One transaction. `plan` is what was asked for, None when it was taken over from the record, and once the record
    holds its decision."""

    __slots__ = ("_contradiction", "_facts", "_loop", "_next", "_shared", "closed", "gid", "plan")

    def __init__(self, gid: str, plan: Plan | None, shared: Shared) -> None:
        self.gid = gid
        self.plan = plan
        self.closed = False
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._facts = Facts(self._loop.time())
        self._next: asyncio.Handle | None = None
        self._contradiction = ""

    def wake(self) -> None:
        """Something may have changed: take a step in the next turn of the loop."""
        if self._next is None and not self.closed:
            self._next = self._loop.call_soon(self._step)

    def changed(self) -> None:
        """The record has changed. Our own proposal's end, which is near, wakes us anyway."""
        if not self._facts.is_proposing:
            self.wake()

    def expire(self, expiry: Expiry) -> None:
        """Behave as if the deadline had come."""
        self._facts.expiry = expiry
        self.wake()

    def submit(self) -> None:
        """Its sender says that its source is done."""
        self._facts.submitted = True
        self.wake()

    def doing(self) -> Doing:
        """What it is doing now."""
        rings_at = self._shared.alarms.at(self.gid)
        return doing_of(self._facts, None if rings_at is None else max(0.0, rings_at - self._loop.time()))

    def close(self) -> None:
        """Stop driving. Effects under way end unheard."""
        self.closed = True
        if self._next is not None:
            self._next.cancel()
        self._shared.alarms.cancel(self.gid)

    @property
    def _trace(self) -> str:
        return self._shared.spans.trace_of(self.gid)

    def _heard(self, event: Event) -> None:
        if not self.closed:
            self._facts.fold(event, self._loop.time(), self._shared.chance.random())
            if not self._may_wait(event):
                self.wake()

    def _may_wait(self, event: Event) -> bool:
        """A vote or a confirmation as hoped for changes nothing alone, while others are awaited; a step may, and so may
        one that has precommitted."""
        if not isinstance(event, CallEnded) or event.answer is None or event.answer.retry:
            return False
        record = self._shared.ledger.get(self.gid)
        if record is not None and (record.path is Path.STEPS or record.phase is Phase.PRECOMMITTING):
            return False
        return event.answer.state in YES_STATES and self._facts.awaits_others(event.branch)

    def _step(self) -> None:
        self._next = None
        try:
            self._advance()
        except Exception:  # noqa: BLE001 (one transaction's failure must not stop the others)
            _log.exception("driver.failed", gid=self.gid, **trace_fields(self._trace))
            self.close()
            self._shared.ended(self, False)

    def _advance(self) -> None:
        record = self._shared.ledger.get(self.gid)
        self._drop_plan(record)
        now = self._loop.time()
        if record is not None and record.decision is not None:
            self._facts.saw_decision(now)
        step = decide(self.plan, record, self._facts, now)
        for effect in step.effects:
            self._facts.note(effect)
            self._perform(effect, record)
        if step.contradiction and step.contradiction != self._contradiction:
            self._contradiction = step.contradiction
            _log.error(
                "transaction.contradiction", gid=self.gid, detail=step.contradiction, **trace_fields(self._trace)
            )
        if step.implied is not None:
            self._shared.implied(step.implied)
        if step.done:
            self.close()
            self._shared.ended(self, True)
        elif step.wake_at is not None:
            self._shared.alarms.set(self.gid, step.wake_at)

    def _drop_plan(self, record: TransactionRecord | None) -> None:
        """Once its own decision is recorded, everything follows from the record."""
        plan = self.plan
        if plan is None or record is None or record.decision is None:
            return
        if record.digest == plan.digest:
            self.plan = None

    def _perform(self, effect: Effect, record: TransactionRecord | None) -> None:
        match effect:
            case Propose():
                self._shared.performer.propose(effect, self._heard)
            case Call():
                self._call(effect, record)
            case Tell(notice=notice) if record is not None:
                self._shared.performer.tell(record, notice, self._heard, self._may_tell)

    def _may_tell(self) -> bool:
        """Not what an operator has dropped while it waited for its turn."""
        record = self._shared.ledger.get(self.gid)
        return record is not None and not record.notice_dropped

    def _call(self, call: Call, record: TransactionRecord | None) -> None:
        begun = record if record is not None and record.branches else self.plan
        if begun is None:
            raise KeyError(call.branch)
        name = name_of(call.branch) if begun.path is Path.STEPS else call.branch
        for branch in begun.branches:
            if branch.branch == name:
                operation = _operation(self.gid, branch, call, self._trace)
                terms = self._shared.notary.terms(begun, record, call.verb, branch.participant)
                operation = operation._replace(three_phase=terms)
                self._shared.performer.call(branch.participant, operation, self._heard)
                return
        raise KeyError(call.branch)


def _operation(gid: str, branch: BranchRecord, call: Call, trace: str) -> Operation:
    key = BranchKey(gid, call.branch)
    if call.work is not None:
        return Operation(call.verb, key, call.work.action, unpack_body(call.work.body), call.one_phase, trace=trace)
    if call.verb is Verb.PREPARE or call.one_phase:
        body = unpack_body(branch.body)
        return Operation(call.verb, key, branch.action, body, call.one_phase, works=branch.works, trace=trace)
    return Operation(call.verb, key, trace=trace)
