"""Driving one open transaction on the leader: no task of its own, only `decide`, over and over.

Owns: the facts of one transaction and one timer. Must never do: remember what is true (the ledger does) or know
what comes next (`protocols.two_phase` does). It is woken by the end of an effect, by a change of the record and by
its timer; several wake-ups in one turn of the event loop make one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import structlog

from coordinator.driver.performer import Performer
from coordinator.effects import Call, CallEnded, Event, Propose
from coordinator.facts import YES_STATES, Expiry, Facts
from coordinator.ledger.commands import Decide
from coordinator.ledger.records import BranchRecord, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.two_phase import Plan, decide
from coordinator.wire import unpack_body
from participant.ids import BranchKey
from participant.wire import Operation, Verb

__all__ = ["Driver"]

_log = structlog.get_logger(__name__)


class Driver:
    """One transaction. `plan` is what was asked for, None when it was taken over from the record.

    `implied` is called with each decision that is true before the log holds it. `ended` is called once, when nothing
    is owed to anybody any more (True) or when our own code failed (False): then the transaction stays as it is until
    an operator or another leader takes it up.
    """

    __slots__ = ("_chance", "_contradiction", "_ended", "_facts", "_implied", "_ledger", "_loop", "_next",
                 "_performer", "_rings_at", "_timer", "closed", "gid", "plan")  # fmt: skip

    def __init__(
        self,
        gid: str,
        plan: Plan | None,
        ledger: Ledger,
        performer: Performer,
        chance: Random,
        implied: Callable[[Decide], None],
        ended: Callable[[Driver, bool], None],
    ) -> None:
        self.gid = gid
        self.plan = plan
        self.closed = False
        self._ledger = ledger
        self._performer = performer
        self._chance = chance
        self._implied = implied
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._facts = Facts(self._loop.time())
        self._next: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._contradiction = ""

    def wake(self) -> None:
        """Something may have changed: take a step in the next turn of the loop."""
        if self._next is None and not self.closed:
            self._next = self._loop.call_soon(self._step)

    def changed(self) -> None:
        """The record has changed. Our own proposal's end, which is near, wakes us anyway."""
        if not self._facts.proposal.in_flight:
            self.wake()

    def expire(self, expiry: Expiry) -> None:
        """Behave as if the deadline had come."""
        self._facts.expiry = expiry
        self.wake()

    def close(self) -> None:
        """Stop driving. Effects under way end unheard."""
        self.closed = True
        self._cancel(self._next)
        self._cancel(self._timer)

    def _heard(self, event: Event) -> None:
        if not self.closed:
            self._facts.fold(event, self._loop.time(), self._chance.random())
            if not self._may_wait(event):
                self.wake()

    def _may_wait(self, event: Event) -> bool:
        """A vote or a confirmation as hoped for changes nothing alone, while others are awaited."""
        if not isinstance(event, CallEnded) or event.answer is None or event.answer.retry:
            return False
        return event.answer.state in YES_STATES and self._facts.awaits_others(event.branch)

    def _step(self) -> None:
        self._cancel(self._next)  # it may be the timer that rings, in the turn of a wake-up
        self._next = None
        try:
            self._advance()
        except Exception:  # noqa: BLE001 (one transaction's failure must not stop the others)
            _log.exception("driver.failed", gid=self.gid)
            self.close()
            self._ended(self, False)

    def _advance(self) -> None:
        record = self._ledger.get(self.gid)
        step = decide(self.plan, record, self._facts, self._loop.time())
        for effect in step.effects:
            self._facts.note(effect)
            if isinstance(effect, Propose):
                self._performer.propose(effect, self._heard)
            else:
                self._call(effect, record)
        if step.contradiction and step.contradiction != self._contradiction:
            self._contradiction = step.contradiction
            _log.error("transaction.contradiction", gid=self.gid, detail=step.contradiction)
        if step.implied is not None:
            self._implied(step.implied)
        if step.done:
            self.close()
            self._ended(self, True)
        elif step.wake_at is not None:
            self._arm(step.wake_at)

    def _call(self, call: Call, record: TransactionRecord | None) -> None:
        begun = record if record is not None and record.branches else self.plan
        for branch in begun.branches if begun is not None else ():
            if branch.branch == call.branch:
                self._performer.call(branch.participant, _operation(self.gid, branch, call), self._heard)
                return
        raise KeyError(call.branch)

    def _arm(self, at: float) -> None:
        """Take a step at this time, if not before. A timer that rings too early may stay: its step arms the next."""
        if self._timer is None or at < self._rings_at:
            self._cancel(self._timer)
            self._rings_at = at
            self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._step()

    @staticmethod
    def _cancel(handle: asyncio.Handle | None) -> None:
        if handle is not None:
            handle.cancel()


def _operation(gid: str, branch: BranchRecord, call: Call) -> Operation:
    key = BranchKey(gid, branch.branch)
    if call.verb is Verb.PREPARE or call.one_phase:
        body = unpack_body(branch.body)
        return Operation(call.verb, key, branch.action, body, call.one_phase, works=branch.works)
    return Operation(call.verb, key)
