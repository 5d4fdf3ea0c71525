"""What a protocol asks for (effects) and what came of it (events). Pure data: nothing here does anything."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, TypeAlias

from coordinator.ledger.commands import Command, Decide
from coordinator.ledger.records import Notice
from participant.wire import Answer, Verb

__all__ = [
    "Call",
    "CallEnded",
    "Effect",
    "Event",
    "Haste",
    "ProposalEnded",
    "Propose",
    "Step",
    "Tell",
    "TellEnded",
    "Work",
]


class Haste(StrEnum):
    """How soon a command must be in the log. What can wait rides along with what cannot, in one forced write."""

    NOW = "now"  # a caller waits for it
    SOON = "soon"  # rows are locked until it is there, but nobody waits for an answer
    LATER = "later"  # nobody waits for anything


class Propose(NamedTuple):
    """Put a command into the log."""

    command: Command
    haste: Haste = Haste.NOW


class Work(NamedTuple):
    """What a branch is asked to do: an action, and the packed body for it."""

    action: str
    body: bytes


class Call(NamedTuple):
    """Ask one branch's participant. `one_phase` only with COMMIT.

    `branch` is its name at the participant: of a step, that of one attempt (`protocols.modes`). `work` is what a step
    is asked to do; without it, the work is what the record says.
    """

    branch: str
    verb: Verb
    one_phase: bool = False
    work: Work | None = None


class Tell(NamedTuple):
    """Send the application this notice, at the URL in the record."""

    notice: Notice


Effect: TypeAlias = Propose | Call | Tell


class CallEnded(NamedTuple):
    """A call came back: with an answer, or `None`, which is *unknown* (`error` says why, for people). `heard`: the
    participant said something, though not what it did."""

    branch: str
    verb: Verb
    answer: Answer | None
    error: str = ""
    heard: bool = False


class ProposalEnded(NamedTuple):
    """A proposal of this driver was applied, refused or lost; what is true now stands in the record."""

    command: Command


class TellEnded(NamedTuple):
    """A notice has been taken, or not: `error` says why, for people."""

    notice: Notice
    error: str = ""


Event: TypeAlias = CallEnded | ProposalEnded | TellEnded


class Step(NamedTuple):
    """What to do now, and when to ask again if nothing happens before (loop seconds; None: only on an event).

    `done`: nothing is owed to anybody any more, the driver may end. `contradiction` is not empty when what a
    participant says cannot be true together with the record; it is for the log and the operator, and the
    driver goes on: such a branch is never ended silently. `implied` is a decision that is true already, by the
    record and the votes alone, whoever leads next: callers may hear it before the log holds it.
    """

    effects: tuple[Effect, ...] = ()
    wake_at: float | None = None
    done: bool = False
    contradiction: str = ""
    implied: Decide | None = None
