"""One driver: wake-ups that come together make one step, time wakes, and a contradiction is said once."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from structlog.testing import capture_logs

from coordinator.driver.alarms import Alarms
from coordinator.driver.driver import Driver, Shared
from coordinator.driver.performer import Performer
from coordinator.driver.spans import Spans
from coordinator.driver.terms import Notary
from coordinator.ledger.commands import BY_VOTES, Begin, Decide
from coordinator.ledger.records import BranchRecord, Decision, Path
from coordinator.ledger.table import Ledger
from coordinator.participants.local import LocalParticipants
from coordinator.protocols.two_phase import Plan
from participant.ids import BranchKey
from participant.wire import BranchState, Verb
from raftlog.memory import MemoryLog
from tests.support.cluster import WAIT_S
from tests.support.participants import Clerk

BRANCH = BranchRecord("b1", "bank-a", "do", b"\x01")


class Scene:
    """One driver that took a record over; `implied` holds what it has said to be true before the ledger held it."""

    def __init__(self, path: Path, ride_along_s: float = 0.0) -> None:
        self.path = path
        self.implied: list[tuple[Decision, Decision | None]] = []  # and what the record said then
        self.ledger = Ledger()
        self.log = MemoryLog.single(self.ledger)
        self.clerk = Clerk("bank-a")
        self.ends: asyncio.Queue[bool] = asyncio.Queue()
        participants = LocalParticipants({"bank-a": self.clerk})
        performer = Performer(
            self.log,
            participants,
            wall_ms=lambda: 1,
            call_timeout_s=0.05,
            ride_along_s=ride_along_s,
        )
        alarms = Alarms(lambda _: self.driver.wake())
        self.shared = Shared(
            self.ledger,
            performer,
            Spans(),
            Notary(self.log, participants, None),
            alarms,
            Random(1),
            self._implies,
            lambda _, well: self.ends.put_nowait(well),
        )
        self.driver = Driver("g", None, self.shared)
        self.ledger.subscribe(lambda _: self.driver.wake())

    def _implies(self, decide: Decide) -> None:
        record = self.ledger.get("g")
        self.implied.append((decide.decision, None if record is None else record.decision))

    def begun(self) -> None:
        self.ledger.execute(Begin("g", b"d", self.path, (BRANCH,), 10_000, 1))

    async def ended(self) -> bool:
        async with asyncio.timeout(WAIT_S):
            return await self.ends.get()


async def set_up(path: Path, ride_along_s: float = 0.0) -> Scene:
    made = Scene(path, ride_along_s)
    await made.log.start()
    await made.log.barrier()
    return made


@pytest.fixture(params=[Path.CLASSIC, Path.STAGED])
async def scene(request: pytest.FixtureRequest) -> Scene:
    return await set_up(request.param)


async def test_it_drives_a_record_to_its_end_and_ends_well(scene: Scene) -> None:
    scene.begun()
    assert await scene.ended()
    record = scene.ledger.get("g")
    assert record is not None
    assert record.finished
    assert scene.driver.closed


async def test_many_wake_ups_in_one_turn_make_one_step(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a burst of changes costs one decision. Red when `wake` forgets that a step is due already."""
    scene.clerk.hold(Verb.PREPARE)
    scene.begun()
    steps = 0
    advance = scene.driver._advance

    def counted() -> None:
        nonlocal steps
        steps += 1
        advance()

    monkeypatch.setattr(Driver, "_advance", lambda _: counted())
    for _ in range(5):
        scene.driver.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert steps == 1
    scene.driver.close()


async def test_a_participant_that_is_away_is_asked_again_after_a_while(scene: Scene) -> None:
    scene.clerk.away = True
    scene.begun()
    await asyncio.sleep(0.02)
    scene.clerk.away = False
    assert await scene.ended()


async def test_a_closed_driver_hears_and_does_nothing(scene: Scene) -> None:
    scene.clerk.hold(Verb.PREPARE)
    scene.begun()
    await scene.clerk.arrived(Verb.PREPARE)
    scene.driver.close()
    scene.clerk.release(Verb.PREPARE)
    await scene.log.barrier()
    record = scene.ledger.get("g")
    assert record is not None
    assert record.decision is None
    assert scene.ends.empty()


async def test_a_driver_that_is_closed_is_not_woken_by_what_it_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red when `close` leaves the pending wake-up, and when it leaves the alarm."""
    steps: list[str] = []
    monkeypatch.setattr(Driver, "_advance", lambda driver: steps.append(driver.gid))
    scene.driver.wake()
    scene.shared.alarms.set("g", scene.driver._loop.time() + 0.001)
    scene.driver.close()
    with monkeypatch.context() as patched:
        patched.setattr(Driver, "wake", lambda driver: steps.append(f"{driver.gid} rung"))
        await asyncio.sleep(0.01)
    assert steps == []


async def test_a_plan_is_kept_until_its_decision_is_recorded(scene: Scene) -> None:
    """Goal: what may stay open for days holds no bodies. Seen red without `_drop_plan`, and when it drops too soon."""
    scene.driver.plan = Plan("g", b"d", scene.path, (BRANCH,), 10_000)
    for verb in (Verb.PREPARE, Verb.COMMIT):
        scene.clerk.hold(verb)
    scene.begun()
    await scene.clerk.arrived(Verb.PREPARE)
    assert scene.driver.plan is not None
    scene.clerk.release(Verb.PREPARE)
    await scene.clerk.arrived(Verb.COMMIT)
    assert scene.driver.plan is None
    scene.driver.close()


async def test_a_plan_is_kept_while_the_decision_is_on_another_request(scene: Scene) -> None:
    """Goal: it is withdrawn, and the record's branches are left to their own driver. Seen red when `_drop_plan` looks
    at no digest."""
    scene.driver.plan = Plan("g", b"of another request", scene.path, (BRANCH,), 10_000)
    scene.begun()
    scene.ledger.execute(Decide("g", Decision.COMMIT, BY_VOTES, 1))
    assert await scene.ended()
    assert scene.driver.plan is not None
    assert not scene.clerk.asked[Verb.COMMIT]


async def test_what_cannot_be_true_is_logged_once_and_the_branch_stays_open(scene: Scene) -> None:
    """Goal: a participant that lost its promise is the operator's business, loudly, and not ten times a second."""
    scene.clerk.states[BranchKey("g", "b1")] = BranchState.ABORTED
    with capture_logs() as lines:
        scene.begun()
        scene.ledger.execute(Decide("g", Decision.COMMIT, BY_VOTES, 1))
        for _ in range(3):
            await scene.clerk.next_call(Verb.COMMIT)
    said = [line for line in lines if line["event"] == "transaction.contradiction"]
    assert len(said) == 1
    assert said[0]["gid"] == "g"
    record = scene.ledger.get("g")
    assert record is not None
    assert not record.finished
    scene.driver.close()


async def test_what_is_implied_is_said_before_the_record_holds_it() -> None:
    """Goal: the caller need not wait for the forced write of the decision. Red when `_advance` drops `implied`."""
    scene = await set_up(Path.STAGED, ride_along_s=0.01)
    scene.begun()
    assert await scene.ended()
    assert set(scene.implied) == {(Decision.COMMIT, None)}


async def test_on_the_classic_path_nothing_is_said_before_the_record_holds_it() -> None:
    scene = await set_up(Path.CLASSIC)
    scene.begun()
    assert await scene.ended()
    assert scene.implied == []
