"""Which worker runs the code of which workflow, as far as one leader knows. Pure: time is an argument.

A claim is no promise: it keeps two workers from doing the same for nothing. If two run the same workflow all the same,
because the leader has changed or one was taken for dead, each step is recorded once, and answered to both.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

__all__ = ["LEASE_S", "REST_S", "Claims"]

LEASE_S = 5.0  # a worker that has said nothing for so long is taken for dead
REST_S = 5.0  # until a workflow whose code has diverged is offered again: to another worker's code, perhaps

_ANYBODY = ""


class _Claim(NamedTuple):
    worker: str
    until: float


class Claims:
    """By gid. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}

    def take(self, gid: str, worker: str, now: float) -> bool:
        """Whether the workflow is this worker's from now on, for LEASE_S: nobody else has it."""
        claim = self._claims.get(gid)
        if claim is not None and claim.until > now and claim.worker not in (worker, _ANYBODY):
            return False
        self._claims[gid] = _Claim(worker, now + LEASE_S)
        return True

    def is_free(self, gid: str, now: float) -> bool:
        """Whether it may be offered."""
        claim = self._claims.get(gid)
        return claim is None or claim.until <= now

    def worker_of(self, gid: str, now: float) -> str | None:
        """Who runs it."""
        claim = self._claims.get(gid)
        return claim.worker or None if claim is not None and claim.until > now else None

    def rest(self, gid: str, until: float) -> None:
        """It is not offered for a while; who runs it by then, may go on."""
        self._claims[gid] = _Claim(_ANYBODY, until)

    def keep_only(self, worker: str, running: Container[str]) -> bool:
        """The worker runs these, and no others. Whether it has let any go."""
        gone = [gid for gid, claim in self._claims.items() if claim.worker == worker and gid not in running]
        for gid in gone:
            del self._claims[gid]
        return bool(gone)

    def drop(self, gid: str) -> None:
        """Nobody needs to run it any more."""
        self._claims.pop(gid, None)

    def clear(self) -> None:
        """Nothing is known."""
        self._claims.clear()

    def next_end(self, now: float) -> float | None:
        """When the first of the claims will have ended, if there are any."""
        return min((claim.until for claim in self._claims.values() if claim.until > now), default=None)
