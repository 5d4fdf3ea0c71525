"""The protocols of the table: over how many replicas, what their participants can do, and what a client asks for.

The next protocol is one more row. Each moves an amount from the giver to every taker: to one, or to two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from coordinator.client.client import Client
from coordinator.client.outcomes import Branch, Ended
from coordinator.failures.moments import Moment
from coordinator.failures.participants import AMOUNT, GIVER, OTHER_TAKER, TAKER
from coordinator.simulation.servers import Kind
from coordinator.wire import CommitProtocol

__all__ = ["PROTOCOLS", "Protocol", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for: under which gid, what it moves at each participant, and whether the taker refuses."""

    gid: str
    moves: Mapping[str, int]
    refuses: bool

    def at(self, participant: str) -> dict[str, Any]:
        """What this one is asked to do. Raises KeyError."""
        return {"amount": self.moves[participant], "refuses": self.refuses and participant == TAKER}

    @property
    def branches(self) -> list[Branch]:
        """One for each participant."""
        return [Branch(participant, "change", self.at(participant)) for participant in self.moves]


_TO_ONE: Mapping[str, int] = MappingProxyType({GIVER: -AMOUNT, TAKER: +AMOUNT})
_TO_TWO: Mapping[str, int] = MappingProxyType({GIVER: -2 * AMOUNT, TAKER: +AMOUNT, OTHER_TAKER: +AMOUNT})

Transact: TypeAlias = Callable[[Client, Request], Awaitable[Ended]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row. `votes` of the participants are asked before the decision, `told` of them behind it, if that is to
    commit. `shows`: what a branch that has committed changes for everybody to see, by what its name has behind the
    colon. `heard`: the giver has done its part for good. `halfway`: it has, or will next; a taker has not, and will
    not if it is cut off now. `moves`: what each participant's account changes by, if it is to commit.
    """

    key: str
    title: str
    replicas: int
    kind: Kind
    transact: Transact
    votes: int
    told: int
    shows: Mapping[str, int] = field(default_factory=lambda: {"": +1})
    halfway: Moment = Moment.DECIDED
    heard: Moment = Moment.FIRST_TOLD
    phases: int = 2
    moves: Mapping[str, int] = field(default_factory=lambda: _TO_ONE)

    @property
    def is_stepwise(self) -> bool:
        """Whether each participant commits by itself, and holds nothing for the others."""
        return self.kind is _STEPS


_CLASSIC = Kind("classic", prevent=False, one_phase=False)
_STAGED = Kind("staged", prevent=True, one_phase=False)
_STEPS = Kind("steps", prevent=True, one_phase=True)


def _two_phase(client: Client, request: Request) -> Awaitable[Ended]:
    return client.commit(request.branches, gid=request.gid)


def _three_phase(client: Client, request: Request) -> Awaitable[Ended]:
    return client.commit(request.branches, gid=request.gid, protocol=CommitProtocol.THREE_PHASE)


def _commit_on_silence(client: Client, request: Request) -> Awaitable[Ended]:
    return client.commit(request.branches, gid=request.gid, protocol=CommitProtocol.UNSAFE_COMMIT_ON_SILENCE)


def _tcc(client: Client, request: Request) -> Awaitable[Ended]:
    tcc = client.tcc()
    tcc.reserve(GIVER, request.at(GIVER), attempt="hold", confirm="settle", cancel="release")
    tcc.reserve(TAKER, request.at(TAKER), attempt="hold", confirm="settle", cancel="release")
    return tcc.run(gid=request.gid)


def _saga(client: Client, request: Request) -> Awaitable[Ended]:
    saga = client.saga()
    saga.step(GIVER, "change", request.at(GIVER), undo="change_back")
    saga.step(TAKER, "change", request.at(TAKER), undo="change_back")
    return saga.run(gid=request.gid)


def _message(client: Client, request: Request) -> Awaitable[Ended]:
    message = client.message()
    message.when(GIVER, "change", request.at(GIVER) | {"refuses": request.refuses})  # nobody refuses a message
    message.send(TAKER, "change", request.at(TAKER) | {"refuses": False})
    return message.run(gid=request.gid)


def _in_three_phases(
    key: str, title: str, replicas: int, transact: Transact, moves: Mapping[str, int] = _TO_ONE
) -> Protocol:
    return Protocol(
        key,
        f"three phases, {title}",
        replicas,
        _CLASSIC,
        transact,
        votes=len(moves),
        told=len(moves),
        halfway=Moment.PRECOMMITTED,
        phases=3,
        moves=moves,
    )


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("2pc-alone", "two-phase commit, one coordinator", 1, _CLASSIC, _two_phase, votes=2, told=2),
    Protocol("2pc", "two-phase commit, the classic path", 3, _CLASSIC, _two_phase, votes=2, told=2),
    Protocol("2pc-staged", "two-phase commit, the staged path", 3, _STAGED, _two_phase, votes=2, told=2),
    _in_three_phases("3pc-textbook-alone", "commit on silence, one coordinator", 1, _commit_on_silence),
    _in_three_phases("3pc-quorum-alone", "a majority of two participants, one coordinator", 1, _three_phase),
    _in_three_phases(
        "3pc-quorum-of-3-alone", "a majority of three participants, one coordinator", 1, _three_phase, _TO_TWO
    ),
    _in_three_phases("3pc-quorum", "a majority of two participants", 3, _three_phase),
    _in_three_phases("3pc-quorum-of-3", "a majority of three participants", 3, _three_phase, _TO_TWO),
    Protocol("tcc", "try, confirm, cancel", 3, _STEPS, _tcc, votes=2, told=2, shows={"confirm": +1}),
    Protocol(
        "saga",
        "two steps, each with its undo",
        3,
        _STEPS,
        _saga,
        votes=2,
        told=0,
        shows={"": +1, "undo": -1},
        halfway=Moment.FIRST_VOTE,
        heard=Moment.FIRST_VOTE,
    ),
    Protocol(
        "message", "a local transaction and a message", 3, _STEPS, _message, votes=1, told=1, heard=Moment.DECIDED
    ),
)
