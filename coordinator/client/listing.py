"""The records of several shards as one list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from coordinator.wire import TransactionView

__all__ = ["merged"]


async def merged(lists: Sequence[AsyncGenerator[TransactionView]]) -> AsyncGenerator[TransactionView]:
    """Everything in `lists`, each of which is newest first, newest first: by begin, then by gid."""
    try:
        heads = list(await asyncio.gather(*(anext(each, None) for each in lists)))
        while any(head is not None for head in heads):
            position, head = max(enumerate(heads), key=_age)
            if head is not None:
                yield head
            heads[position] = await anext(lists[position], None)
    finally:
        for each in lists:
            await each.aclose()


def _age(entry: tuple[int, TransactionView | None]) -> tuple[int, str]:
    head = entry[1]
    return (-1, "") if head is None else (head.begun_at_ms, head.gid)
