"""What a world is made of: plain tuples, so that two ways of arriving at the same state are one. No rule is here."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, TypeVar

from coordinator.ledger.records import Phase

__all__ = [
    "BLANK",
    "DEADLINE_MS",
    "FINISHED",
    "NAMES",
    "NO",
    "READ_ONLY",
    "YES",
    "BranchWorld",
    "Fact",
    "Proposal",
    "Request",
    "Violation",
    "World",
    "added",
    "dismissed",
    "removed",
    "sorted_world",
    "unheard",
    "with_branch",
]

NAMES = ("a", "b", "c", "d", "e")
DEADLINE_MS = 1000
YES, NO, READ_ONLY = "yes", "no", "read-only"
FINISHED = (Phase.COMMITTED, Phase.ABORTED)

Fact: TypeAlias = tuple[str, bool, int, str]  # question, in flight, attempts (at most 2), state
Proposal: TypeAlias = tuple[str, str, str]  # kind, decision, by
Request: TypeAlias = tuple[str, bool, bool]  # verb, one phase, whether somebody still waits for the answer
BLANK: Fact = ("", False, 0, "")

M = TypeVar("M", tuple[str, str], Request)  # a message


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
    requests: tuple[Request, ...]
    answers: tuple[tuple[str, str], ...]  # verb, state; "" for a broken connection
    inquiry: str  # a slow one: "asks" while the question is under way, then the decision that is


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
    crashes: int  # that may still happen
    timeouts: int
    copies: int
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


def unheard(requests: tuple[Request, ...], verb: str = "") -> tuple[Request, ...]:
    """The same requests (of `verb`), whose answers nobody waits for any more."""
    return tuple(sorted((v, o, wanted and verb not in ("", v)) for v, o, wanted in requests))


def dismissed(world: World) -> World:
    """No driver any more: its facts are gone and nobody waits for answers; what was sent may still arrive."""
    return world._replace(
        path="" if world.phase is None else world.path,
        driver="",
        proposal=None,
        proposal_fact=BLANK,
        stray=None,
        branches=tuple(
            b._replace(fact=BLANK, named=False, strayed=False, answers=(), requests=unheard(b.requests))
            for b in world.branches
        ),
    )


def sorted_world(world: World) -> World:
    """The one of its kind: which branch of a will is called what does not matter."""
    branches = tuple(sorted(world.branches))
    return world if branches == world.branches else world._replace(branches=branches)
