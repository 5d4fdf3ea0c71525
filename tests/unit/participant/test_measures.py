"""What an engine measures of its branches, with exact times: the clock is an argument."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from participant.branch import Ask
from participant.ids import BranchKey
from participant.resource import PREPARED_BOUNDS_MS, Call, ResourceLimits, ResourceStatus
from participant.rm.engine import Engine
from participant.rm.measures import Measures
from participant.rm.memory import Transaction
from participant.rm.memory.store import MemoryStore
from participant.rm.requests import BranchRequest, Measure

LIMITS = ResourceLimits(lock_wait_s=4, unprepared_limit_s=20, deadlock_wait_s=4)
START_S = 1_000.0  # a loop's clock does not begin with 0


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body["row"], body["by"])


async def get(tx: Transaction, body: Any) -> None:
    await tx.get(body)


def prepare(gid: str, row: str, ask: Ask = Ask.PREPARE) -> BranchRequest:
    return BranchRequest(ask, BranchKey(gid, "b"), Call.of("put", put, {"row": row, "by": gid}))


def ask(what: Ask, gid: str) -> BranchRequest:
    return BranchRequest(what, BranchKey(gid, "b"))


class _Desk:
    """An engine on `disk`; `at` serves requests so many seconds after the first start."""

    def __init__(self, disk: SimDisk, opened_at: float = 0) -> None:
        self.engine = Engine(MemoryStore(disk), LIMITS)
        self.engine.open(START_S + opened_at)

    def at(self, after_s: float, *requests: BranchRequest) -> None:
        self.engine.step([(str(request.key), request) for request in requests], START_S + after_s, 0)

    def status(self, after_s: float) -> ResourceStatus:
        status = dict(self.engine.step([("status", Measure())], START_S + after_s, 0))["status"]
        assert isinstance(status, ResourceStatus)
        return status


def _status(**measured: Any) -> ResourceStatus:
    """Nothing but what is `measured`."""
    nothing: dict[str, Any] = {
        **dict.fromkeys(("prepared", "oldest_prepared_s", "waiting", "working", "decided", "conflicts"), 0),
        "prepared_sum_s": 0.0,
        "prepared_by_ms": (0,) * (len(PREPARED_BOUNDS_MS) + 1),
    }
    return ResourceStatus(**nothing | measured)


def test_the_time_from_the_vote_to_the_decision_is_measured() -> None:
    """Goal: three branches, each with its own time, are counted exactly, whether they commit or abort.

    Seen red with `now` not handed to `Measures.decided` (0 s each), with the oldest taken from the other end, and with
    the call of `decided` moved to where every branch ends (the reader and the commit in one phase were counted, too).
    """
    desk = _Desk(SimDisk())
    assert desk.status(0) == _status()
    desk.at(1, prepare("a", "x"), BranchRequest(Ask.PREPARE, BranchKey("reader", "b"), Call.of("get", get, "z")))
    desk.at(1.5, prepare("b", "y"), prepare("alone", "z", Ask.COMMIT_ONE_PHASE))
    desk.at(2, prepare("a", "x"))  # a repeat does not begin anew
    assert desk.status(3) == _status(prepared=2, oldest_prepared_s=2.0)
    desk.at(3.5, ask(Ask.COMMIT, "a"))
    assert desk.status(3.5) == _status(
        prepared=1, oldest_prepared_s=2.0, decided=1, prepared_sum_s=2.5, prepared_by_ms=(0, 0, 0, 0, 1, 0)
    )
    desk.at(3.75, prepare("c", "x"), ask(Ask.COMMIT, "a"))
    desk.at(4, ask(Ask.ABORT, "c"))
    desk.at(21.5, ask(Ask.ABORT, "b"))
    assert desk.status(22) == _status(decided=3, prepared_sum_s=2.5 + 0.25 + 20, prepared_by_ms=(0, 0, 0, 1, 1, 1))


def test_a_recovered_branch_counts_from_the_start() -> None:
    """Goal: the time that nobody was there is not counted, nor the age of the clock. Seen red with 0.0 for the start:
    the branch was as old as the machine.
    """
    disk = SimDisk()
    before = _Desk(disk)
    before.at(0, prepare("a", "x"))
    before.engine.close()
    after = _Desk(disk, opened_at=100)
    assert after.status(100.5) == _status(prepared=1, oldest_prepared_s=0.5)
    after.at(101, ask(Ask.COMMIT, "a"))
    assert after.status(101) == _status(decided=1, prepared_sum_s=1.0, prepared_by_ms=(0, 0, 0, 1, 0, 0))


def test_who_waits_and_who_works_is_counted_as_it_is_now() -> None:
    """Goal: a wait that ends without a row is a conflict; one that ends with it is none, nor is work that was too slow.

    Seen red with the conflict counted where every no is written.
    """
    desk = _Desk(SimDisk())
    desk.at(0, prepare("a", "x"), prepare("w", "y", Ask.WORK))
    desk.at(0, prepare("b", "x"), prepare("c", "y"))
    assert desk.status(1) == _status(prepared=1, oldest_prepared_s=1.0, waiting=2, working=1)
    desk.at(2, ask(Ask.COMMIT, "a"))
    once = {"decided": 1, "prepared_sum_s": 2.0, "prepared_by_ms": (0, 0, 0, 0, 1, 0)}
    assert desk.status(3) == _status(prepared=1, oldest_prepared_s=1.0, waiting=1, working=1, **once)
    assert desk.status(4) == _status(prepared=1, oldest_prepared_s=2.0, working=1, conflicts=1, **once)
    assert desk.status(20) == _status(prepared=1, oldest_prepared_s=18.0, conflicts=1, **once)


@pytest.mark.parametrize(
    ("prepared_s", "place"),
    [(0.0, "1"), (0.0005, "1"), (1.0, "1000"), (1.0005, "10000"), (10.0, "10000"), (10.25, "more"), (86_400.0, "more")],
)
def test_a_bound_belongs_to_what_is_below_it(prepared_s: float, place: str) -> None:
    """Goal: each time is counted in one place, the first that it does not exceed. Seen red with `bisect_right`."""
    measures = Measures()
    measures.decided(prepared_s)
    by_ms = measures.status(0.0, {}, (), ()).to_map()["prepared_by_ms"]
    assert {bound: branches for bound, branches in by_ms.items() if branches} == {place: 1}
    assert list(by_ms) == ["1", "10", "100", "1000", "10000", "more"]
