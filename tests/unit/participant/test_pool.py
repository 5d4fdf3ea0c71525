"""Connections to a server: who gets one, and who waits."""

from __future__ import annotations

import asyncio

import pytest

from participant.errors import ResourceBusy
from participant.rm.server.pool import Pool

SOON_S = 0.01


class Connection:
    """`is_lost` is what a test says."""

    def __init__(self) -> None:
        self.is_soiled = False
        self.is_lost = False

    async def is_alive(self) -> bool:
        return not self.is_lost

    def abandon(self) -> None:
        self.is_lost = True

    async def close(self) -> None:
        self.is_lost = True


def pool_of(size: int) -> Pool[Connection]:
    async def connect() -> Connection:
        return Connection()

    return Pool(connect, size)


async def test_an_idle_one_is_there_at_once_and_counts_as_used() -> None:
    pool = pool_of(1)
    pool.release(used := await pool.acquire(SOON_S))
    assert await pool.acquire_idle() is used
    assert await pool.acquire_idle() is None
    with pytest.raises(ResourceBusy):
        await pool.acquire(SOON_S)
    pool.release(used)
    assert await pool.acquire(SOON_S) is used


async def test_none_is_made_for_who_takes_an_idle_one_only() -> None:
    pool = pool_of(2)
    await pool.acquire(SOON_S)
    assert await pool.acquire_idle() is None


async def test_it_is_not_taken_from_under_who_waits_for_it() -> None:
    pool = pool_of(1)
    used = await pool.acquire(SOON_S)
    waiting = asyncio.ensure_future(pool.acquire(10.0))
    await asyncio.sleep(0)
    pool.release(used)
    assert await pool.acquire_idle() is None
    assert await waiting is used


async def test_a_lost_one_is_no_idle_one_and_its_place_is_free() -> None:
    pool = pool_of(1)
    pool.release(used := await pool.acquire(SOON_S))
    used.is_lost = True
    assert await pool.acquire_idle() is None
    assert await pool.acquire(SOON_S) is not used
