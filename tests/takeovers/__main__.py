"""`python -m tests.takeovers`: the leader is killed at every step of every protocol. Exit status 1 if a transaction
ended otherwise than without a kill, or too late."""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
from pathlib import Path

import structlog

from tests.takeovers.plays import PLAYS
from tests.takeovers.stage import LATE_S, Takeover, staged

__all__: list[str] = []

_ROW = "{:<21} {:>5} {:>5}  {:>5.2f} {:>5.2f}  {:>5.2f} {:>5.2f}"
_HEAD = "{:<21} {:>5} {:>5}  {:>11}  {:>11}".format("protocol", "kills", "wrong", "told: p50, max", "ended: p50, max")


def main() -> int:
    """Print a row for each protocol: seconds from the kill until the client was told, and until nothing was owed."""
    parser = argparse.ArgumentParser(prog="python -m tests.takeovers", description=__doc__.partition(".")[0])
    parser.add_argument("--play", action="append", choices=PLAYS, help="only this protocol; may be repeated")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="commitd-takeovers-") as directory:
        return asyncio.run(_run(options.play or list(PLAYS), Path(directory)))


async def _run(plays: list[str], directory: Path) -> int:
    bad: list[str] = []
    print(_HEAD, flush=True)
    async with staged(directory) as stage:
        for play in plays:
            takeovers = [takeover async for takeover in stage.takeovers(play)]
            print(_row(play, takeovers), flush=True)
            bad += filter(None, map(_complaint, takeovers))
    print("\n".join(bad) or f"ok: all ended as without a kill, within {LATE_S:g} s of it")
    return 1 if bad else 0


def _row(play: str, takeovers: list[Takeover]) -> str:
    known = [takeover.known_s for takeover in takeovers]
    ended = [takeover.ended_s for takeover in takeovers]
    wrong = sum(1 for takeover in takeovers if takeover.wrong)
    middle = statistics.median
    return _ROW.format(play, len(takeovers), wrong, middle(known), max(known), middle(ended), max(ended))


def _complaint(takeover: Takeover) -> str:
    where = f"{takeover.play}, {takeover.side} {takeover.step}"
    if takeover.wrong:
        return f"{where}: {takeover.wrong}"
    return f"{where}: ended {takeover.ended_s:.2f} s after the kill" if takeover.ended_s > LATE_S else ""


if __name__ == "__main__":
    sys.exit(main())
