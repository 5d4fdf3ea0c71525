"""Run worlds from the command line.

    python -m tests.simulation --world raft --seed 7 --hours 2       one run, and how it went
    python -m tests.simulation --soak 600                            new seeds of every world for so many real seconds

A seed that fails is printed with how to see it again; while soaking it is also added to `seeds.txt`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle

from tests.simulation.checkers.findings import Violation
from tests.simulation.raft_world import RaftWorld
from tests.simulation.seeds import remember
from tests.simulation.settings import coded, pressed, stepwise, three_phased
from tests.simulation.system_world import SystemWorld
from tests.simulation.world import World

_WORLDS: dict[str, Callable[[int], World]] = {
    "raft": RaftWorld,
    "system": SystemWorld,
    "pressed": partial(SystemWorld, harder=pressed),
    "steps": partial(SystemWorld, harder=stepwise),
    "workflows": partial(SystemWorld, harder=coded),
    "three": partial(SystemWorld, harder=three_phased),
}
_EVENTS_SHOWN = 30


def _run(name: str, seed: int, hours: float, *, verbose: bool) -> Violation | None:
    """One run; prints what it was and, if it failed, how to see it again."""
    world = _WORLDS[name](seed)
    if verbose:
        world.trace.echo(print)
    started = time.process_time()
    try:
        digest = world.run(hours)
    except Violation as violation:
        print(*world.trace.last()[-_EVENTS_SHOWN:], "", sep="\n")
        print(f"{name} seed {seed}: {violation}")
        print(f"again: python -m tests.simulation --world {name} --seed {seed} --hours {hours:g} --verbose")
        return violation
    spent, virtual = time.process_time() - started, world.loop.time() / 3_600
    print(f"{name} seed {seed} trace {digest} {virtual:.2f} virtual hours in {spent:.1f} s of CPU: {world.summary()}")
    return None


def _soak(worlds: list[str], hours: float, seconds: float) -> int:
    """New seeds until the time is over or one fails."""
    until = time.monotonic() + seconds
    for name in cycle(worlds):
        seed = secrets.randbits(32)
        violation = _run(name, seed, hours, verbose=False)
        if violation is not None:
            remember(name, seed, hours, str(violation).partition("\n")[0])
            return 1
        if time.monotonic() >= until:
            break
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate, from a seed.")
    parser.add_argument("--world", choices=sorted(_WORLDS), help="default: raft for one run, all of them for a soak")
    parser.add_argument("--seed", type=int, help="which run (default: a new one)")
    parser.add_argument("--hours", type=float, default=1.0, help="virtual hours a run")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="run new seeds for so many real seconds")
    parser.add_argument("--verbose", action="store_true", help="print every event")
    options = parser.parse_args()
    if options.soak is not None:
        return _soak([options.world] if options.world else sorted(_WORLDS), options.hours, options.soak)
    seed = options.seed if options.seed is not None else secrets.randbits(32)
    return 1 if _run(options.world or "raft", seed, options.hours, verbose=options.verbose) else 0


if __name__ == "__main__":
    sys.exit(main())
