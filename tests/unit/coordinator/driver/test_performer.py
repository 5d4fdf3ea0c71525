"""Effects are performed, and each ends as one event, whatever comes of it."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.performer import SOON_S, Performer
from coordinator.effects import CallEnded, Event, Haste, ProposalEnded, Propose
from coordinator.ledger.commands import BY_INQUIRY, Command, Decide
from coordinator.ledger.records import Decision, Phase
from coordinator.ledger.table import Ledger
from coordinator.participants.local import LocalParticipants
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Operation, Verb
from raftlog.memory import MemoryGroup, MemoryLog
from tests.support.participants import Clerk
from tests.support.virtual import virtually

LONG_S = 60.0  # of virtual time
PREPARE = Operation(Verb.PREPARE, BranchKey("g", "b1"), "do", 1)


def abort(gid: str) -> Command:
    return Decide(gid, Decision.ABORT, BY_INQUIRY, 0)


class Scene:
    """A performer over a single-node log and one participant; `events` holds what came back."""

    def __init__(
        self, ride_along_s: float = 0.0, call_timeout_s: float = 1.0, group: MemoryGroup | None = None
    ) -> None:
        self.ledger = Ledger()
        self.group = group or MemoryGroup(["n1"])
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

    def propose(self, gid: str, haste: Haste = Haste.NOW) -> None:
        self.performer.propose(Propose(abort(gid), haste), self.events.put_nowait)

    async def start(self) -> int:
        """Entries that are in the log when it leads."""
        await self.log.start()
        await self.log.barrier()
        return self.entries()

    def entries(self) -> int:
        return self.log.status().counters.get("entries", 0)

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


@pytest.mark.parametrize("haste", [Haste.SOON, Haste.LATER])
def test_a_proposal_that_nobody_waits_for_rides_along_with_one_that_is_due_now(haste: Haste) -> None:
    """Goal: what follows an answer costs no entry of its own. Red when `propose` ignores `haste`."""

    async def main() -> None:
        scene = Scene(ride_along_s=LONG_S)
        before = await scene.start()
        scene.propose("rider", haste)
        scene.propose("other rider", haste)
        await scene.log.barrier()
        assert len(scene.ledger) == 0
        scene.propose("now")
        for _ in range(3):
            await scene.heard()
        assert len(scene.ledger) == 3
        assert scene.entries() - before == 1
        assert asyncio.get_running_loop().time() == 0.0

    virtually(main())


def test_what_is_to_be_there_soon_leaves_soon_by_itself_and_takes_along_what_may_come_later() -> None:
    """Goal: rows are locked until a staged decision is recorded. Red when SOON waits like LATER, when it does not wait
    at all, and when the timer of what came first is kept."""

    async def main() -> None:
        scene = Scene(ride_along_s=LONG_S)
        before = await scene.start()
        loop = asyncio.get_running_loop()
        scene.propose("later", Haste.LATER)
        await asyncio.sleep(1.0)
        scene.propose("soon", Haste.SOON)
        await asyncio.sleep(SOON_S / 2)
        scene.propose("soon too", Haste.SOON)
        assert len(scene.ledger) == 0
        for _ in range(3):
            await scene.heard()
        assert loop.time() == 1.0 + SOON_S, "the first of them says when"
        assert scene.entries() - before == 1
        scene.propose("much later", Haste.LATER)
        await asyncio.sleep(LONG_S - 1.0)
        assert len(scene.ledger) == 3
        assert await asyncio.wait_for(scene.events.get(), 2.0) == ProposalEnded(abort("much later"))

    virtually(main())


@pytest.mark.parametrize("haste", [Haste.SOON, Haste.LATER])
def test_a_proposal_that_nobody_waits_for_leaves_by_itself_in_the_end(haste: Haste) -> None:
    async def main() -> None:
        scene = Scene(ride_along_s=SOON_S / 2)
        await scene.start()
        scene.propose("rider", haste)
        assert await scene.heard() == ProposalEnded(abort("rider"))
        assert asyncio.get_running_loop().time() == SOON_S / 2

    virtually(main())


def test_a_proposal_and_a_call_that_take_too_long_are_given_up() -> None:
    """Goal: each effect ends as one event in time, or its transaction would hang. Red without the watch over either."""

    async def main() -> None:
        group = MemoryGroup(["n1", "n2", "n3"])
        scene = Scene(group=group)
        other = group.join("n2", Ledger())
        await scene.log.start()
        await other.start()
        group.elect("n1")
        await scene.log.barrier()
        group.crash("n2")  # without a majority nothing is ever applied
        scene.clerk.hold(Verb.PREPARE)
        scene.propose("g")
        scene.call()
        await asyncio.sleep(0.9)
        assert scene.events.empty()
        await asyncio.sleep(LONG_S)
        assert [scene.events.get_nowait() for _ in range(scene.events.qsize())] == [
            ProposalEnded(abort("g")),
            CallEnded("b1", Verb.PREPARE, None, "no answer within 1 s"),
        ]
        scene.clerk.release(Verb.PREPARE)
        await asyncio.sleep(LONG_S)
        assert scene.events.empty(), "and its late answer is not heard"
        await scene.log.stop()

    virtually(main())


def test_after_a_loss_of_leadership_nothing_of_it_is_heard_and_no_rider_leaves() -> None:
    """Goal: whoever leads again starts from the record alone. Red when `cancel_all` forgets the riders, their timer, or
    what is under way."""

    async def main() -> None:
        scene = Scene(ride_along_s=0.05)
        await scene.start()
        scene.clerk.hold(Verb.PREPARE)
        scene.call()
        await scene.clerk.arrived(Verb.PREPARE)
        scene.propose("under way")
        scene.propose("soon", Haste.SOON)
        scene.propose("later", Haste.LATER)
        scene.performer.cancel_all()
        scene.clerk.release(Verb.PREPARE)
        await asyncio.sleep(LONG_S)
        assert scene.events.empty()
        assert (scene.ledger.get("soon"), scene.ledger.get("later")) == (None, None)
        scene.propose("next")
        assert await scene.heard() == ProposalEnded(abort("next"))

    virtually(main())


async def test_what_was_cancelled_is_not_heard_of(scene: Scene) -> None:
    scene.clerk.hold(Verb.PREPARE)
    scene.call()
    await scene.clerk.arrived(Verb.PREPARE)
    await scene.performer.stop()
    assert scene.events.empty()
