"""The moments of a transaction at which a fault can strike."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Moment"]


class Moment(StrEnum):
    """In the order in which they come. A *vote* is what a participant answers before the decision is recorded, whatever
    its protocol calls it; it is *told* what the decision asks of it. Both are durable there then, and not said yet."""

    ASKED = "asked"  # the client is about to ask
    FIRST_VOTE = "first vote"
    LAST_VOTE = "last vote"
    PRECOMMITTED = "precommitted"  # a replica has recorded that all may commit, and told nobody; in three phases only
    DECIDED = "decided"  # a replica has recorded the decision, and told nobody
    FIRST_TOLD = "first told"
    LAST_TOLD = "last told"
