"""What a caller says and hears: branches, and how a transaction ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from coordinator.wire_base import CommitProtocol
from participant.wire import CONFLICT

__all__ = ["Aborted", "Branch", "Committed", "Deciding", "Ended", "Named"]


class Named(TypedDict, total=False):
    """What more is asked for, and how the application knows a transaction again. `protocol`: in how many phases it is
    committed, if it has no steps. `key`: its own name for what it does, such as an order's number;
    `Client.by_key` finds all that have it. `notify`: the URL at which it wants to be told of the decision and of the
    end (`coordinator.client.verify`)."""

    key: str | None
    notify: str | None
    protocol: CommitProtocol


@dataclass(frozen=True, slots=True)
class Branch:
    """What one participant is to do. Without an action it did its work before, under this gid and this name.

    `works` is then how many work requests it has answered, so that it votes no if it lost any of them. `step` is the
    wire form of how it takes part in a transaction of steps; `coordinator.client.declaration` writes it.
    """

    participant: str
    action: str | None = None
    body: Any = None
    name: str | None = None
    works: int | None = None
    step: Mapping[str, Any] | None = None

    def to_map(self) -> dict[str, Any]:
        """The wire form (`wire.BranchRequest`)."""
        form = {
            "branch": self.name,
            "participant": self.participant,
            "action": self.action,
            "body": self.body,
            "works": self.works,
            "step": self.step,
        }
        return {key: value for key, value in form.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Committed:
    """Every branch is committed, or will be as soon as its participant can be reached."""

    gid: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """No branch is committed, and none ever will be; of steps, what had committed is undone, or will be. `branch` names
    the one that refused, if one did."""

    gid: str
    reason: str
    branch: str | None

    @property
    def is_conflict(self) -> bool:
        """Whether only other transactions were in the way, so that a new one with the same branches may commit."""
        return self.reason.startswith(CONFLICT)


@dataclass(frozen=True, slots=True)
class Deciding:
    """Not decided yet. `handle` is the path to ask at, at any replica."""

    gid: str
    handle: str


Ended: TypeAlias = Committed | Aborted
