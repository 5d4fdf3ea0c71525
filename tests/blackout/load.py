"""Branches under way, and what their driver heard of each: the evidence that a power cut is judged by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from participant.ids import BranchKey
from participant.testing import Bench
from participant.wire import BranchState, Verb

__all__ = ["LANES", "OPENING", "Load", "Story", "accounts"]

LANES = 8
OPENING = 1_000_000  # in each account
PAUSE_S = 0.01  # at most, between the vote and the end of a branch

_UNKNOWN, _PREPARED = BranchState.UNKNOWN, BranchState.PREPARED
_COMMITTED, _ABORTED = BranchState.COMMITTED, BranchState.ABORTED


@dataclass(frozen=True, slots=True)
class _Plot:
    """What a branch is asked for, one after the other, and its states from the first on."""

    verbs: tuple[Verb, ...]
    path: tuple[BranchState, ...]


_PLOTS = (
    _Plot((Verb.PREPARE, Verb.COMMIT), (_UNKNOWN, _PREPARED, _COMMITTED)),
    _Plot((Verb.PREPARE, Verb.ABORT), (_UNKNOWN, _PREPARED, _ABORTED)),
    _Plot((Verb.COMMIT,), (_UNKNOWN, _COMMITTED)),
)


@dataclass(slots=True)
class Story:
    """One branch: when each of its requests has left, and when it was answered (`time.monotonic`)."""

    key: BranchKey
    body: Mapping[str, Any]
    plot: _Plot
    asked_at: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)

    def may_be(self, at: float) -> tuple[BranchState, ...]:
        """The states that it may have had then: at least what was answered before, at most what had been asked for."""
        answered = sum(then < at for then in self.answered_at)
        asked = sum(then < at for then in self.asked_at)
        return self.plot.path[answered : asked + 1]


def accounts() -> list[str]:
    """Two for each lane, so that no lane waits for another one's rows."""
    return [f"{side}-{lane}" for lane in range(LANES) for side in ("from", "to")]


class Load:
    """Moves money until it is cancelled. `stories` grows; whoever clears `gate` lets no new one begin."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.stories: list[Story] = []
        self.gate = asyncio.Event()
        self._bench = bench
        self._seed = seed

    async def open_accounts(self) -> None:
        for account in accounts():
            form = {"action": "put", "body": {"key": account, "value": OPENING}, "one_phase": True}
            said = await self._bench.ask(BranchKey(f"open-{account}", "b"), Verb.COMMIT, form)
            assert said.state is _COMMITTED, said.said()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as lanes:
            for lane in range(LANES):
                lanes.create_task(self._lane(lane, Random(f"{self._seed}-{lane}")))

    async def _lane(self, lane: int, chance: Random) -> None:
        number = 0
        while True:
            await self.gate.wait()
            number += 1
            name = f"move-{lane}-{number}"
            body = {"from": f"from-{lane}", "to": f"to-{lane}", "amount": chance.randint(1, 9), "name": name}
            story = Story(BranchKey(name, "b"), body, chance.choice(_PLOTS))
            self.stories.append(story)
            for verb in story.plot.verbs:
                form = None
                if verb is story.plot.verbs[0]:
                    form = {"action": "move", "body": body} | ({"one_phase": True} if verb is Verb.COMMIT else {})
                story.asked_at.append(time.monotonic())
                said = await self._bench.ask(story.key, verb, form)
                assert said.state is story.plot.path[len(story.asked_at)], said.said()
                story.answered_at.append(time.monotonic())
                await asyncio.sleep(chance.uniform(0, PAUSE_S))
