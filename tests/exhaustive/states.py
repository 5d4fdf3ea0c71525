"""What a world is made of: plain tuples, so that two ways of arriving at the same state are one. No rule is here."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, TypeVar

from coordinator.ledger.records import Phase

__all__ = [
    "BLANK",
    "CUT_OFF",
    "DEADLINE_MS",
    "FINISHED",
    "FORGOTTEN",
    "LEADER",
    "NAMES",
    "NO",
    "NOBODY",
    "READ_ONLY",
    "YES",
    "Answered",
    "BranchWorld",
    "CutOff",
    "Fact",
    "Proposal",
    "Request",
    "Violation",
    "World",
    "added",
    "cut_off",
    "dismissed",
    "removed",
    "seen_by_cut_off",
    "sorted_world",
    "unheard",
    "with_branch",
    "with_cut_off",
    "without_cut_off",
]

NAMES = ("a", "b", "c", "d", "e")
DEADLINE_MS = 1000
YES, NO, READ_ONLY = "yes", "no", "read-only"
FINISHED = (Phase.COMMITTED, Phase.ABORTED)
FORGOTTEN = "committed, and forgotten"  # a state of a branch that only a canary has
LEADER, CUT_OFF, NOBODY = "the leader", "the cut-off leader", ""  # who waits for an answer

Fact: TypeAlias = tuple[str, bool, int, str]  # question, in flight, attempts (at most 2), state
Proposal: TypeAlias = tuple[str, str, str]  # kind, decision, by
Request: TypeAlias = tuple[str, bool, str]  # verb, one phase, who still waits for the answer
Answered: TypeAlias = tuple[str, str, str]  # verb, state ("" for a broken connection), who waits for it
BLANK: Fact = ("", False, 0, "")

M = TypeVar("M", Answered, Request)  # a message


class Violation(AssertionError):
    """A promise is broken; the message holds the schedule."""


class BranchWorld(NamedTuple):
    """Everything about one branch. Texts are "" where there is none, so that branches can be sorted."""

    will: str
    durable: str  # the participant's BranchState
    ended: bool  # in the record
    named: bool  # by the pending proposal
    strayed: bool  # named by the stray proposal
    fact: Fact
    cut_fact: Fact  # what the cut-off leader knows
    requests: tuple[Request, ...]
    answers: tuple[Answered, ...]
    inquiry: str  # a slow one: "asks" while the question is under way, then the decision that is


class CutOff(NamedTuple):
    """A leader that does not know yet that it was deposed: it holds the record as begun, and nothing that it proposes
    is recorded any more. Fields as in `World`."""

    driver: str
    late: bool
    overdue: bool
    proposal_fact: Fact


class World(NamedTuple):
    """One state of everything."""

    phase: Phase | None  # of the record
    tombstone: bool
    path: str  # of the record or, before there is one, of the plan; "" without either
    proposal: Proposal | None  # pending
    proposal_fact: Fact
    stray: Proposal | None  # in the log perhaps; its proposer waits no longer
    driver: str  # "plan", "takeover", or "" for none
    late: bool
    overdue: bool  # the driver has proposed to abort for lateness
    cut: CutOff | None
    crashes: int  # that may still happen
    timeouts: int
    copies: int
    cuts: int
    rival: bool  # another request for the gid was taken for this one
    excused: bool  # an abort needs no vote against it
    told: str  # the decision that the client has heard
    alarm: str  # what a participant or the leader has called a contradiction
    branches: tuple[BranchWorld, ...]


def added(messages: tuple[M, ...], *more: M) -> tuple[M, ...]:
    return tuple(sorted(messages + more)) if more else messages


def removed(messages: tuple[M, ...], message: M) -> tuple[M, ...]:
    index = messages.index(message)
    return messages[:index] + messages[index + 1 :]


def with_branch(world: World, i: int, branch: BranchWorld) -> World:
    return world._replace(branches=(*world.branches[:i], branch, *world.branches[i + 1 :]))


def unheard(requests: tuple[Request, ...], who: str, verb: str = "") -> tuple[Request, ...]:
    """The same requests, whose answers (to `verb`) `who` waits for no more."""
    return _handed_over(requests, who, NOBODY, verb)


def dismissed(world: World) -> World:
    """No driver any more: its facts are gone and it waits for no answer; what was sent may still arrive."""
    return world._replace(
        path="" if world.phase is None else world.path,
        driver="",
        late=False,
        overdue=False,
        proposal=None,
        proposal_fact=BLANK,
        stray=None,
        branches=tuple(
            b._replace(
                fact=BLANK,
                named=False,
                strayed=False,
                answers=tuple(answer for answer in b.answers if answer[2] != LEADER),
                requests=unheard(b.requests, LEADER),
            )
            for b in world.branches
        ),
    )


def cut_off(world: World) -> World:
    """The leader can reach the participants and its callers, but the log goes on without it."""
    return world._replace(
        cut=CutOff(world.driver, world.late, world.overdue, world.proposal_fact),
        branches=tuple(
            b._replace(
                cut_fact=b.fact,
                requests=_handed_over(b.requests, LEADER, CUT_OFF),
                answers=tuple(sorted((v, s, CUT_OFF if w == LEADER else w) for v, s, w in b.answers)),
            )
            for b in world.branches
        ),
    )


def seen_by_cut_off(world: World, cut: CutOff) -> World:
    """The world as the cut-off leader knows it. What it proposed last stays under way for ever."""
    return world._replace(
        phase=Phase.PREPARING,
        driver=cut.driver,
        late=cut.late,
        overdue=cut.overdue,
        proposal=None,
        proposal_fact=cut.proposal_fact,
        branches=tuple(b._replace(fact=b.cut_fact, ended=False, named=False) for b in world.branches),
    )


def with_cut_off(world: World, seen: World) -> World:
    """The world after the cut-off leader has done something in the one that it has `seen`."""
    return world._replace(
        cut=CutOff(seen.driver, seen.late, seen.overdue, seen.proposal_fact),
        told=seen.told,
        alarm=seen.alarm,
        branches=tuple(
            b._replace(cut_fact=s.fact, requests=s.requests) for b, s in zip(world.branches, seen.branches, strict=True)
        ),
    )


def without_cut_off(world: World) -> World:
    """Whatever it has asked may still arrive."""
    return world._replace(
        cut=None,
        branches=tuple(
            b._replace(
                cut_fact=BLANK,
                requests=unheard(b.requests, CUT_OFF),
                answers=tuple(answer for answer in b.answers if answer[2] != CUT_OFF),
            )
            for b in world.branches
        ),
    )


def _handed_over(requests: tuple[Request, ...], who: str, to: str, verb: str = "") -> tuple[Request, ...]:
    return tuple(sorted((v, o, to if w == who and verb in ("", v) else w) for v, o, w in requests))


def sorted_world(world: World) -> World:
    """The one of its kind: which branch of a will is called what does not matter, nor, in the end, who was late."""
    branches = tuple(sorted(world.branches))
    if branches != world.branches:
        world = world._replace(branches=branches)
    if world.phase is None or world.phase is Phase.PREPARING:
        return world
    excused = world.excused and world.phase in (Phase.ABORTING, Phase.ABORTED) and branches[0].will != NO
    if (world.late, world.overdue, world.excused) != (False, False, excused):
        world = world._replace(late=False, overdue=False, excused=excused)
    return world
