"""`commitd serve` that is in no hurry to tell a participant its decision again, until SIGUSR1 makes it as ever.

    python -m benchmarks.patient serve --config cluster.toml --node n1

Only so can a benchmark leave a hundred thousand transactions in doubt at a participant that answers "come again":
otherwise it would be asked ten thousand times a second while they are being opened.
"""

from __future__ import annotations

import signal

from coordinator.cli.main import main
from coordinator.protocols import two_phase
from coordinator.protocols.retry import Backoff

__all__ = ["HURRY", "PATIENCE_S"]

HURRY = signal.SIGUSR1
PATIENCE_S = 600.0

_PRODUCTION = two_phase.BACKOFF_DECIDED


def _hurry(*_: object) -> None:
    two_phase.BACKOFF_DECIDED = _PRODUCTION


def _serve() -> None:
    signal.signal(HURRY, _hurry)
    two_phase.BACKOFF_DECIDED = Backoff(PATIENCE_S, PATIENCE_S)
    main()


if __name__ == "__main__":
    _serve()
