"""Tasks that are told to end."""

from __future__ import annotations

import asyncio

import pytest

from participant import ending


async def test_what_forgets_that_it_was_told_to_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader of Redis did, whose library waits with `asyncio.wait_for`. Seen red: the service never ended."""
    monkeypatch.setattr(ending, "CANCEL_AGAIN_S", 0.01)
    told = 0

    async def forgetful() -> None:
        nonlocal told
        while told < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told += 1

    async def failing() -> None:
        raise OSError("the disk is full")

    tasks = [asyncio.create_task(forgetful()), asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await ending.ended(tasks)
    assert told == 3
    assert [task.cancelled() for task in tasks] == [False, True, False]
