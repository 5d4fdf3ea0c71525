"""The loop keeps its promises: virtual time, seeded order, death that is final, pauses that end."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator.simulation.loop import Escape, Idle, SimLoop, Stuck
from coordinator.simulation.process import PROCESS, DiskSpeed, ProcessGone
from tests.simulation.scenarios import everything


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    loop = SimLoop(1)
    yield loop
    loop.close()


def test_a_day_of_sleep_takes_no_time(loop: SimLoop) -> None:
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert loop.run_until_complete(main()) == 86_400


def test_timeouts_use_virtual_time(loop: SimLoop) -> None:
    async def main() -> None:
        async with asyncio.timeout(3):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        loop.run_until_complete(main())
    assert loop.time() == 3


def test_an_idle_loop_raises_instead_of_hanging(loop: SimLoop) -> None:
    async def main() -> None:
        await loop.create_future()

    with pytest.raises(Idle):
        loop.run_until_complete(main())


def test_a_loop_that_spins_in_place_raises(loop: SimLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.simulation.loop._TURNS_AT_ONE_INSTANT_MAX", 1_000)

    async def main() -> None:
        loop.call_soon(spin)
        await loop.create_future()

    def spin() -> None:
        loop.call_soon(spin)

    with pytest.raises(Stuck):
        loop.run_until_complete(main())


def _order(seed: int) -> list[str]:
    loop = SimLoop(seed)
    seen: list[str] = []

    async def tick(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(name)

    async def main() -> None:
        await asyncio.gather(*(loop.process(name).spawn(tick(name)) for name in "abcd"))

    loop.run_until_complete(main())
    loop.close()
    return seen


def test_the_seed_draws_the_order_of_what_is_due_at_the_same_instant() -> None:
    assert _order(7) == _order(7)
    assert len({tuple(_order(seed)) for seed in range(10)}) > 5


def test_callbacks_of_one_process_stay_first_in_first_out(loop: SimLoop) -> None:
    """asyncio documents it, and code may rely on it. Broken on purpose by shuffling the whole batch: red."""
    seen: dict[str, list[int]] = {"a": [], "b": []}

    async def submit(name: str) -> None:
        for number in range(50):
            loop.call_soon(seen[name].append, number)

    async def main() -> None:
        await asyncio.gather(loop.process("a").spawn(submit("a")), loop.process("b").spawn(submit("b")))
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert seen == {"a": list(range(50)), "b": list(range(50))}


def test_nothing_of_a_killed_process_ever_runs_again(loop: SimLoop) -> None:
    """Tasks, timers, callbacks, threads: all gone at that instant, without a warning (they are errors here).

    Broken on purpose by running handles of dead processes in `_run_once`: red.
    """
    seen: list[str] = []
    process = loop.process("a")

    async def victim() -> None:
        loop.call_later(2, seen.append, "timer")
        job = loop.run_in_executor(None, seen.append, "thread")
        try:
            loop.call_soon(process.kill)
            await asyncio.sleep(0)
            loop.call_soon(seen.append, "callback")
            await job
        finally:
            loop.call_soon(seen.append, "from a finally")
            await asyncio.sleep(0)
            seen.append("after an await in a finally")

    async def main() -> None:
        process.spawn(victim())
        await asyncio.sleep(10)
        gc.collect()

    loop.run_until_complete(main())
    assert seen == []
    assert loop.failures == []


def test_a_process_may_die_in_the_middle_of_its_own_code(loop: SimLoop) -> None:
    seen: list[str] = []
    process = loop.process("a")

    async def victim() -> None:
        process.kill()
        await asyncio.sleep(0)
        seen.append("survived")

    async def main() -> None:
        with pytest.raises(ProcessGone):
            await process.run(victim())
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert seen == []


def test_a_killed_process_leaves_task_groups_and_open_contexts_quietly(loop: SimLoop) -> None:
    process = loop.process("a")

    async def child() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    async def victim() -> None:
        async with asyncio.TaskGroup() as group, asyncio.timeout(50):
            for _ in range(3):
                group.create_task(child())
            await asyncio.sleep(100)

    async def main() -> None:
        process.spawn(victim())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(200)
        gc.collect()

    loop.run_until_complete(main())
    assert loop.failures == []


def test_a_restart_is_a_new_incarnation(loop: SimLoop) -> None:
    first = loop.process("a")
    with pytest.raises(ValueError, match="still running"):
        loop.process("a")
    first.kill()
    second = loop.process("a")
    assert (first.incarnation, second.incarnation) == (1, 2)


def test_a_paused_process_runs_what_was_due_when_it_is_resumed(loop: SimLoop) -> None:
    """Broken on purpose by dropping the held callbacks: red."""
    ticks: list[float] = []
    process = loop.process("a")

    async def tick() -> None:
        for _ in range(4):
            await asyncio.sleep(1)
            ticks.append(loop.time())

    async def main() -> None:
        task = process.spawn(tick())
        await asyncio.sleep(1.5)
        process.pause()
        await asyncio.sleep(10)
        assert ticks == [1.0]
        process.resume()
        await task

    loop.run_until_complete(main())
    assert ticks == [1.0, 11.5, 12.5, 13.5]


def test_threads_take_virtual_time_and_keep_their_order(loop: SimLoop) -> None:
    done: list[tuple[int, float]] = []
    process = loop.process("a", DiskSpeed(least_s=0.5, mean_s=1.0))

    def job(number: int) -> int:
        done.append((number, loop.time()))
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return number * 2

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            answers = await asyncio.gather(*(loop.run_in_executor(pool, job, number) for number in range(5)))
        assert answers == [0, 2, 4, 6, 8]

    loop.run_until_complete(process.run(main()))
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]
    times = [0.0, *(at for _, at in done)]
    assert all(after - before >= 0.5 for before, after in pairwise(times))


def test_what_a_thread_raises_reaches_the_caller(loop: SimLoop) -> None:
    def job() -> None:
        raise OSError("no space")

    async def main() -> None:
        with pytest.raises(OSError, match="no space"):
            await asyncio.to_thread(job)

    loop.run_until_complete(loop.process("a").run(main()))


def test_children_inherit_their_process(loop: SimLoop) -> None:
    async def grandchild() -> str:
        process = PROCESS.get()
        return process.name if process else "world"

    async def child() -> str:
        return await asyncio.create_task(grandchild())

    async def main() -> None:
        assert await loop.process("a").run(child()) == "a"
        assert await asyncio.create_task(child()) == "world"

    loop.run_until_complete(main())


def test_the_real_world_is_out_of_reach(loop: SimLoop) -> None:
    """Even when the simulated code swallows the exception."""

    async def thread() -> None:
        threading.Thread(target=print).start()

    async def pool() -> None:
        ThreadPoolExecutor(1).submit(print)

    async def open_socket() -> None:
        socket.socket()

    async def look_up() -> None:
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    for attempt in (thread, pool, open_socket, look_up):

        async def main(attempt: object = attempt) -> None:
            try:
                await attempt()
            except BaseException:  # noqa: BLE001
                await asyncio.sleep(1)

        world = SimLoop(1)
        with pytest.raises(Escape):
            world.run_until_complete(main())
        world.close()


_SCRIPT = "from tests.simulation.scenarios import everything; print(everything(5))"


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_a_seed_means_the_same_run_in_every_interpreter(hash_seed: str) -> None:
    """Streams, calls, disks, faults and death together; the trace does not depend on the hashes of strings."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _SCRIPT]
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == everything(5)
    assert run.stdout.strip() != everything(6)
