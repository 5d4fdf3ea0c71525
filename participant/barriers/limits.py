"""What bounds a barrier, and what it tells the log."""

from __future__ import annotations

from dataclasses import dataclass

from structlog import get_logger

from participant.barrier import Contradiction, Outcome, Step
from participant.errors import ConfigError

__all__ = ["ATTEMPTS_MAX", "FORGET_ROWS_MAX", "BarrierLimits", "told"]

ATTEMPTS_MAX = 10  # of a step whose row others change meanwhile, before its function runs
FORGET_ROWS_MAX = 5_000  # in one call of `forget`

_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BarrierLimits:
    """`lock_wait_s`: how long a step waits for another one of the same branch before it is told to come again.
    `retention_s`: how long a branch is remembered after its last step; no message and no saga may outlive that. What
    was tried is remembered until it is confirmed or cancelled, however long.
    """

    lock_wait_s: float = 3.0
    retention_s: float = 604_800.0

    def __post_init__(self) -> None:
        for name in ("lock_wait_s", "retention_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: must be more than 0 seconds, not {getattr(self, name)!r}")

    @property
    def lock_wait_ms(self) -> int:
        return max(1, round(self.lock_wait_s * 1_000))

    @property
    def retention_ms(self) -> int:
        return max(1, round(self.retention_s * 1_000))


def told(outcome: Outcome, step: Step) -> Outcome:
    """The outcome. A contradiction goes to the log, too."""
    if isinstance(outcome, Contradiction):
        _LOG.error("barrier.contradiction", gid=step.key.gid, branch=step.key.branch, step=step.kind, why=outcome.why)
    return outcome
