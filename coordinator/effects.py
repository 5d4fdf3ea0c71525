"""What a protocol asks for (effects) and what came of it (events). Pure data: nothing here does anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from coordinator.ledger.commands import Command
from participant.wire import Answer, Verb

__all__ = ["Call", "CallEnded", "Effect", "Event", "ProposalEnded", "Propose", "Step"]


@dataclass(frozen=True, slots=True)
class Propose:
    """Put a command into the log. `urgent`: somebody waits for it; otherwise it rides along with a later entry."""

    command: Command
    urgent: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """Ask one branch's participant. `one_phase` only with COMMIT."""

    branch: str
    verb: Verb
    one_phase: bool = False


Effect: TypeAlias = Propose | Call


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call came back: with an answer, or `None`, which is *unknown* (`error` says why, for people)."""

    branch: str
    verb: Verb
    answer: Answer | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ProposalEnded:
    """A proposal of this driver was applied, refused or lost; what is true now stands in the record."""

    command: Command


Event: TypeAlias = CallEnded | ProposalEnded


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now, and when to ask again if nothing happens before (loop seconds; None: only on an event).

    `done`: nothing is owed to anybody any more, the driver may end. `contradiction` is not empty when what a
    participant says cannot be true together with the record; it is for the log and the operator, and the
    driver goes on: such a branch is never ended silently.
    """

    effects: tuple[Effect, ...] = ()
    wake_at: float | None = None
    done: bool = False
    contradiction: str = ""
