"""Scenes about time, without waiting for it: they run on the simulator's loop, whose clock is virtual."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from coordinator.simulation.loop import SimLoop

__all__ = ["virtually"]

DAY_S = 86_400.0

_T = TypeVar("_T")


def virtually(scene: Coroutine[Any, Any, _T]) -> _T:
    """Play the scene. What fails in a callback of the loop fails here, too, and so does what takes more than a day."""
    loop = SimLoop(1)
    try:
        playing = loop.create_task(scene)
        loop.call_later(DAY_S, playing.cancel)
        played: _T = loop.run_until_complete(playing)
    finally:
        loop.close()
    assert loop.failures == []
    return played
