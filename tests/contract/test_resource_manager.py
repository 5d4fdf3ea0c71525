"""Every resource manager of ours keeps the public contract, and what it answered when its process was killed."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from participant.testing import CHECKS, Check
from tests.support.databases import place_of
from tests.support.promise_table import KILL
from tests.support.subjects import SUBJECTS

Seen: TypeAlias = Callable[[str], None]


@pytest.fixture(params=SUBJECTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a resource manager of this kind keeps its data, empty."""
    return place_of(kind, request, tmp_path)


@pytest.fixture
def seen(kind: str, record_property: Callable[[str, object], None]) -> Seen:
    """Say which promise a test is about, for the page of promises (`conftest.py`)."""

    def say(promise: str) -> None:
        record_property("promise", promise)
        record_property("kind", kind)

    return say


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(kind: str, check: Check, place: str, seen: Seen) -> None:
    """Each check was seen red with the rule of the table, or the line of the engine, that it is about taken out."""
    seen(check.__name__.replace("_", " "))
    await check(SUBJECTS[kind](place))


async def test_a_yes_survives_kill_9(kind: str, place: str, seen: Seen) -> None:
    """A process prepares as fast as it can and is killed at three moments; every yes that it said is found again.

    Seen red with `commit` of the store taken out of the engine's step (nothing was written at all).
    """
    seen(KILL)
    said: set[str] = set()
    for seed in range(3):
        said |= await _prepare_until_killed(kind, place, lines=random.Random(seed).randint(20, 200))
    async with SUBJECTS[kind](place).open() as bench:
        found = {key.gid for key in await bench.manager.in_doubt()}
        assert said <= found
        assert len(said) > 60
        for key in await bench.manager.in_doubt():
            assert (await bench.manager.commit(key)).state == "committed"
        assert await bench.value("row-0") == 0


async def _prepare_until_killed(kind: str, place: str, *, lines: int) -> set[str]:
    """What the process had said when it was killed, which is a little more than `lines` lines."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.prepare_for_ever", kind, place),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    said = [await process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest = await process.stdout.read()
    await process.wait()
    whole = b"".join(said) + rest[: rest.rfind(b"\n") + 1]
    return set(whole.decode().split())
