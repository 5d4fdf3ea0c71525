"""A participant for tests: faithful to the contract, in memory, and as unhelpful as a test wants it to be.

Method: states as in `participant.wire`; every operation may be repeated. `hold` makes calls of a verb wait for
`release`, `away` makes every call fail as unknown, `refuse` makes the next prepare of a branch vote no.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from coordinator.ports import CallFailed
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb

__all__ = ["Clerk"]

_FINAL = frozenset((BranchState.COMMITTED, BranchState.ABORTED, BranchState.READ_ONLY))


class Clerk:
    """One participant. `asked` counts the calls by verb, `traces` holds the traces that they named, `states` what it
    knows of each branch.

    `one_phase` and `prevent` are what it says that it can; without `prevent`, its transactions take the classic path.
    """

    def __init__(self, name: str, *, one_phase: bool = False, prevent: bool = True) -> None:
        self.name = name
        self.one_phase = one_phase
        self.prevent = prevent
        self.states: dict[BranchKey, BranchState] = {}
        self.bodies: dict[BranchKey, tuple[str | None, object]] = {}
        self.works: dict[BranchKey, int | None] = {}
        self.asked: Counter[Verb] = Counter()
        self.traces: list[tuple[Verb, str]] = []
        self.away = False
        self._refusing = ""
        self._refusals_left = 0
        self._gates: dict[Verb, asyncio.Event] = {}
        self._arrived: dict[Verb, asyncio.Event] = {verb: asyncio.Event() for verb in Verb}

    def refuse(self, reason: str, *, times: int = 1_000_000) -> None:
        """Vote no from now on, so many times."""
        self._refusing = reason
        self._refusals_left = times

    def hold(self, verb: Verb) -> None:
        """Let calls of `verb` arrive, and wait."""
        self._gates[verb] = asyncio.Event()
        self._arrived[verb] = asyncio.Event()

    def release(self, verb: Verb) -> None:
        """Let the held calls of `verb` go on."""
        self._gates.pop(verb).set()

    async def arrived(self, verb: Verb) -> None:
        """Wait until a call of `verb` is here, or has been since the last `hold`."""
        await self._arrived[verb].wait()

    async def next_call(self, verb: Verb) -> None:
        """Wait until one more call of `verb` is here."""
        self._arrived[verb] = asyncio.Event()
        await self._arrived[verb].wait()

    def capabilities(self) -> Capabilities:
        return Capabilities(self.name, one_phase=self.one_phase, prevent=self.prevent)

    async def perform(self, operation: Operation) -> Answer:
        """The `LocalParticipant` port."""
        if self.away:
            raise CallFailed(f"{self.name} is away")
        self.asked[operation.verb] += 1
        self.traces.append((operation.verb, operation.trace))
        self._arrived[operation.verb].set()
        if operation.verb in self._gates:
            await self._gates[operation.verb].wait()
        return self._answer(operation)

    def _answer(self, operation: Operation) -> Answer:
        key = operation.key
        state = self.states.get(key, BranchState.UNKNOWN)
        match operation.verb:
            case Verb.PREPARE | Verb.COMMIT if state is BranchState.UNKNOWN and (
                operation.verb is Verb.PREPARE or operation.one_phase
            ):
                self.bodies[key] = (operation.action, operation.body)
                self.works[key] = operation.works
                if self._refusals_left:
                    self._refusals_left -= 1
                    self.states[key] = BranchState.ABORTED
                    return Answer(BranchState.ABORTED, self._refusing)
                yes = BranchState.COMMITTED if operation.one_phase else BranchState.PREPARED
                self.states[key] = yes
            case Verb.COMMIT if state is BranchState.PREPARED and not operation.one_phase:
                self.states[key] = BranchState.COMMITTED
            case Verb.ABORT if state not in _FINAL:
                self.states[key] = BranchState.ABORTED
            case Verb.PREVENT if state is BranchState.UNKNOWN:
                self.states[key] = BranchState.ABORTED
        return Answer(self.states.get(key, BranchState.UNKNOWN))
