"""Work in lanes: in order within a lane, and lanes beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TypeVar

__all__ = ["in_lanes"]

_T = TypeVar("_T")


async def in_lanes(
    items: Iterable[_T], lane_of: Callable[[_T], Hashable], work: Callable[[_T], Awaitable[bool]], at_once_max: int
) -> None:
    """Do `work` for each item, one after the other in each lane; the rest of a lane is left out after a False.

    Raises what `work` has raised first; the other lanes are given up then.
    """
    lanes: dict[Hashable, list[_T]] = {}
    for item in items:
        lanes.setdefault(lane_of(item), []).append(item)
    places = asyncio.Semaphore(at_once_max)

    async def run(lane: list[_T]) -> None:
        for item in lane:
            async with places:
                if not await work(item):
                    return

    try:
        async with asyncio.TaskGroup() as group:
            for lane in lanes.values():
                group.create_task(run(lane))
    except ExceptionGroup as raised:
        raise raised.exceptions[0] from None
