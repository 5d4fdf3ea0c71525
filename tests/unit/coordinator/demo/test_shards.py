"""The demo with several shards: which leader is struck, what is measured of it, and what the audit looks for."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from coordinator.demo.audit import Evidence, audit
from coordinator.demo.faults import FaultKind, schedule
from coordinator.demo.measures import wait_s
from coordinator.demo.ports import Ports
from coordinator.demo.report import summary
from coordinator.demo.strike import Struck
from coordinator.demo.workload import Heard
from coordinator.shards import shard_of
from coordinator.wire import Outcome
from tests.unit.coordinator.demo.test_report import PAID, RESULT, printed


def test_leaders_of_every_shard_are_struck_sooner_or_later() -> None:
    struck = {
        fault.shard
        for seed in range(20)
        for fault in schedule(2_400, ("bank-a", "bank-b"), Random(seed), shards=3)
        if fault.kind is not FaultKind.KILL_BANK
    }
    assert struck == {0, 1, 2}


def test_the_longest_wait_counts_from_the_fault_and_only_those_that_it_met() -> None:
    """Goal: neither who was done before, nor who began after it was healed, waited because of it."""
    assert wait_s([(0.0, 9.9), (9.0, 12.0), (11.0, 12.5), (20.0, 99.0)], struck_at_s=10.0, healed_at_s=15.0) == 2.0
    assert wait_s([], 10.0, 15.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)).map(sorted).map(tuple)))
def test_no_wait_is_longer_than_from_the_fault_to_the_last_answer(spans: list[tuple[float, float]]) -> None:
    waited = wait_s(spans, 10.0, 15.0)
    assert 0.0 <= waited <= max([end - 10.0 for _, end in spans if end > 10.0], default=0.0)


def test_of_several_shards_a_fault_is_measured_in_the_one_whose_leader_it_struck() -> None:
    """Goal: the shards that go on do not hide the one that waits."""
    other = replace(PAID, line=next(n for n in range(3, 99) if _shard(n) != _shard(PAID.line)))
    heard = (
        Heard(PAID, Outcome.COMMITTED, "", begun_at_s=10.0, ended_at_s=13.0),
        Heard(other, Outcome.COMMITTED, "", begun_at_s=10.0, ended_at_s=10.5),
    )
    struck = (Struck(FaultKind.KILL_LEADER, "n2", 10.0, 12.0, _shard(PAID.line)), *RESULT.struck)
    result = replace(RESULT, heard=heard, struck=struck, shards=2)
    first, second = summary(result)["faults"]
    assert first == {"kind": "kill-leader", "target": "n2", "gap_ms": 3000.0, "shard": _shard(PAID.line)}
    assert second["shard"] is None
    assert f"longest wait in shard {_shard(PAID.line)} after kill-leader n2" in printed(result)


def _shard(line: int) -> int:
    return shard_of(f"line-{line}", 2)


def test_a_record_in_a_shard_that_it_does_not_belong_to_is_found() -> None:
    evidence = Evidence({}, {}, {}, {}, {}, (), strays=("line-2 is recorded in shard 1 of n1",))
    verdict = audit(evidence)
    assert (verdict.ok, verdict.answers_match) == (False, False)
    assert "line-2 is recorded in shard 1 of n1" in verdict.findings


def test_ports_in_a_row_are_in_a_row_and_nobody_elses() -> None:
    ports = Ports()
    try:
        rows = [range(first, first + 4) for first in (ports.take(4) for _ in range(8))]
        assert len({port for row in rows for port in row}) == 32
        assert all(row.stop <= 65_536 for row in rows)
    finally:
        ports.close()


def test_a_row_that_would_go_beyond_the_last_port_is_begun_elsewhere() -> None:
    """Red (OverflowError) when only a port that somebody has is given up for."""
    firsts = [65_535]

    class Last(Ports):
        def _bind(self, wanted: int) -> int:
            return firsts.pop() if firsts and not wanted else super()._bind(wanted)

    ports = Last()
    try:
        assert ports.take(2) <= 65_534
    finally:
        ports.close()
    assert firsts == []
