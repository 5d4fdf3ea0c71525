"""One round of a sweep: who is asked, who is ended, and what stops whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from participant import sweep as module
from participant.errors import AlreadyOwned, ResourceFailed, ResourceUnreachable
from participant.ids import BranchKey
from participant.outcomes import Outcome
from participant.rm.sweep import Ender, Foreign, InDoubt, Look
from participant.sweep import Fate, Sweep, SweepSettings, Swept
from participant.wire import Answer, BranchState

OLD_S = 100.0


class _Database:
    """Prepared branches by gid, and what was done to them."""

    def __init__(self, *gids: str) -> None:
        self.prepared = list(gids)
        self.done: dict[str, str] = {}
        self.foreign: tuple[Foreign, ...] = ()
        self.age_s = OLD_S
        self.refuses: Exception | None = None  # to be opened for ends
        self.stuck = ""
        self.is_open = False
        self.is_ending = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def look(self) -> Look:
        return Look(tuple(InDoubt(BranchKey(gid, "b"), self.age_s) for gid in self.prepared), self.foreign)

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[Ender]:
        if self.refuses is not None:
            raise self.refuses
        self.is_ending = True
        yield self
        self.is_ending = False

    async def commit(self, key: BranchKey) -> Answer:
        return self._end(key, BranchState.COMMITTED)

    async def abort(self, key: BranchKey) -> Answer:
        return self._end(key, BranchState.ABORTED)

    def _end(self, key: BranchKey, state: BranchState) -> Answer:
        if key.gid == self.stuck:
            return Answer(BranchState.PREPARED, "somebody wrote outside the protocol", retry=True)
        self.done[key.gid] = state.value
        self.prepared.remove(key.gid)
        return Answer(state)


class _Source:
    """Knows outcomes by gid. `database`: nobody may own it while somebody is being asked."""

    def __init__(self, database: _Database, **outcomes: Outcome) -> None:
        self.outcomes = outcomes
        self.inquired: list[str] = []
        self.looked: list[str] = []
        self._database = database

    async def inquire(self, key: BranchKey) -> Outcome | None:
        assert not self._database.is_ending
        self.inquired.append(key.gid)
        return self.outcomes.get(key.gid)

    async def look(self, key: BranchKey) -> Outcome | None:
        self.looked.append(key.gid)
        return self.outcomes.get(key.gid)


async def _swept(database: _Database, source: _Source, settings: SweepSettings | None = None) -> Swept:
    sweep = Sweep({"shop": database}, {"shop": source}, settings or SweepSettings(), lambda: 0.0)
    (swept,) = await sweep.round()
    assert not database.is_open, "it is left in any case"
    return swept


def _fates(swept: Swept) -> dict[str, Fate]:
    return {found.key.gid: found.fate for found in swept.found}


async def test_neither_silence_nor_deciding_ends_a_branch() -> None:
    """Seen red with silence taken for an abort."""
    database = _Database("a", "b", "c", "d")
    source = _Source(database, a=Outcome.COMMITTED, b=Outcome.ABORTED, c=Outcome.DECIDING)
    swept = await _swept(database, source)
    assert _fates(swept) == {"a": Fate.COMMITTED, "b": Fate.ABORTED, "c": Fate.DECIDING, "d": Fate.UNANSWERED}
    assert database.done == {"a": "committed", "b": "aborted"}
    assert not swept.is_well


async def test_nobody_is_asked_about_a_young_branch() -> None:
    """To ask could abort a transaction whose record is on its way."""
    database = _Database("a")
    database.age_s = 1.0
    source = _Source(database, a=Outcome.ABORTED)
    swept = await _swept(database, source)
    assert (_fates(swept), source.inquired, swept.is_well) == ({"a": Fate.YOUNG}, [], True)


async def test_a_dry_run_looks_and_inquires_nothing() -> None:
    database = _Database("a", "b")
    source = _Source(database, a=Outcome.COMMITTED, b=Outcome.ABORTED)
    swept = await _swept(database, source, SweepSettings(is_dry=True))
    assert _fates(swept) == {"a": Fate.WOULD_COMMIT, "b": Fate.WOULD_ABORT}
    assert (database.done, source.inquired) == ({}, [])


@pytest.mark.parametrize(
    ("refuses", "fate"), [(AlreadyOwned("by its participant"), Fate.OWNED), (ResourceFailed("no disk"), Fate.FAILED)]
)
async def test_a_database_that_cannot_be_owned_is_listed_all_the_same(refuses: Exception, fate: Fate) -> None:
    database = _Database("a", "b")
    database.refuses = refuses
    swept = await _swept(database, _Source(database, a=Outcome.COMMITTED))
    assert _fates(swept) == {"a": fate, "b": Fate.UNANSWERED}


async def test_one_branch_that_cannot_be_ended_stops_no_other() -> None:
    database = _Database("a", "b")
    database.stuck = "a"
    swept = await _swept(database, _Source(database, a=Outcome.COMMITTED, b=Outcome.COMMITTED))
    assert _fates(swept) == {"a": Fate.FAILED, "b": Fate.COMMITTED}
    assert swept.found[0].why == "its transaction is committed, and it is prepared: somebody wrote outside the protocol"


@pytest.mark.parametrize(
    ("error", "said"),
    [(ResourceUnreachable("no server"), "no server"), (ZeroDivisionError("a defect"), "ZeroDivisionError: a defect")],
)
async def test_one_database_stops_no_other(error: Exception, said: str) -> None:
    class Broken(_Database):
        async def look(self) -> Look:
            raise error

    broken, well = Broken(), _Database("a")
    sources = {"x": _Source(broken), "y": _Source(well, a=Outcome.ABORTED)}
    sweep = Sweep({"x": broken, "y": well}, sources, SweepSettings(), lambda: 0.0)
    first, second = await sweep.round()
    assert (first.error, first.is_well) == (said, False)
    assert (second.error, second.is_well) == ("", True)


async def test_a_database_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(_Database):
        async def look(self) -> Look:
            await asyncio.sleep(60)
            return Look(())

    monkeypatch.setattr(module, "LOOK_TIMEOUT_S", 0.05)
    silent = Silent()
    assert (await _swept(silent, _Source(silent))).error == "no answer within 0.05 s"


async def test_what_is_foreign_is_an_alarm_by_its_age_only() -> None:
    database = _Database()
    database.foreign = (Foreign("theirs", 299.0),)
    assert (await _swept(database, _Source(database))).is_well
    database.foreign = (Foreign("theirs", 300.0),)
    swept = await _swept(database, _Source(database))
    assert (swept.is_well, [seen.name for seen in swept.foreign_old]) == (False, ["theirs"])
