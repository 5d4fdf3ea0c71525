"""The abort of a prepared branch on a database server: at no moment may a late request take it for an unknown one.

The schedule, from `tests/traces/path_changes_after_a_vote.txt`: a branch voted yes on the classic path, its coordinator
died, and the next one asks it to commit in one phase, while it hears from the record that it is aborted. If the process
dies between the rollback and the row that remembers it, the late commit must still be refused: the caller was told
"aborted".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from participant.ids import BranchKey
from participant.resource import Call
from participant.testing.subject import Bench, Subject
from participant.wire import BranchState
from tests.support.databases import place_of
from tests.support.subjects import SUBJECTS

BRANCH = BranchKey("gid-1", "b")


@pytest.fixture(params=["postgres", "postgres-serializable", "mariadb", "mariadb-serializable"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    kind = str(request.param)
    return SUBJECTS[kind](place_of(kind, request, tmp_path))


@pytest.fixture
async def survivor(subject: Subject) -> AsyncIterator[Bench]:
    """Another process on the same database, which knows nothing of the branch."""
    async with subject.open() as bench:
        await bench.set("x", 10)
        yield bench


async def _abort_and_die(subject: Subject, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare and abort in a process that dies as soon as its backend has done what `after` names."""
    dead = asyncio.Event()
    async with subject.open() as dying:
        prepared = await dying.manager.prepare(BRANCH, dying.add("x", -3))
        assert prepared.state is BranchState.PREPARED
        backend = _backend_of(dying)
        step = getattr(backend, after)

        async def last(*arguments: Any) -> None:
            await step(*arguments)
            dead.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(backend, after, last)
        aborting = asyncio.ensure_future(dying.manager.abort(BRANCH))
        await dead.wait()
        aborting.cancel()
        await asyncio.wait({aborting})


def _backend_of(bench: Bench) -> Any:
    return vars(bench.manager)["_backend"]


async def test_a_commit_in_one_phase_comes_too_late_between_the_rollback_and_its_row(
    subject: Subject, survivor: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with `doom` left out of `ServerManager`, and with the second row left out of the vote: it committed."""
    await _abort_and_die(subject, "finish", monkeypatch)
    answer = await survivor.manager.commit_one_phase(BRANCH, survivor.add("x", -3))
    assert answer.state is BranchState.ABORTED
    assert await survivor.value("x") == 10


async def test_so_does_one_that_had_begun_before_the_abort(
    subject: Subject, survivor: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction sees the rows of that time, so a look at the rows would not do. (MariaDB lets none begin.)

    Seen red on PostgreSQL with the second row left out of the vote.
    """
    is_at_work, is_rolled_back = asyncio.Event(), asyncio.Event()

    async def quickly(tx: Any, _: Any) -> None:
        await subject.put(tx, {"key": "y", "value": 1})

    async def slowly(tx: Any, _: Any) -> None:
        await subject.get(tx, {"key": "x"})
        is_at_work.set()
        await is_rolled_back.wait()
        await subject.put(tx, {"key": "z", "value": 1})

    async def settle(*_arguments: Any, **_options: Any) -> bool:
        is_rolled_back.set()
        await asyncio.Event().wait()
        return True

    async with subject.open() as dying:
        prepared = await dying.manager.prepare(BRANCH, Call.of("act", quickly, None))
        assert prepared.state is BranchState.PREPARED
        monkeypatch.setattr(_backend_of(dying), "settle", settle)
        late = asyncio.ensure_future(survivor.manager.commit_one_phase(BRANCH, Call.of("act", slowly, None)))
        begun = asyncio.ensure_future(is_at_work.wait())
        await asyncio.wait({late, begun}, return_when=asyncio.FIRST_COMPLETED)
        aborting = asyncio.ensure_future(dying.manager.abort(BRANCH))
        answer = await late
        for waiting in (begun, aborting):
            waiting.cancel()
        await asyncio.wait({begun, aborting})
    assert answer.state in (BranchState.ABORTED, BranchState.PREPARED)
    assert await survivor.value("z") is None


async def test_the_branch_is_aborted_from_the_rollback_on(
    subject: Subject, survivor: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks finds it aborted, and has its row written: a late prepare is refused from then on."""
    await _abort_and_die(subject, "finish", monkeypatch)
    assert (await survivor.manager.outcome(BRANCH)).state is BranchState.ABORTED
    assert (await survivor.manager.prepare(BRANCH, survivor.add("x", -3))).state is BranchState.ABORTED
    assert (await survivor.manager.abort(BRANCH)).state is BranchState.ABORTED
    assert await survivor.manager.in_doubt() == []


async def test_before_the_rollback_it_is_prepared_and_can_be_ended(
    subject: Subject, survivor: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abort that was begun binds nobody: it was not answered."""
    await _abort_and_die(subject, "doom", monkeypatch)
    assert (await survivor.manager.outcome(BRANCH)).state is BranchState.PREPARED
    assert await survivor.manager.in_doubt() == [BRANCH]
    assert (await survivor.manager.commit_one_phase(BRANCH, survivor.add("x", -3))).state is BranchState.PREPARED
    assert (await survivor.manager.abort(BRANCH)).state is BranchState.ABORTED
    assert (await survivor.manager.outcome(BRANCH)).state is BranchState.ABORTED
    assert await survivor.value("x") == 10
