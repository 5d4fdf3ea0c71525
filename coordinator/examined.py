"""What an examination answers: what each participant of one transaction holds of it. Messages, as those of `wire`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from coordinator.ledger.records import Decision, Phase
from coordinator.wire import BranchView
from participant.wire import BranchState

__all__ = ["ExaminationView", "HeldView"]


class HeldView(BranchView):
    """A branch, and what its participant says of it just now."""

    state: BranchState | None = Field(strict=False, description="What the participant holds; null if it said nothing.")
    reason: str | None = Field(description="The participant's, with its state.")
    error: str | None = Field(description="Why the participant said nothing.")
    damage: str | None = Field(description="What cannot be true together with the decision: a person must mend it.")


class ExaminationView(BaseModel):
    """The branches as they are held. It says no outcome: that may be known before it is recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    gid: str
    phase: Phase = Field(strict=False)
    decision: Decision | None = Field(strict=False, description="The recorded one.")
    branches: list[HeldView]
