"""Many futures, one timer: what is late is cancelled in its own time, and what is forgotten is not heard of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.driver.overdue import Overdue
from tests.support.virtual import virtually

TIMEOUT_S = 5.0


class Scene:
    """`ended` holds what was heard of each future, and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.overdue = Overdue(TIMEOUT_S)
        self.ended: list[tuple[str, object, float]] = []

    def watch(self, name: str, future: asyncio.Future[Any] | None = None) -> asyncio.Future[Any]:
        future = self.loop.create_future() if future is None else future

        def ended(future: asyncio.Future[Any]) -> None:
            result = "cancelled" if future.cancelled() else future.exception() or future.result()
            self.ended.append((name, result, self.loop.time()))

        self.overdue.watch(future, ended)
        return future


def test_what_ends_in_time_is_heard_of_once_with_its_result() -> None:
    async def main() -> None:
        scene = Scene()
        why = ZeroDivisionError()
        first, second = scene.watch("first"), scene.watch("second")
        await asyncio.sleep(1.0)
        second.set_result("done")
        first.set_exception(why)
        await asyncio.sleep(3 * TIMEOUT_S)
        assert scene.ended == [("second", "done", 1.0), ("first", why, 1.0)]

    virtually(main())


def test_what_is_done_already_is_heard_of_too_but_not_in_the_middle_of_the_call() -> None:
    async def main() -> None:
        scene = Scene()
        future = scene.loop.create_future()
        future.set_result("done")
        scene.watch("done", future)
        assert scene.ended == []
        await asyncio.sleep(0)
        assert scene.ended == [("done", "done", 0.0)]

    virtually(main())


def test_each_is_cancelled_after_its_own_time_and_not_with_the_first() -> None:
    """Goal: a late call does not cut the next one short. Seen red with `_ring` cancelling everything."""

    async def main() -> None:
        scene = Scene()
        scene.watch("first")
        await asyncio.sleep(2.0)
        scene.watch("second")
        in_time = scene.watch("in time")
        await asyncio.sleep(1.0)
        scene.watch("third")
        in_time.set_result("done")
        await asyncio.sleep(10 * TIMEOUT_S)
        assert scene.ended == [
            ("in time", "done", 3.0),
            ("first", "cancelled", TIMEOUT_S),
            ("second", "cancelled", 2.0 + TIMEOUT_S),
            ("third", "cancelled", 3.0 + TIMEOUT_S),
        ]
        scene.watch("later")
        await asyncio.sleep(2 * TIMEOUT_S)
        assert [name for name, result, _ in scene.ended if result == "cancelled"][-1] == "later", "it goes on ringing"

    virtually(main())


def test_a_late_task_is_heard_of_when_it_has_really_ended() -> None:
    """Goal: what cleans up after its cancellation is still under way meanwhile."""

    async def slow() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            await asyncio.sleep(1.0)

    async def main() -> None:
        scene = Scene()
        scene.watch("slow", asyncio.ensure_future(slow()))
        await asyncio.sleep(3 * TIMEOUT_S)
        assert scene.ended == [("slow", "cancelled", TIMEOUT_S + 1.0)]

    virtually(main())


def test_all_of_them_cost_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a timeout costs a transaction next to nothing. Seen red with a timer for each future."""

    async def main() -> None:
        scene = Scene()
        timers = 0
        call_at = scene.loop.call_at

        def counted(*args: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(scene.loop, "call_at", counted)
            futures = [scene.watch(str(number)) for number in range(100)]
        assert timers == 1
        for future in futures:
            future.set_result(None)

    virtually(main())


def test_what_is_forgotten_is_cancelled_and_not_heard_of() -> None:
    """Goal: a leader that lost its office hears no echo of its drivers. Seen red without `self._due.clear()`."""

    async def main() -> None:
        scene = Scene()
        futures = [scene.watch("first"), scene.watch("second")]
        assert scene.overdue.forget_all() == futures
        await asyncio.sleep(3 * TIMEOUT_S)
        assert all(future.cancelled() for future in futures)
        assert scene.ended == []
        assert scene.overdue.forget_all() == []

    virtually(main())


def test_an_error_of_what_is_forgotten_is_nobodys_business() -> None:
    """Goal: no complaint about an exception that was never retrieved. Seen red without `future.exception()`."""

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.sleep(100.0)
        except asyncio.CancelledError:
            raise ZeroDivisionError from None

    async def main() -> None:
        scene = Scene()
        scene.watch("failing", asyncio.ensure_future(fails_when_cancelled()))
        await asyncio.sleep(0)
        scene.overdue.forget_all()
        await asyncio.sleep(3 * TIMEOUT_S)
        assert scene.ended == []

    virtually(main())


def test_whoever_is_watched_after_all_were_forgotten_has_its_whole_time() -> None:
    """Goal: the old timer is gone with what it was for. Seen red with one that is cancelled, but kept in mind."""

    async def main() -> None:
        scene = Scene()
        scene.watch("forgotten")
        await asyncio.sleep(2.0)
        scene.overdue.forget_all()
        scene.watch("next")
        await asyncio.sleep(3 * TIMEOUT_S)
        assert scene.ended == [("next", "cancelled", 2.0 + TIMEOUT_S)]

    virtually(main())
