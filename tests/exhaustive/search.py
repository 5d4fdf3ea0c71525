"""Every world that can be reached, once, and what must hold in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.ledger.records import Decision, Phase
from participant.wire import BranchState
from tests.exhaustive.states import FORGOTTEN
from tests.exhaustive.world import FINISHED, NO, READ_ONLY, Rules, Violation, World, first_world, sorted_world

DECISIONS = {
    Phase.COMMITTING: Decision.COMMIT,
    Phase.COMMITTED: Decision.COMMIT,
    Phase.ABORTING: Decision.ABORT,
    Phase.ABORTED: Decision.ABORT,
}
OPEN, CLOSED = 1, 2


@dataclass(frozen=True)
class Census:
    """What a search has seen."""

    worlds: int
    ends: int
    committed: int  # of the ends
    aborted: int


def search(
    rules: Rules, wills: tuple[str, ...], *, crashes: int, timeouts: int, copies: int = 0, cuts: int = 0
) -> Census:
    """Visit every world. Raises Violation with the schedule that leads to the first one that breaks a promise.

    Depth first, with the path on a stack: a world that is met again on its own path means that the protocol can go
    round for ever. So every run is finite, and what remains is that it ends well.
    """
    gc.disable()  # millions of tuples and not one cycle: collecting would only cost
    try:
        first = first_world(rules, wills, crashes=crashes, timeouts=timeouts, copies=copies, cuts=cuts)
        return _search(rules, first)
    finally:
        gc.enable()


def edges(
    rules: Rules, wills: tuple[str, ...], *, crashes: int, timeouts: int, calm: bool = False
) -> Iterator[tuple[World, str, World]]:
    """Every step from one world to the next, for claims about steps; branches keep their places within one.

    `calm`: only what happens when nothing fails and nobody is late.
    """
    first = first_world(rules, wills, crashes=crashes, timeouts=timeouts)
    seen, waiting = {first}, [first]
    while waiting:
        world = waiting.pop()
        for label, following in [*rules.successors(world), *rules.faults(world)]:
            if calm and following.excused:
                continue
            yield world, label, following
            following_sorted = sorted_world(following)
            if following_sorted not in seen:
                seen.add(following_sorted)
                waiting.append(following_sorted)


def _search(rules: Rules, first: World) -> Census:
    check(rules, first, [])
    seen: dict[World, int] = {first: OPEN}
    ends: dict[Decision | None, int] = {}
    schedule: list[str] = []
    stack = [(first, _next(rules, first, schedule, ends))]
    while stack:
        world, successors = stack[-1]
        label, following = next(successors, ("", None))
        if following is None:
            seen[world] = CLOSED
            stack.pop()
            del schedule[-1:]
            continue
        following = sorted_world(rules.without_the_idle(following))
        mark = seen.get(following)
        if mark == OPEN:
            raise Violation(_told("it goes round for ever", [*schedule, label], following))
        if mark is None:
            schedule.append(label)
            check(rules, following, schedule)
            seen[following] = OPEN
            stack.append((following, _next(rules, following, schedule, ends)))
    committed, aborted = ends.get(Decision.COMMIT, 0), ends.get(Decision.ABORT, 0)
    return Census(len(seen), sum(ends.values()), committed, aborted)


def _next(
    rules: Rules, world: World, schedule: list[str], ends: dict[Decision | None, int]
) -> Iterator[tuple[str, World]]:
    moves = list(rules.successors(world))
    if not moves:
        check_end(rules, world, schedule)
        decision = None if world.phase is None else DECISIONS[world.phase]
        ends[decision] = ends.get(decision, 0) + 1
    return iter([*moves, *rules.faults(world)])


def check(rules: Rules, world: World, schedule: list[str]) -> None:
    """What must hold in every world."""
    states = _states(world)
    decision = None if world.phase is None else DECISIONS.get(world.phase)
    broken = ""
    if BranchState.COMMITTED in states:
        if BranchState.ABORTED in states:
            broken = "one branch committed, another aborted"
        elif any(branch.will == NO for branch in world.branches):
            broken = "a branch committed although another could only refuse"
        elif decision is Decision.ABORT:
            broken = "a branch committed what is recorded as aborted"
        elif decision is None and not rules.commits_unrecorded:
            broken = "a branch committed before the commit was recorded"
    if world.told and decision is not None and world.told != decision:
        broken = f"the client was told {world.told}, the record says {decision}"
    if world.rival and decision is Decision.COMMIT:
        broken = "the client was told commit, of branches that nobody has asked"
    if decision is Decision.COMMIT and any(branch.will == NO for branch in world.branches):
        broken = "committed against a vote"
    if not broken and rules.alarms:
        broken = world.alarm
    if broken:
        raise Violation(_told(broken, schedule, world))


def check_end(rules: Rules, world: World, schedule: list[str]) -> None:
    """What must hold once nothing more has to happen."""
    decision = None if world.phase is None else DECISIONS.get(world.phase)
    states = _states(world)
    broken = ""
    if world.driver or (world.phase is not None and world.phase not in FINISHED):
        broken = "the transaction never finishes"
    elif BranchState.PREPARED in states:
        broken = "a branch stays in doubt"
    elif decision is Decision.COMMIT and states - {BranchState.COMMITTED}:
        broken = "committed, but not everywhere"
    elif decision is Decision.ABORT and not world.excused and not any(b.will == NO for b in world.branches):
        broken = "aborted although everybody agreed and nobody was late"
    elif world.told and decision is None:
        broken = f"the client was told {world.told}, nothing is recorded"
    if broken:
        raise Violation(_told(broken, schedule, world))


def _states(world: World) -> set[str]:
    """Where the branches stand that write something."""
    states = {branch.durable for branch in world.branches if branch.will != READ_ONLY}
    return (states - {FORGOTTEN}) | {BranchState.COMMITTED} if FORGOTTEN in states else states


def _told(broken: str, schedule: list[str], world: World) -> str:
    lines = "\n".join(f"  {number}. {label}" for number, label in enumerate(schedule, start=1))
    return f"{broken}\n{lines}\n  {world}"
