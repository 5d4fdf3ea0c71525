"""A participant for tests of steps: its table is the real one, its actions only write down that they have taken effect.

Method: `done` lists what has, in order, by branch and action; `refuses` names actions that are refused, `held` those
that wait for `release`. The result of an action says which attempt it was.
"""

from __future__ import annotations

import asyncio
from typing import Any

from participant.branch import Ask, Branch, Verdict, judge
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb

__all__ = ["Desk"]

_ASKS = {Verb.PREPARE: Ask.PREPARE, Verb.ABORT: Ask.ABORT, Verb.PREVENT: Ask.PREVENT, Verb.OUTCOME: Ask.OUTCOME}


class Desk:
    """The `LocalParticipant` port. `calls`: how often it was called, whatever for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done: list[str] = []
        self.bodies: dict[str, Any] = {}
        self.refuses: set[str] = set()
        self.calls = 0
        self._rows: dict[BranchKey, Branch] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._arrived: dict[str, asyncio.Event] = {}

    def hold(self, action: str) -> None:
        """Let calls of this action arrive, and wait."""
        self._held[action] = asyncio.Event()
        self._arrived[action] = asyncio.Event()

    async def arrived(self, action: str) -> None:
        """Wait until a held call of this action is here."""
        await self._arrived[action].wait()

    def release(self, action: str) -> None:
        """Let them go on."""
        self._held.pop(action).set()

    def capabilities(self) -> Capabilities:
        return Capabilities(self.name, one_phase=True, prevent=True)

    async def perform(self, operation: Operation) -> Answer:
        self.calls += 1
        action = operation.action or ""
        if action in self._held:
            self._arrived[action].set()
            await self._held[action].wait()
        return self._judged(operation, action)

    def _judged(self, operation: Operation, action: str) -> Answer:
        key = operation.key
        row = self._rows.get(key) or Branch(key)
        ask = _ASKS.get(operation.verb, Ask.COMMIT_ONE_PHASE if operation.one_phase else Ask.COMMIT)
        rule = judge(row.state, ask)
        if rule.verdict not in (Verdict.RUN, Verdict.EMPTY):
            assert rule.verdict is not Verdict.CONTRADICTION, f"{ask} of {key}, which is {row.state}"
            return row.answer(rule.why)
        state, reason, result = rule.next[0], "", None
        if ask in (Ask.PREPARE, Ask.COMMIT_ONE_PHASE):
            if action in self.refuses:
                state, reason = BranchState.ABORTED, f"no {action} today"
            else:
                result = f"{action} by {key.branch}"
                self.done.append(f"{key.branch} {action}")
                self.bodies[key.branch] = operation.body
        self._rows[key] = row.move(ask, state, at_ms=0, reason=reason).giving(result)
        return self._rows[key].answer()
