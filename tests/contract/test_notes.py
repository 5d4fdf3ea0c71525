"""Every resource manager of ours keeps notes as `participant.notes` says: compared, durable, forgotten in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from participant.ids import BranchKey
from participant.notes import NOTE_BYTES_MAX, NoteKeeper
from participant.rm.manager import EngineManager
from participant.rm.requests import Forget
from participant.rm.server.manager import ServerManager
from participant.testing.subject import ONE, TWO, Bench
from tests.support.databases import place_of
from tests.support.subjects import SUBJECTS

LATER_MS = 2**52


@pytest.fixture(params=SUBJECTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Opens the same data, each time anew."""
    place = place_of(kind, request, tmp_path)

    @asynccontextmanager
    async def open_() -> AsyncIterator[tuple[NoteKeeper, Bench]]:
        async with SUBJECTS[kind](place).open() as bench:
            assert isinstance(bench.manager, NoteKeeper)
            yield bench.manager, bench

    return open_


async def forget(manager: Any) -> None:
    """What is finished, whenever that was."""
    manager = getattr(manager, "_resource", manager)
    if isinstance(manager, EngineManager):
        await manager._ask(Forget(LATER_MS, 1_000))
    else:
        assert isinstance(manager, ServerManager)
        await manager._backend.forget(LATER_MS, 1_000)


async def test_a_note_is_written_where_there_was_the_expected_one_only(opened: Callable[[], Any]) -> None:
    """Seen red with the comparison taken out."""
    async with opened() as (notes, _):
        assert await notes.note(ONE) is None
        assert not await notes.swap_note(ONE, b"first", b"second"), "there is none yet"
        assert await notes.swap_note(ONE, None, b"first")
        assert not await notes.swap_note(ONE, None, b"other"), "there is one"
        assert not await notes.swap_note(ONE, b"other", b"third")
        assert await notes.swap_note(ONE, b"first", b"second")
        assert await notes.note(ONE) == b"second"
        assert await notes.note(TWO) is None


async def test_of_many_that_expect_the_same_one_wins(opened: Callable[[], Any]) -> None:
    async with opened() as (notes, _):
        for expected in (None, b"0"):
            texts = [b"0"] if expected is None else [b"%d" % number for number in range(1, 6)]
            won = await asyncio.gather(*(notes.swap_note(ONE, expected, text) for text in texts))
            assert sum(won) == 1
            assert await notes.note(ONE) == texts[won.index(True)]


async def test_a_note_survives_a_restart(opened: Callable[[], Any]) -> None:
    """Whatever bytes are in it, up to its limit."""
    long = bytes(range(256)) * (NOTE_BYTES_MAX // 256)
    async with opened() as (notes, _):
        assert await notes.swap_note(ONE, None, b"")
        assert await notes.swap_note(TWO, None, b"\0\xff'\"\\")
        assert await notes.swap_note(TWO, b"\0\xff'\"\\", long, is_finished=True)
    async with opened() as (notes, _):
        assert await notes.note(ONE) == b""
        assert await notes.note(TWO) == long


async def test_only_a_finished_note_is_forgotten(opened: Callable[[], Any]) -> None:
    """Seen red with `is_finished` not asked for."""
    async with opened() as (notes, bench):
        await notes.swap_note(ONE, None, b"open")
        await notes.swap_note(TWO, None, b"finished", is_finished=True)
        await forget(bench.manager)
        assert await notes.note(ONE) == b"open"
        assert await notes.note(TWO) is None
    async with opened() as (notes, _):
        assert await notes.note(ONE) == b"open"
        assert await notes.note(TWO) is None, "nor does it come back"


async def test_a_note_is_free_while_its_branch_is_prepared(opened: Callable[[], Any]) -> None:
    """It is no part of the branch's transaction, which keeps its own rows from everybody."""
    async with opened() as (notes, bench):
        await bench.set("row", 5)
        key = BranchKey("gid-1", "b")
        await notes.swap_note(key, None, b"before")
        assert (await bench.manager.prepare(key, bench.add("row", 1))).state == "prepared"
        assert await notes.swap_note(key, b"before", b"while")
        assert (await bench.manager.commit(key)).state == "committed"
        assert await notes.note(key) == b"while"
