"""Power cuts under load: a participant, its database server and their disk, cut off at a random moment.

Method: the database lies on a virtual disk (`tests.support.virtual_disk`); a participant, in a process of its own,
works on it, and a driver (`load.py`) notes every answer that it gets. At a moment drawn from the seed the disk is asked
what a power cut would leave. The database is started on that, and everything that was answered before must be there:
yes, commit and abort; nothing may be there in part, the money must add up, and what is in doubt must end both ways.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeAlias

from participant.ids import BranchKey
from participant.resource import ResourceLimits
from participant.testing.servers import ServerFailed
from participant.testing.subject import Bench
from participant.wire import BranchState
from tests.blackout.load import OPENING, Load, Story, accounts
from tests.blackout.places import programs_of, served
from tests.support.foreign import numbers
from tests.support.subjects import SUBJECTS
from tests.support.virtual_disk import DROP_SYNCS, Cut, VirtualDisk, mounted

__all__ = ["COLUMNS", "Tally", "black_out"]

MOMENT_S = (0.05, 0.4)  # of load before a cut
KEEP = (0.0, 0.5, 0.9)  # the chance of a block in the cache
WRITES_MAX = 30  # of the disk, after that moment
OLDER_MAX = 20  # branches of before the last cut that are looked at again
_TOTAL = OPENING * len(accounts())

COLUMNS = ("cuts", "branches", "prepared", "committed", "aborted", "unknown", "unflushed", "survived", "lost")


_Serve: TypeAlias = Callable[[Path], AbstractAsyncContextManager[str]]


@dataclass(slots=True)
class Tally:
    """What the cuts of one kind have found. `states`: of all branches that were looked at, in doubt or ended.

    `findings`: what contradicts an answer. `blocks`: of the cache, at all cuts.
    """

    kind: str
    cuts: int = 0
    branches: int = 0
    states: Counter[BranchState] = field(default_factory=Counter)
    unflushed: int = 0
    survived: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, cut: Cut) -> None:
        self.cuts += 1
        self.unflushed += cut.unflushed
        self.survived += cut.survived

    def row(self) -> tuple[int, ...]:
        """In the order of `COLUMNS`."""
        states = [self.states[state] for state in _STATES]
        return (self.cuts, self.branches, *states, self.unflushed, self.survived, len(self.findings))


_STATES = (BranchState.PREPARED, BranchState.COMMITTED, BranchState.ABORTED, BranchState.UNKNOWN)


async def black_out(kind: str, cuts: int, seed: int, folder: Path, *, drops_syncs: bool = False) -> Tally:
    """Cut so many times. `folder` must be passable for the servers' users. `drops_syncs`: where nothing is forced to
    the disk, behind everybody's back; then there have to be findings.
    """
    chance, tally = Random(seed), Tally(kind)
    async with AsyncExitStack() as stack:
        disk = await stack.enter_async_context(VirtualDisk.plugged(folder))
        serve = partial(served, kind, programs=stack.enter_context(programs_of(kind)))
        place = await stack.enter_async_context(serve(disk.place, is_new=True, drops_syncs=drops_syncs))
        target = await numbers(kind, place)
        if drops_syncs:
            target = replace(target, start=(*DROP_SYNCS, *target.start))
        bench = await stack.enter_async_context(target.open())
        load = Load(bench, seed)
        await load.open_accounts()
        disk.settle()
        running = asyncio.ensure_future(load.run())
        try:
            for number in range(cuts):
                await _cut(disk, load, tally, chance, folder / f"cut-{number}", serve)
                bench.talk.exchanges.clear()
                if running.done():  # with an error
                    break
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    return tally


async def _cut(disk: VirtualDisk, load: Load, tally: Tally, chance: Random, image: Path, serve: _Serve) -> None:
    """One power cut in the middle of the load, and what is left after it."""
    begin = len(load.stories)
    load.gate.set()
    await asyncio.sleep(chance.uniform(*MOMENT_S))
    cut = await disk.cut(image, chance.getrandbits(32), chance.choice(KEEP), chance.randint(1, WRITES_MAX))
    allowed = [(story, story.may_be(cut.at)) for story in load.stories]
    load.gate.clear()  # the machine is for the check now
    tally.add(cut)
    older = chance.sample(allowed[:begin], min(begin, OLDER_MAX))
    with mounted(image, image.with_name("copy"), is_kept=False) as copy:
        try:
            async with serve(copy) as place:
                await _judge(place, [*older, *allowed[begin:]], tally, chance)
        except ServerFailed as failed:
            tally.findings.append(f"the server does not start: {failed}")


async def _judge(
    place: str, allowed: Sequence[tuple[Story, tuple[BranchState, ...]]], tally: Tally, chance: Random
) -> None:
    """See what is left, and end what is in doubt."""
    found: dict[BranchKey, BranchState] = {}
    async with SUBJECTS[tally.kind](place).open(ResourceLimits()) as bench:
        for story, states in allowed:
            state = (await bench.manager.outcome(story.key)).state
            found[story.key] = state
            tally.branches += 1
            tally.states[state] += 1
            if state not in states:
                tally.findings.append(f"{story.key} is {state}, where {' or '.join(states)} was answered or asked for")
            is_there = await bench.value(story.key.gid) is not None
            if is_there is not (state is BranchState.COMMITTED):
                tally.findings.append(f"{story.key} is {state}, and its row is {'' if is_there else 'not '}there")
        tally.findings += await _count(bench)
        in_doubt = await bench.manager.in_doubt()
        listed = {key for key, state in found.items() if state is BranchState.PREPARED}
        if not listed <= set(in_doubt):
            tally.findings.append(f"in doubt, and not listed: {listed - set(in_doubt)}")
        for key in in_doubt:
            end, ended = chance.choice(
                ((bench.manager.commit, BranchState.COMMITTED), (bench.manager.abort, BranchState.ABORTED))
            )
            state = (await end(key)).state
            if state is not ended or (await bench.value(key.gid) is not None) is not (ended is BranchState.COMMITTED):
                tally.findings.append(f"{key} is {state}, and was to be {ended}")
        tally.findings += await _count(bench)
        if await bench.manager.in_doubt():
            tally.findings.append("a branch stays in doubt")
        await bench.set("after", 1)  # it goes on


async def _count(bench: Bench) -> list[str]:
    total = sum([await bench.value(account) or 0 for account in accounts()])
    return [] if total == _TOTAL else [f"the money is {total}, and was {_TOTAL}"]
