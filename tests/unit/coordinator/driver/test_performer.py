"""Effects are performed, and each ends as one event, whatever comes of it."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.performer import Performer
from coordinator.effects import CallEnded, Event, ProposalEnded, Propose
from coordinator.ledger.commands import BY_INQUIRY, Command, Decide
from coordinator.ledger.records import Decision, Phase
from coordinator.ledger.table import Ledger
from coordinator.participants.local import LocalParticipants
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Operation, Verb
from raftlog.memory import MemoryGroup, MemoryLog
from tests.support.participants import Clerk

PREPARE = Operation(Verb.PREPARE, BranchKey("g", "b1"), "do", 1)


def abort(gid: str) -> Command:
    return Decide(gid, Decision.ABORT, BY_INQUIRY, 0)


class Scene:
    """A performer over a single-node log and one participant; `events` holds what came back."""

    def __init__(self, ride_along_s: float = 0.0, call_timeout_s: float = 1.0) -> None:
        self.ledger = Ledger()
        self.group = MemoryGroup(["n1"])
        self.log: MemoryLog = self.group.join("n1", self.ledger)
        self.clerk = Clerk("bank-a")
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.performer = Performer(
            self.log,
            LocalParticipants({"bank-a": self.clerk}),
            wall_ms=lambda: 42,
            call_timeout_s=call_timeout_s,
            propose_timeout_s=1.0,
            ride_along_s=ride_along_s,
        )

    async def heard(self) -> Event:
        async with asyncio.timeout(2.0):
            return await self.events.get()

    def propose(self, gid: str, *, urgent: bool = True) -> None:
        self.performer.propose(Propose(abort(gid), urgent), self.events.put_nowait)

    def call(self) -> None:
        self.performer.call("bank-a", PREPARE, self.events.put_nowait)


@pytest.fixture
async def scene() -> Scene:
    made = Scene()
    await made.log.start()
    await made.log.barrier()
    return made


async def test_an_applied_proposal_stands_in_the_record_with_the_proposers_clock(scene: Scene) -> None:
    scene.propose("g")
    assert await scene.heard() == ProposalEnded(abort("g"))
    record = scene.ledger.get("g")
    assert record is not None
    assert (record.phase, record.decided_at_ms) == (Phase.ABORTED, 42)


@pytest.mark.parametrize("applied", [True, False])
async def test_a_lost_proposal_ends_too_and_only_the_record_knows_how(scene: Scene, applied: bool) -> None:
    scene.group.lose_next_answer(applied=applied)
    scene.propose("g")
    assert await scene.heard() == ProposalEnded(abort("g"))
    await scene.log.barrier()
    assert (scene.ledger.get("g") is not None) is applied


async def test_a_refused_proposal_ends_too(scene: Scene) -> None:
    await scene.log.stop()
    scene.propose("g")
    assert await scene.heard() == ProposalEnded(abort("g"))
    assert scene.ledger.get("g") is None


async def test_an_answer_comes_back_as_it_was_given(scene: Scene) -> None:
    scene.call()
    assert await scene.heard() == CallEnded("b1", Verb.PREPARE, Answer(BranchState.PREPARED))


async def test_a_failed_call_is_unknown_and_says_why(scene: Scene) -> None:
    scene.clerk.away = True
    scene.call()
    assert await scene.heard() == CallEnded("b1", Verb.PREPARE, None, "bank-a is away")


async def test_a_mistake_of_our_own_in_a_call_is_unknown_and_never_silence(scene: Scene) -> None:
    """Goal: each effect ends as one event; otherwise its transaction would hang. Red without the last `except`."""
    scene.clerk.states = None  # type: ignore[assignment]
    scene.call()
    event = await scene.heard()
    assert isinstance(event, CallEnded)
    assert event.answer is None
    assert "AttributeError" in event.error


async def test_a_call_that_takes_too_long_is_unknown() -> None:
    scene = Scene(call_timeout_s=0.01)
    scene.clerk.hold(Verb.PREPARE)
    scene.call()
    assert await scene.heard() == CallEnded("b1", Verb.PREPARE, None, "no answer within 0.01 s")


async def test_a_proposal_that_nobody_waits_for_rides_along_with_an_urgent_one() -> None:
    """Goal: the end of a transaction costs no entry of its own. Red when `propose` ignores `urgent`."""
    scene = Scene(ride_along_s=60.0)
    await scene.log.start()
    await scene.log.barrier()
    before = scene.log.status().counters.get("entries", 0)
    scene.propose("rider", urgent=False)
    scene.propose("other rider", urgent=False)
    await scene.log.barrier()
    assert scene.ledger.get("rider") is None
    scene.propose("urgent")
    for _ in range(3):
        await scene.heard()
    assert len(scene.ledger) == 3
    assert scene.log.status().counters["entries"] - before == 1


async def test_a_proposal_that_nobody_waits_for_leaves_by_itself_in_the_end() -> None:
    scene = Scene(ride_along_s=0.01)
    await scene.log.start()
    await scene.log.barrier()
    scene.propose("rider", urgent=False)
    assert await scene.heard() == ProposalEnded(abort("rider"))


async def test_what_was_cancelled_is_not_heard_of(scene: Scene) -> None:
    scene.clerk.hold(Verb.PREPARE)
    scene.call()
    await scene.clerk.arrived(Verb.PREPARE)
    await scene.performer.stop()
    assert scene.events.empty()
