"""`python -m tests.blackout --cuts 50 --seed 7`: the power cuts by hand. Exit status 1 if anything was lost."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from random import SystemRandom

from tests.blackout.places import KINDS, MORE_KINDS, room
from tests.blackout.run import COLUMNS, Tally, black_out
from tests.support.virtual_disk import missing

__all__: list[str] = []

CUTS = 50
FINDINGS_MAX = 20  # printed; the first ones say enough


def main() -> int:
    """Cut, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.blackout", description="power cuts under load")
    parser.add_argument("--cuts", type=int, default=CUTS, help="of each kind")
    parser.add_argument("--seed", type=int, default=SystemRandom().randint(0, 2**32 - 1))
    parser.add_argument("--kind", choices=(*KINDS, *MORE_KINDS), action="append", help="all, if none is named")
    options = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    logging.getLogger("asyncmy").setLevel(logging.ERROR)  # that a table exists already is no news
    print(f"--cuts {options.cuts} --seed {options.seed}\n", flush=True)
    print(_line("", *COLUMNS), _line("---", *(["---:"] * len(COLUMNS))), sep="\n", flush=True)
    tallies = [_run(kind, options.cuts, options.seed) for kind in options.kind or (*KINDS, *MORE_KINDS)]
    for tally in tallies:
        for finding in tally.findings[:FINDINGS_MAX]:
            print(f"{tally.kind}: {finding}")
    return int(any(tally.findings for tally in tallies))


def _run(kind: str, cuts: int, seed: int) -> Tally:
    with room() as folder:
        tally = asyncio.run(black_out(kind, cuts, seed, folder))
    print(_line(kind, *tally.row()), flush=True)
    return tally


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
