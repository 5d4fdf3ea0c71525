"""The records of several shards as one list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from coordinator.client.asking import Asking, Patience
from coordinator.client.shards import Shard
from coordinator.wire import TransactionPage, TransactionView

__all__ = ["listed", "merged"]


async def listed(shard: Shard, query: Mapping[str, Any], patience: Patience) -> AsyncGenerator[TransactionView]:
    """The records of one shard, page by page. Raises: Unavailable, Invalid."""
    cursor: str | None = None

    async def way(_: float) -> Shard:
        return shard

    while True:
        asking = Asking(way, patience)
        page = await asking.ask("GET", "/v1/transactions", TransactionPage, query={**query, "cursor": cursor})
        for transaction in page.transactions:
            yield transaction
        if page.cursor is None:
            return
        cursor = page.cursor


async def merged(lists: Sequence[AsyncGenerator[TransactionView]]) -> AsyncGenerator[TransactionView]:
    """Everything in `lists`, each of which is newest first, newest first: by begin, then by gid.

    Raises what the first of them raises that has no beginning, when none of them is being asked any more.
    """
    try:
        begun = await asyncio.gather(*(anext(each, None) for each in lists), return_exceptions=True)
        heads = []
        for head in begun:
            if isinstance(head, BaseException):
                raise head
            heads.append(head)
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
