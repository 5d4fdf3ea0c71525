"""`python -m tests.chaos --kills 500 --seed 7`: the siege by hand. Exit status 1 if the books are wrong."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

from coordinator.wire import Outcome
from tests.chaos.siege import besiege

__all__: list[str] = []

KILLS = 500
FINDINGS_MAX = 100  # printed; the first ones say enough


def main() -> int:
    """Besiege, and say how it ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="kill -9 under load, then an audit")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=SystemRandom().randint(0, 2**32 - 1))
    options = parser.parse_args()
    print(f"--kills {options.kills} --seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="commitd-chaos-"))
    outcomes = asyncio.run(besiege(options.kills, options.seed, directory, lambda line: print(line, flush=True)))
    print("kills: " + ", ".join(f"{name} {times}" for name, times in sorted(outcomes.kills.items())))
    print("transfers: " + ", ".join(f"{outcomes.count(outcome)} {outcome.value}" for outcome in Outcome))
    for finding in outcomes.verdict.findings[:FINDINGS_MAX]:
        print(finding)
    if not outcomes.ok:
        print(f"NOT OK; what the processes said and stored is kept in {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
