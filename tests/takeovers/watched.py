"""Participants that tell which steps a coordinator takes with them, and strike in the one that they are told.

A step is what is asked of one branch: `prepare north/b1`. What strikes does so before the step, or when it is done and
durable, and nobody has heard of it yet.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from participant import Participant, Reject
from participant.ids import BranchKey
from participant.rm.memory import Memory, Transaction
from participant.termination import Leaning
from participant.three_phase_note import Note

__all__ = ["Blow", "Side", "Steps", "participant_of"]


class Side(StrEnum):
    """Where in a step."""

    BEFORE = "before"
    AFTER = "after"


class Blow(NamedTuple):
    """Where to strike."""

    gid: str
    step: str
    side: Side


class Steps:
    """`taken`: by gid, in their order, each once. `struck_at`: when `strike` was called, by the clock of the loop."""

    def __init__(self) -> None:
        self.taken: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.struck_at: float | None = None
        self._blow: Blow | None = None
        self._strike: Callable[[], None] = lambda: None

    def strike_once(self, blow: Blow, strike: Callable[[], None]) -> None:
        self._blow, self._strike, self.struck_at = blow, strike, None

    async def take(self, gid: str, step: str, do: Callable[[], Awaitable[Any]]) -> Any:
        self.taken[gid].setdefault(step)
        self._pass(Blow(gid, step, Side.BEFORE))
        done = await do()
        self._pass(Blow(gid, step, Side.AFTER))
        return done

    def _pass(self, point: Blow) -> None:
        if point == self._blow:
            self._blow, self.struck_at = None, asyncio.get_running_loop().time()
            self._strike()


class _Watched(Memory):
    """The memory store on a real journal."""

    is_in_order = False  # what strikes may come between what is asked for and its trial

    def __init__(self, name: str, where: Path, steps: Steps) -> None:
        super().__init__(where)
        self._name = name
        self._steps = steps

    def _take(self, verb: str, key: BranchKey, do: Callable[[], Awaitable[Any]]) -> Any:
        return self._steps.take(key.gid, f"{verb} {self._name}/{key.branch}", do)

    def prepare(self, key: BranchKey, *args: Any) -> Any:
        return self._take("prepare", key, lambda: Memory.prepare(self, key, *args))

    def commit(self, key: BranchKey) -> Any:
        return self._take("commit", key, lambda: Memory.commit(self, key))

    def commit_one_phase(self, key: BranchKey, *args: Any) -> Any:
        return self._take("run", key, lambda: Memory.commit_one_phase(self, key, *args))

    def abort(self, key: BranchKey) -> Any:
        return self._take("abort", key, lambda: Memory.abort(self, key))

    def swap_note(self, key: BranchKey, expected: bytes | None, note: bytes, *, is_finished: bool = False) -> Any:
        def swap() -> Any:
            return Memory.swap_note(self, key, expected, note, is_finished=is_finished)

        if Note.unpack(note).register.leaning is Leaning.PRECOMMITTED and not is_finished:
            return self._take("precommit", key, swap)
        return swap()


def participant_of(name: str, where: Path, steps: Steps, secret: bytes) -> Participant:
    """Its actions `do`, `confirm` and `undo` leave a line each in the row `body["tag"]`; `/v1/done?tag=` shows them."""
    participant = Participant(name, _Watched(name, where, steps), proof_secret=secret)

    def leaving(action: str) -> Callable[[Transaction, Any], Awaitable[str]]:
        async def leave(tx: Transaction, body: Any) -> str:
            if body.get("refuse"):
                raise Reject("not today")
            line = f"{action} {body['what']}"
            await tx.put(body["tag"], [*(await tx.get(body["tag"]) or []), line])
            return line

        return leave

    for action in ("do", "confirm", "undo"):
        participant.action(action)(leaving(action))

    @participant.view("/v1/done")
    async def done(tx: Transaction, query: Any) -> list[str]:
        return await tx.get(query["tag"]) or []

    return participant
