"""What a caller declares in the words of its kind is what the coordinator reads, and takes."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest

from coordinator.client import OWN, Branch, Committed, Ended, Message, Retry, Saga, Tcc
from coordinator.driver.intake import branches_of
from coordinator.errors import Invalid
from coordinator.ledger.records import BranchRecord, Mode
from coordinator.protocols.modes import step_of
from coordinator.wire import TransactionRequest, parse
from tests.support.participants import Clerk


class _Told:
    """Stands for the client, and for what the coordinator knows of participants: it keeps what it is told."""

    def __init__(self) -> None:
        self.branches: list[Branch] = []
        self.rest: dict[str, Any] = {}

    async def commit(self, branches: Iterable[Branch], **rest: Any) -> Ended:
        self.branches, self.rest = list(branches), rest
        return Committed("g")

    def known(self, _: str) -> bool:
        return True

    async def capabilities(self, name: str) -> Any:
        return Clerk(name).capabilities()

    def call(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def told() -> _Told:
    return _Told()


async def read(declared: Saga | Tcc | Message, told: _Told) -> dict[str, BranchRecord]:
    """What the coordinator makes of it: sent, parsed, and found to be in order."""
    await declared.run()
    forms = {"branches": [branch.to_map() for branch in told.branches]}
    return {branch.branch: branch for branch in branches_of(parse(TransactionRequest, forms).branches, told, Random(1))}


async def test_a_saga_is_read_as_it_was_written(told: _Told) -> None:
    """Each action at its place, and steps one after the other unless something else is said."""
    trip = Saga(told, 1_000)
    flight = trip.step("airline", "book", {"who": "ann"}, undo="cancel")
    hotel = trip.step("hotel", "reserve", undo="release", name="room")
    car = trip.step("cars", "rent", undo="return", after=[])
    insured = trip.step("insurer", "insure", undo="cancel", after=[flight, hotel])
    paid = trip.pivot("bank", "debit")
    sent = trip.then("mail", "send")
    thanked = trip.then("mail", "thank", after=[sent])
    branches = await read(trip, told)
    assert [flight, hotel, car, insured, paid, sent, thanked] == ["s1", "room", "s3", "s4", "s5", "s6", "s7"]
    steps = {name: step_of(branch) for name, branch in branches.items()}
    assert {name: step.after for name, step in steps.items()} == {
        "s1": (),
        "room": ("s1",),
        "s3": (),
        "s4": ("s1", "room"),
        "s5": (),
        "s6": (),
        "s7": ("s6",),
    }
    assert [step.mode for step in steps.values()] == [Mode.SAGA] * 4 + [Mode.PIVOT] + [Mode.FORWARD] * 2
    assert (branches["s1"].participant, branches["s1"].action, steps["s1"].undo) == ("airline", "book", "cancel")
    assert steps["s1"].confirm is None


async def test_a_step_after_one_that_began_at_once_follows_that_one(told: _Told) -> None:
    """The order is that of the script: the one before is the one that is written before."""
    trip = Saga(told, 1_000)
    trip.step("a", "do", undo="undo")
    beside = trip.step("b", "do", undo="undo", after=[])
    last = trip.step("c", "do", undo="undo")
    assert step_of((await read(trip, told))[last]).after == (beside,)


async def test_own_is_the_result_of_the_step_itself_whatever_it_is_called(told: _Told) -> None:
    trip = Saga(told, 1_000)
    flight = trip.step("airline", "book", undo="cancel", takes={"booking": OWN})
    room = trip.step("hotel", "reserve", undo="release", takes={"key": OWN, "arrival": flight}, name="room")
    steps = await read(trip, told)
    assert step_of(steps[flight]).takes == (("booking", flight),)
    assert step_of(steps[room]).takes == (("key", room), ("arrival", flight))


async def test_what_is_taken_of_a_step_is_waited_for(told: _Told) -> None:
    trip = Saga(told, 1_000)
    flight = trip.step("airline", "book", undo="cancel")
    room = trip.step("hotel", "reserve", undo="release", after=[], takes={"arrival": flight})
    assert step_of((await read(trip, told))[room]).after == (flight,)


async def test_reservations_are_tried_at_once_beside_two_phase_branches(told: _Told) -> None:
    tour = Tcc(told, 1_000)
    north = tour.reserve("north", {"rooms": 1}, attempt="reserve", confirm="settle", cancel="release")
    south = tour.reserve("south", {"rooms": 1}, attempt="reserve", confirm="settle", cancel="release", after=[north])
    bank = tour.prepare("bank", "debit", {"amount": 1})
    mail = tour.then("mail", "send")
    branches = await read(tour, told)
    steps = {name: step_of(branch) for name, branch in branches.items()}
    assert [steps[name].mode for name in (north, south, bank, mail)] == [
        Mode.TCC,
        Mode.TCC,
        Mode.TWO_PHASE,
        Mode.FORWARD,
    ]
    assert (branches[north].action, steps[north].confirm, steps[north].undo) == ("reserve", "settle", "release")
    assert [steps[name].after for name in (north, south, bank)] == [(), (north,), ()]


async def test_messages_follow_their_local_transaction(told: _Told) -> None:
    message = Message(told, 1_000)
    placed = message.when("orders", "place", {"number": "7"})
    points = message.send("points", "credit", takes={"order": placed})
    mail = message.send("mail", "send", after=[points])
    steps = {name: step_of(branch) for name, branch in (await read(message, told)).items()}
    assert [steps[name].mode for name in (placed, points, mail)] == [Mode.PIVOT, Mode.FORWARD, Mode.FORWARD]
    assert (steps[points].takes, steps[mail].after) == ((("order", placed),), (points,))


async def test_a_retry_says_all_that_it_means(told: _Told) -> None:
    trip = Saga(told, 1_000)
    once = trip.step("a", "do", undo="undo")
    often = trip.step("b", "do", undo="undo", retry=Retry(5, base_ms=20, cap_ms=20, jitter_percent=0))
    steps = await read(trip, told)
    assert step_of(steps[once]).retry == (Retry().attempts_max, Retry().base_ms, Retry().cap_ms, 100)
    assert step_of(steps[often]).retry == (5, 20, 20, 0)


async def test_gid_key_deadline_and_patience_reach_the_client(told: _Told) -> None:
    message = Message(told, 1_234, key="7")
    message.when("orders", "place")
    assert await message.run(gid="order-7", timeout_s=2.5) == Committed("g")
    assert told.rest == {"gid": "order-7", "key": "7", "deadline_ms": 1_234, "timeout_s": 2.5}


def _stay(told: _Told) -> Saga:
    """Two steps, a letter, and a result that goes from one to the other."""
    stay = Saga(told, 1_000)
    room = stay.step("hotel", "reserve", undo="release", name="room", takes={"number": OWN})
    stay.step("hotel", "order", undo="cancel", name="meal", takes={"for": room})
    stay.then("mail", "send", name="letter", takes={"number": room})
    return stay


async def test_a_saga_becomes_part_of_another_between_what_comes_before_and_after_it(told: _Told) -> None:
    trip = Saga(told, 1_000)
    flight = trip.step("airline", "book", undo="cancel", name="flight")
    stay = trip.include("stay", _stay(told))
    trip.step("cars", "rent", undo="return", name="car", takes={"night": stay["room"]})
    trip.pivot("bank", "debit", name="pay")
    steps = {name: step_of(branch) for name, branch in (await read(trip, told)).items()}
    assert {name: step.after for name, step in steps.items()} == {
        flight: (),
        "stay.room": (flight,),
        "stay.meal": ("stay.room",),
        "stay.letter": ("stay.room",),
        "car": ("stay.meal", "stay.room"),
        "pay": (),
    }
    assert steps["stay.room"].takes == (("number", "stay.room"),)
    assert steps["stay.meal"].takes == (("for", "stay.room"),)
    assert steps["car"].takes == (("night", "stay.room"),)
    assert (list(stay), stay.ends) == (["room", "meal", "letter"], ("stay.meal",))


async def test_parts_have_parts_and_reservations_are_one(told: _Told) -> None:
    hotels = Tcc(told, 1_000)
    for name in ("north", "south"):
        hotels.reserve(name, attempt="hold", confirm="settle", cancel="release", name=name)
    tour = Saga(told, 1_000)
    tour.include("hotels", hotels)
    tour.step("guide", "book", undo="cancel", name="guide")
    year = Tcc(told, 1_000)
    first = year.include("may", tour)
    year.include("june", tour, after=first.ends)
    steps = {name: step_of(branch) for name, branch in (await read(year, told)).items()}
    assert {name: (step.mode, step.after) for name, step in steps.items()} == {
        "may.hotels.north": (Mode.TCC, ()),
        "may.hotels.south": (Mode.TCC, ()),
        "may.guide": (Mode.SAGA, ("may.hotels.north", "may.hotels.south")),
        "june.hotels.north": (Mode.TCC, ("may.guide",)),
        "june.hotels.south": (Mode.TCC, ("may.guide",)),
        "june.guide": (Mode.SAGA, ("june.hotels.north", "june.hotels.south")),
    }


async def test_a_pivot_in_a_part_is_the_pivot_of_the_whole(told: _Told) -> None:
    paid = Saga(told, 1_000)
    paid.pivot("bank", "debit", name="pay")
    trip = Saga(told, 1_000)
    flight = trip.step("airline", "book", undo="cancel")
    assert trip.include("money", paid).ends == ()
    car = trip.step("cars", "rent", undo="return")
    steps = await read(trip, told)
    assert (step_of(steps["money.pay"]).mode, step_of(steps[car]).after) == (Mode.PIVOT, (flight,))
    trip.pivot("bank", "debit")
    with pytest.raises(Invalid, match="one pivot only"):
        await read(trip, told)


def test_a_part_has_branches_and_names_of_its_own(told: _Told) -> None:
    trip = Saga(told, 1_000)
    trip.include("stay", _stay(told))
    with pytest.raises(ValueError, match=r"stay\.letter, stay\.meal, stay\.room: there is a branch of that name"):
        trip.include("stay", _stay(told))
    for part in (trip, Saga(told, 1_000)):
        with pytest.raises(ValueError, match="with at least one branch"):
            trip.include("more", part)
