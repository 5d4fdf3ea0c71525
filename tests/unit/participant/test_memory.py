"""The memory store: its journal survives kill -9 and power cuts, at every single operation on the disk."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from coordinator.simulation.disk import PowerCut, SimDisk
from participant.branch import Ask
from participant.errors import ActionError, AlreadyOwned, Reject, ResourceFailed, WireError
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm import manager
from participant.rm.engine import Engine
from participant.rm.memory import Memory, Transaction, journal
from participant.rm.memory.store import MemoryStore
from participant.rm.requests import BranchRequest, Forget, ListInDoubt, Read
from participant.wire import Answer, BranchState

LIMITS = ResourceLimits()


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body["key"], body["value"])


async def total(tx: Transaction, _: Any) -> int:
    return sum([await tx.get(key) for key in await tx.keys()])


def _open(disk: SimDisk) -> Engine:
    engine = Engine(MemoryStore(disk), LIMITS)
    engine.open(0.0)
    return engine


def _ask(engine: Engine, *requests: Any) -> list[Any]:
    """Serve requests in one batch; the results in the order of the requests."""
    results = dict(engine.step(list(enumerate(requests)), 0.0, 1_000))
    return [results[i] for i in range(len(requests))]


def _prepare(number: int) -> BranchRequest:
    call = Call.of("put", put, {"key": f"k{number}", "value": 1})
    return BranchRequest(Ask.PREPARE, BranchKey(f"g{number}", "b"), call)


def _run(engine: Engine, said: dict[tuple[str, Ask], Answer]) -> None:
    """Prepare and commit a few branches, noting each answer when it is given."""
    for number in range(4):
        for request in (_prepare(number), BranchRequest(Ask.COMMIT, BranchKey(f"g{number}", "b"))):
            said[request.key.gid, request.ask] = _ask(engine, request)[0]


def _check(disk: SimDisk, said: dict[tuple[str, Ask], Answer]) -> None:
    """Everything that was said is true after recovery, and of what was not said nothing is half true."""
    engine = _open(disk)
    committed = 0
    for number in range(4):
        key = BranchKey(f"g{number}", "b")
        state = _ask(engine, BranchRequest(Ask.OUTCOME, key))[0].state
        if (key.gid, Ask.COMMIT) in said:
            assert state is BranchState.COMMITTED
        elif (key.gid, Ask.PREPARE) in said:
            assert state in (BranchState.PREPARED, BranchState.COMMITTED)
        committed += state is BranchState.COMMITTED
    assert _ask(engine, Read(Call.of("total", total, None)))[0] == committed


def test_what_was_answered_survives_a_power_cut_at_every_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is repeated with the power cut before its 1st, 2nd, … operation on the disk, checkpoints included.

    Seen red with the write in `MemoryStore.commit` taken out, and with the sync in the write-ahead log taken out.
    """
    monkeypatch.setattr(journal, "CHECKPOINT_BYTES_MIN", 300)
    whole = SimDisk()
    _run(_open(whole), {})
    assert whole.operations > 20
    for operation in range(whole.operations):
        disk, said = SimDisk(), {}
        disk.crash_at(operation)
        with pytest.raises(PowerCut):
            _run(_open(disk), said)
        for seed in range(10):
            _check(disk.crash(random.Random(seed)), said)


def test_what_was_answered_survives_kill_9() -> None:
    disk, said = SimDisk(), {}
    _run(_open(disk), said)
    _check(disk.kill(), said)


def test_a_batch_is_one_forced_write() -> None:
    disk = SimDisk()
    engine = _open(disk)
    before = disk.syncs
    _ask(engine, *(_prepare(number) for number in range(50)))
    assert disk.syncs == before + 1
    _ask(engine, BranchRequest(Ask.OUTCOME, BranchKey("g1", "b")), ListInDoubt())
    assert disk.syncs == before + 1, "and what changes nothing forces nothing"


async def test_a_failed_sync_answers_nobody_and_ends_the_resource_manager() -> None:
    """After a failed sync nobody knows what is on the disk, so nothing is said and nothing is tried again."""
    disk = SimDisk()
    memory = Memory(disk)
    await memory.open()
    disk.fail_next_sync()
    for gid in ("a", "b"):
        with pytest.raises(ResourceFailed, match="must be restarted"):
            await memory.prepare(BranchKey(gid, "b"), Call.of("put", put, {"key": "k", "value": 1}))
    assert isinstance(await memory.failed(), ResourceFailed)
    await memory.close()


async def test_two_processes_cannot_own_one_directory(tmp_path: Path) -> None:
    """Red when `MemoryStore.open` does not claim its disk, and when a refused one lets the owner's claim go."""
    owner = Memory(tmp_path)
    await owner.open()
    for _ in range(2):
        with pytest.raises(AlreadyOwned, match="in use by another process"):
            await Memory(tmp_path).open()
    await owner.close()
    heir = Memory(tmp_path)
    await heir.open()
    await heir.close()


def test_a_checkpoint_keeps_rows_branches_and_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "CHECKPOINT_BYTES_MIN", 1)
    disk = SimDisk()
    engine = _open(disk)
    _ask(engine, *(_prepare(number) for number in range(3)))
    _ask(engine, BranchRequest(Ask.COMMIT, BranchKey("g0", "b")))
    assert len(disk.names()) == 1
    engine = _open(disk.kill())
    assert _ask(engine, ListInDoubt())[0] == [BranchKey("g1", "b"), BranchKey("g2", "b")]
    _ask(engine, BranchRequest(Ask.COMMIT, BranchKey("g1", "b")))
    assert _ask(engine, Read(Call.of("total", total, None)))[0] == 2
    again = BranchRequest(Ask.PREPARE, BranchKey("g9", "b"), _prepare(2).call)
    assert engine.step([("again", again)], 0.0, 1_000) == [], "the row of g2 is locked, so this one waits"


def test_finished_branches_are_forgotten_in_time_and_prepared_ones_never() -> None:
    disk = SimDisk()
    engine = _open(disk)
    _ask(engine, *(_prepare(number) for number in range(3)))
    for number in (0, 1):
        _ask(engine, BranchRequest(Ask.COMMIT, BranchKey(f"g{number}", "b")))
    assert _ask(engine, Forget(before_ms=1_000, branches_max=10)) == [0], "not old enough"
    assert _ask(engine, Forget(before_ms=1_001, branches_max=1)) == [1], "not too many at once"
    assert _ask(engine, Forget(before_ms=1_001, branches_max=10)) == [1]
    for engine_now in (engine, _open(disk.kill())):
        states = _ask(engine_now, *(BranchRequest(Ask.OUTCOME, BranchKey(f"g{n}", "b")) for n in range(3)))
        assert [answer.state for answer in states] == ["unknown", "unknown", "prepared"]


async def test_forgetting_keeps_up_with_whatever_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with one batch at each interval: past 500 branches a second, the table grew for ever."""
    monkeypatch.setattr(manager, "FORGET_INTERVAL_S", 0.1)
    monkeypatch.setattr(manager, "FORGET_BRANCHES_MAX", 1)
    clock = itertools.count(0, 10**6)
    memory = Memory(SimDisk(), limits=ResourceLimits(retention_s=1), wall_ms=lambda: next(clock))
    keys = [BranchKey(f"g{number}", "b") for number in range(100)]
    await memory.open()
    await asyncio.gather(*(memory.abort(key) for key in keys))
    async with asyncio.timeout(5):  # a hundred intervals are ten seconds
        while any([(await memory.outcome(key)).state is not BranchState.UNKNOWN for key in keys]):
            pass
    await memory.close()


def test_a_transaction_sees_its_own_changes_and_hands_out_copies() -> None:
    async def story(tx: Transaction, _: Any) -> list[str]:
        await tx.put("a", {"n": [1]})
        value = await tx.get("a")
        value["n"].append(2)
        assert await tx.get("a") == {"n": [1]}
        await tx.put("b", 1)
        await tx.delete("b")
        await tx.delete("never")
        assert await tx.get("b") is None
        return await tx.keys()

    engine = _open(SimDisk())
    request = BranchRequest(Ask.WORK, BranchKey("g", "b"), Call.of("story", story, None))
    assert _ask(engine, request) == [Answer(BranchState.WORKING, result=["a"])]


def test_a_write_that_changes_nothing_is_none() -> None:
    engine = _open(SimDisk())
    _ask(engine, _prepare(1))
    _ask(engine, BranchRequest(Ask.COMMIT, BranchKey("g1", "b")))
    again = BranchRequest(Ask.PREPARE, BranchKey("g2", "b"), _prepare(1).call)
    assert _ask(engine, again)[0].state is BranchState.READ_ONLY


@pytest.mark.parametrize(("key", "value"), [("", 1), ("k" * 513, 1), (7, 1), ("k", None), ("k", {1, 2}), ("k", 2**80)])
def test_what_cannot_be_kept_is_refused_where_it_is_put(key: Any, value: Any) -> None:
    async def bad(tx: Transaction, _: Any) -> None:
        with pytest.raises((ActionError, WireError)):
            await tx.put(key, value)
        raise Reject("as expected")

    request = BranchRequest(Ask.PREPARE, BranchKey("g", "b"), Call.of("bad", bad, None))
    assert _ask(_open(SimDisk()), request)[0].reason == "as expected"


def test_a_tx_is_of_no_use_after_its_action() -> None:
    kept: list[Transaction] = []

    async def keep(tx: Transaction, _: Any) -> None:
        kept.append(tx)

    async def misuse(_: Transaction, __: Any) -> None:
        await kept[0].put("k", 1)

    engine = _open(SimDisk())
    _ask(engine, BranchRequest(Ask.PREPARE, BranchKey("g", "1"), Call.of("keep", keep, None)))
    answer = _ask(engine, BranchRequest(Ask.PREPARE, BranchKey("g", "2"), Call.of("misuse", misuse, None)))[0]
    assert "after the action had ended" in answer.reason


def test_a_journal_of_somebody_else_is_refused() -> None:
    disk = SimDisk()
    _open(disk)
    name = disk.names()[0]
    disk.flip_bit(name, 30)
    with pytest.raises(ResourceFailed):
        _open(disk.kill())


async def test_an_open_that_is_given_up_gives_the_data_back(tmp_path: Path) -> None:
    """The thread may have opened it by then. Red when only the thread is ended: nobody could open it any more."""
    opening = asyncio.ensure_future(Memory(tmp_path / "data").open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    again = Memory(tmp_path / "data")
    await again.open()
    await again.close()
