"""A service that does step after step and prints each with its answer, until somebody kills it; and what is true then.

Branches with an even number are tried and cancelled, those with an odd one receive a message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Sequence

from participant.barrier import Done, Refused
from participant.errors import ResourceBusy, ResourceUnreachable
from tests.support.barriers import FREE, SHOPS, Shop

__all__ = ["audit", "work"]

AT_ONCE = 4


async def work(shop: Shop, first: int, say: Callable[[str], None]) -> None:
    """For ever, or until the database is gone."""

    async def line(number: int) -> None:
        for each in itertools.count(number, AT_ONCE):
            for kind in ("try", "cancel") if each % 2 == 0 else ("message",):
                try:
                    outcome = await shop.run(f"g{each}", kind)
                except ResourceBusy:
                    break
                if isinstance(outcome, Done):
                    say(f"g{each} {kind} {json.dumps(outcome.result)}")

    try:
        await asyncio.gather(*(line(first + number) for number in range(AT_ONCE)))
    except ResourceUnreachable:
        return


async def audit(shop: Shop, said: Sequence[str]) -> None:
    """Every answer is given again, and each step is done once and whole."""
    last = max(int(line.split()[0][1:]) for line in said) + 2 * AT_ONCE
    for line in said:
        gid, kind, result = line.split(maxsplit=2)
        if kind != "try":
            assert await shop.run(gid, kind) == Done(json.loads(result)), line
    for number in range(1, last):
        await shop.run(f"g{number}", "message" if number % 2 else "cancel")
        if number % 2 == 0:
            assert isinstance(await shop.run(f"g{number}", "try"), Refused)
    free, frozen, _ = await shop.books()
    assert (free, frozen) == (FREE + last // 2, 0)


async def _serve(kind: str, place: str, first: int) -> None:
    async with SHOPS[kind](place).opened(is_new=False) as shop:
        await work(shop, first, lambda line: print(line, flush=True))


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
