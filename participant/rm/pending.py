"""What an `Engine` knows of a branch that is not durable: its open work, and a request that waits for rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from participant.rm.requests import BranchRequest, Ticket
from participant.rm.store import NOTHING, Effects

__all__ = ["Open", "Parked"]


@dataclass(slots=True)
class Open:
    """An interactive branch: nothing of it is durable. `numbers`: see `OpenBranch`."""

    deadline: float
    effects: Effects = NOTHING
    works: int = 0
    numbers: int = 0
    last_digest: bytes = b""
    last_result: Any = None


@dataclass(slots=True)
class Parked:
    """A request without an answer yet."""

    request: BranchRequest
    since: float
    tickets: list[Ticket] = field(default_factory=list)
