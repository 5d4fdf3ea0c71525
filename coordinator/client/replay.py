"""Whether the code of a workflow does the same again: a test's help, without a cluster.

async def answer(step):
    if step.action == "reserve":
        raise Reject("no room is left")
    return "1A"

ran = await replayed(trip, {"who": "alice", "night": "2027-05-01"}, answer)
assert [step.action for step in ran.steps] == ["book", "reserve", "reserve", "send"]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from coordinator.client.outcomes import Branch
from coordinator.client.workflow import Tx, Workflow
from coordinator.errors import NotDeterministic
from coordinator.ledger.workflows import StepState
from coordinator.wire_workflows import StepAnswer
from participant.errors import Reject

__all__ = ["Replayed", "replayed"]

BEGUN_AT_MS = 1_700_000_000_000
STEP_MS = 1_000  # between two steps


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the code has asked for, in order, and what it has returned; or what it has raised."""

    steps: tuple[Branch, ...]
    result: Any = None
    raised: Exception | None = None


async def replayed(
    workflow: Workflow, given: Any, answer: Callable[[Branch], Awaitable[Any]], *, gid: str = "replayed"
) -> Replayed:
    """Run the code, then run it anew as another worker would, once for each step after which the first may have died:
    up to there it is told what was recorded, and `answer` tells the rest. `answer` gives the result of a step, or
    raises Reject, and says the same of the same. Nothing is slept.

    Raises: NotDeterministic, if a run asks for something else than the first, or ends otherwise.
    """
    history: list[tuple[Branch, StepAnswer]] = []
    first = await _ran(workflow, given, gid, history, answer)
    for recorded in range(len(history) + 1):
        again = history[:recorded]
        run = await _ran(workflow, given, gid, again, answer)
        if _told(run) != _told(first):
            raise NotDeterministic(f"{workflow.name} ended as {_told(run)}, and before as {_told(first)}")
    return first


async def _ran(
    workflow: Workflow,
    given: Any,
    gid: str,
    history: list[tuple[Branch, StepAnswer]],
    answer: Callable[[Branch], Awaitable[Any]],
) -> Replayed:
    """One run, whose steps are told from the history as far as that goes, and are added to it."""
    recorded = len(history)
    times_ms = count(BEGUN_AT_MS + STEP_MS, STEP_MS)
    asked: list[Branch] = []

    async def ask(number: int, step: Branch) -> StepAnswer:
        asked.append(step)
        at_ms = next(times_ms)
        if number <= recorded:
            was, told = history[number - 1]
            if was != step:
                raise NotDeterministic(f"step {number} was {was}, and now is {step}")
            return told
        try:
            told = StepAnswer(state=StepState.DONE, result=await answer(step), reason="", at_ms=at_ms)
        except Reject as error:
            told = StepAnswer(state=StepState.REFUSED, result=None, reason=error.reason, at_ms=at_ms)
        history.append((step, told))
        return told

    tx = Tx(gid, BEGUN_AT_MS, recorded, ask, _pass)
    try:
        result = await workflow.code(tx, given)
    except Exception as error:
        if tx.failure is not None:
            raise tx.failure from error
        return Replayed(tuple(asked), raised=error)
    if tx.failure is not None:
        raise tx.failure
    return Replayed(tuple(asked), result)


async def _pass(_: float) -> None:
    """Waiting is over at once."""


def _told(run: Replayed) -> str:
    end = f"returned {run.result!r}" if run.raised is None else f"raised {run.raised!r}"
    return f"{len(run.steps)} steps, {end}"
