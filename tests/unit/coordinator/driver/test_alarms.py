"""Very many alarms, one timer: each rings once and in its time, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from coordinator.driver.alarms import GRAIN_S, STALE_MAX, Alarms
from tests.support.virtual import virtually


class Scene:
    """`rung` holds what has rung, and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rung: list[tuple[str, float]] = []
        self.alarms = Alarms(lambda name: self.rung.append((name, self.loop.time())))


def played(scene: Callable[[Scene], Any], for_s: float = 100.0) -> list[tuple[str, float]]:
    """What has rung after that time."""

    async def main() -> list[tuple[str, float]]:
        made = Scene()
        await asyncio.sleep(1.0)
        scene(made)
        await asyncio.sleep(for_s)
        return made.rung

    return virtually(main())


def test_each_rings_once_in_its_own_time() -> None:
    """Seen red without `_arm` in `_rang`, and when `set` arms only if there is no timer."""

    def scene(made: Scene) -> None:
        for name, at in (("second", 5.0), ("third", 9.0), ("first", 2.0)):
            made.alarms.set(name, at)

    assert played(scene) == [("first", 2.0), ("second", 5.0), ("third", 9.0)]


def test_an_alarm_may_be_brought_forward_but_not_put_off() -> None:
    """Seen red when `set` overwrites an earlier time, and when an entry rings that `_at` does not confirm."""

    def scene(made: Scene) -> None:
        for at in (5.0, 2.0, 9.0):
            made.alarms.set("a", at)
        made.loop.call_at(3.0, made.alarms.set, "a", 7.0)

    assert played(scene) == [("a", 2.0), ("a", 7.0)]


def test_what_is_cancelled_or_cleared_does_not_ring_and_may_be_set_again() -> None:
    def scene(made: Scene) -> None:
        for name, at in (("a", 2.0), ("b", 3.0), ("c", 4.0)):
            made.alarms.set(name, at)
        made.alarms.cancel("a")
        made.alarms.cancel("nobody")
        made.loop.call_at(3.5, made.alarms.clear)
        made.loop.call_at(3.6, made.alarms.set, "c", 5.0)

    assert played(scene) == [("b", 3.0), ("c", 5.0)]


def test_what_sets_itself_anew_when_it_rings_rings_again() -> None:
    async def main() -> None:
        loop, rung = asyncio.get_running_loop(), []

        def ring(name: str) -> None:
            rung.append(loop.time())
            alarms.set(name, loop.time() + 1.0)

        alarms = Alarms(ring)
        alarms.set("a", 1.0)
        await asyncio.sleep(3.5)
        assert rung == [1.0, 2.0, 3.0]
        alarms.clear()

    virtually(main())


def test_what_is_late_already_rings_in_a_moment() -> None:
    """And alarms that come all the time do not put it off. Seen red when every `set` arms the timer anew."""

    def scene(made: Scene) -> None:
        for step in range(20):
            made.loop.call_at(1.0 + step * GRAIN_S / 4, made.alarms.set, str(step), 0.5 - step / 100)

    rung = played(scene)
    assert len(rung) == 20
    assert rung[0][1] == pytest.approx(1.0 + GRAIN_S)


def test_very_many_cost_few_timers_and_no_more_entries_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an open transaction keeps no timer of its own, and one that has ended keeps next to nothing. Seen red
    without GRAIN_S, and with a queue that is never rebuilt."""
    timers = 0

    def scene(made: Scene) -> None:
        call_at = made.loop.call_at

        def counted(*args: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*args, **options)

        monkeypatch.setattr(made.loop, "call_at", counted)
        dice = Random(1)
        for number in range(10_000):
            made.alarms.set(f"kept {number}", 2.0 + dice.random())
        for number in range(100_000):
            made.alarms.set(f"ended {number}", 50.0)
            made.alarms.cancel(f"ended {number}")
        assert len(made.alarms._queue) <= 2 * 10_000 + STALE_MAX + 2

    rung = played(scene)
    assert len(rung) == 10_000
    assert timers <= 20 + 1 / GRAIN_S
