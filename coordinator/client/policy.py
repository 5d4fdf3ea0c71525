"""What the client does about an answer, or the lack of one. Pure: time and chance are arguments.

The rule behind it: a request that may have reached a replica is *ambiguous* from then on. Whatever comes later,
only *committed* or *aborted* ends it; a refusal or a timeout does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from coordinator.errors import NoLeader, Overloaded, RequestError, Undetermined, Unreachable, WrongShard

__all__ = ["Next", "Pauses", "next_after", "pause_s"]


@dataclass(frozen=True, slots=True)
class Pauses:
    """Back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): each
    pause is drawn from nothing to a window that doubles from `base_s` up to `cap_s`."""

    base_s: float = 0.05
    cap_s: float = 1.0


class Next(StrEnum):
    """What follows from an answer."""

    TAKE = "take"  # it is the answer
    RAISE = "raise"  # it is a refusal that another attempt would meet again
    AGAIN = "again"  # come again; this attempt began nothing
    AGAIN_AMBIGUOUS = "again-ambiguous"  # come again; this attempt may have begun something


def next_after(status: int, error: RequestError | None) -> Next:
    """What to do about a response; `error` is its problem document, None if it carries none."""
    if status in (200, 202):
        return Next.TAKE
    if isinstance(error, NoLeader | Overloaded | Unreachable | WrongShard):
        return Next.AGAIN
    if isinstance(error, Undetermined) or status >= 500 or error is None:
        return Next.AGAIN_AMBIGUOUS
    return Next.RAISE


def pause_s(pauses: Pauses, attempt: int, draw: float, error: RequestError | None = None) -> float:
    """The pause after the `attempt`-th attempt (from 1), for a random `draw`, 0 <= draw < 1.

    An overloaded replica says how long to stay away. One without a leader does too, but elections are quicker.
    """
    window_s = min(pauses.cap_s, pauses.base_s * 2.0 ** min(attempt - 1, 32))
    asked_s = error.retry_after_s if isinstance(error, Overloaded) else None
    return draw * window_s + (asked_s or 0.0)
