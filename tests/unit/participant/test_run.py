"""A request that runs an action on a server, and its end by others."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from participant.branch import Ask
from participant.errors import Reject
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.requests import BranchRequest
from participant.rm.server import run as module
from participant.rm.server.backend import Backend, Unit
from participant.rm.server.run import Run
from participant.wire import Answer


async def test_an_action_that_forgets_that_it_was_cancelled_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `asyncio.wait_for` makes it do until Python 3.12. Seen red: its end waited for it for ever."""
    monkeypatch.setattr(module, "CANCEL_AGAIN_S", 0.01)
    told, begun = 0, asyncio.Event()

    class Forgetful:
        async def run(self, _: Call) -> Any:
            nonlocal told
            begun.set()
            while told < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    told += 1

    call = Call.of("do", print, None)
    run = Run(
        BranchRequest(Ask.PREPARE, BranchKey("g", "b"), call), cast("Backend", None), ResourceLimits(), lambda _: None
    )
    run.task = asyncio.create_task(cast("Any", run.act(cast("Unit", Forgetful()), call)))
    await begun.wait()
    run.interrupt(Reject("aborted by its coordinator"))
    answer: asyncio.Future[Answer] = run.join()
    with pytest.raises(Reject, match="aborted by its coordinator"):
        await asyncio.wait_for(answer, 5.0)
    assert told == 3
