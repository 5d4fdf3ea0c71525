"""The code of a workflow does the same again if it is told the same; what does not is found without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any

import pytest

from coordinator.client import OWN, Branch, Retry, Tx, Workflow, workflow
from coordinator.client.replay import replayed
from coordinator.errors import Invalid, NotDeterministic, StepRefused
from participant.errors import Reject


async def answer(step: Branch) -> Any:
    if step.action == "reserve":
        raise Reject("no room is left")
    return f"{step.action}: {step.body}"


@workflow
async def trip(tx: Tx, wish: Any) -> Any:
    seat = await tx.step("airline", "book", wish, undo="cancel", takes={"seat": OWN})
    try:
        await tx.step("hotel", "reserve", undo="release", retry=Retry(3))
    except StepRefused as refused:
        await tx.message("mail", "send", {"why": refused.reason})
    await tx.sleep(60)
    await tx.prepare("bank", "debit", {"at": tx.now().isoformat(), "draw": tx.random()})
    await tx.reserve("cars", None, attempt="try", confirm="confirm", cancel="cancel")
    return [seat, await tx.pivot("bank", "pay")]


async def test_code_that_does_the_same_again_is_told_from_what_is_recorded() -> None:
    ran = await replayed(trip, {"who": "ann"}, answer)
    assert ran.result == ["book: {'who': 'ann'}", "pay: None"]
    assert [(step.participant, step.action) for step in ran.steps] == [
        ("airline", "book"),
        ("hotel", "reserve"),
        ("mail", "send"),
        ("bank", "debit"),
        ("cars", "try"),
        ("bank", "pay"),
    ]
    assert ran.steps[0].step == {"mode": "saga", "undo": "cancel", "takes": {"seat": "s1"}}
    assert ran.steps[1].step == {"mode": "saga", "undo": "release", "retry": Retry(3).to_map()}
    assert ran.steps[2].body == {"why": "no room is left"}
    assert ran.steps[4].step == {"mode": "tcc", "confirm": "confirm", "undo": "cancel"}


async def test_time_and_chance_follow_from_the_record() -> None:
    """Three seconds of steps and a minute of sleep after the beginning, though no time has passed."""
    ran = await replayed(trip, None, answer, gid="g")
    assert ran.steps[3].body == {"at": "2023-11-14T22:14:23+00:00", "draw": Random("g").random()}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda _, n: n, "step 1 was"),
        (lambda _, __: datetime.now(UTC).isoformat(), "step 1 was"),
    ],
)
async def test_a_step_that_asks_for_something_else_the_second_time_is_found(body: Any, says: str) -> None:
    numbers = count()

    @workflow
    async def fickle(tx: Tx, _: Any) -> None:
        await tx.step("airline", "book", body(tx, next(numbers)), undo="cancel")

    with pytest.raises(NotDeterministic, match=says):
        await replayed(fickle, None, answer)


async def test_another_end_the_second_time_is_found() -> None:
    numbers = count()

    @workflow
    async def fickle(tx: Tx, _: Any) -> int:
        await tx.step("airline", "book", undo="cancel")
        if next(numbers) == 1:
            raise ValueError("not again")
        return 1

    with pytest.raises(NotDeterministic, match="ended as 1 steps, raised ValueError"):
        await replayed(fickle, None, answer)


async def test_an_exception_that_comes_every_time_is_what_came_of_it() -> None:
    @workflow
    async def fails(tx: Tx, _: Any) -> None:
        await tx.step("hotel", "reserve", undo="release")

    ran = await replayed(fails, None, answer)
    assert str(ran.raised) == "hotel refused reserve: no room is left"
    assert len(ran.steps) == 1


async def test_a_sleep_is_over_once_a_later_step_is_recorded() -> None:
    """Seen red with a replay that sleeps again before every step."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def ask(_: int, __: Branch) -> Any:
        return _Done

    for recorded, expected in ((0, [1, 2]), (1, [2])):
        slept.clear()
        tx = Tx("g", 0, recorded, ask, sleep)
        await tx.sleep(1)
        await tx.step("airline", "book", undo="cancel")
        await tx.sleep(2)
        assert slept == expected
        assert tx.now() == datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)


class _Done:
    state = "done"
    result = None
    at_ms = 5_000


async def test_after_a_step_that_could_not_be_asked_for_there_is_no_other() -> None:
    async def ask(_: int, __: Branch) -> Any:
        raise Invalid.field("call", "is wrong")

    tx = Tx("g", 0, 0, ask)
    for _ in range(2):
        with pytest.raises(Invalid):
            await tx.step("airline", "book", undo="cancel")
    assert tx.asked == 1


def test_a_workflow_is_called_as_its_function_or_as_is_said() -> None:
    async def code(tx: Tx, given: Any) -> None: ...

    assert workflow(code) == Workflow("code", code)
    assert workflow(name="trip-2")(code) == Workflow("trip-2", code)
    with pytest.raises(Invalid, match="workflow"):
        workflow(name="a b")(code)
