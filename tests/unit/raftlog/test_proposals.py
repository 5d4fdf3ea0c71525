"""Proposals between their callers and the core: which outcome each may be given, and how many may wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pysyncobj import FAIL_REASON

from raftlog import proposals as proposals_module
from raftlog.core import RaftCore
from raftlog.machine import COMMAND_BYTES_MAX, Applier
from raftlog.port import Applied, Member, Refusal, Refused, Unknown
from raftlog.proposals import Proposals

AWAY = Refused(Refusal.NOT_LEADER)


class Echo:
    """Answers with the command."""

    def apply(self, _index: int, command: bytes) -> bytes:
        return command

    def snapshot(self) -> list[bytes]:
        return []

    def restore(self, _chunks: Any) -> None:
        """Nothing to restore."""


class Core:
    """Keeps what is proposed; `settle` says what became of it."""

    leader = "n2"

    def __init__(self) -> None:
        self.applied_index = 0
        self.entries: list[tuple[bytes, Callable[[Any, int], None]]] = []

    def propose(self, entry: bytes, proposed: Callable[[Any, int], None]) -> None:
        self.entries.append((entry, proposed))

    def propose_member(self, _member: Member, *, add: bool, proposed: Callable[[Any, int], None]) -> None:
        self.entries.append((b"", proposed))

    def settle(self, reason: int = FAIL_REASON.SUCCESS) -> None:
        for entry, proposed in self.entries:
            self.applied_index += 1
            applied = Applier(Echo()).apply(self.applied_index, entry) if entry else None
            proposed(applied if reason == FAIL_REASON.SUCCESS else None, reason)
        self.entries.clear()


def made() -> tuple[Proposals, Core]:
    core = Core()
    typed: RaftCore = core  # type: ignore[assignment]
    return Proposals(asyncio.get_running_loop(), typed), core


async def test_proposals_share_an_entry_and_each_gets_its_own_result() -> None:
    """Red when the results are handed out in another order."""
    proposals, core = made()
    futures = [proposals.add(b"%d" % number, None) for number in range(5)]
    assert core.entries == []
    proposals.submit()
    assert len(core.entries) == 1
    core.settle()
    assert [await future for future in futures] == [Applied(1, b"%d" % number) for number in range(5)]


async def test_what_does_not_fit_one_entry_goes_into_the_next() -> None:
    """Red when `submit` takes one batch only."""
    proposals, core = made()
    futures = [proposals.add(bytes(COMMAND_BYTES_MAX), None) for _ in range(5)]
    proposals.submit()
    assert len(core.entries) == 5, "two of the largest do not fit"
    core.settle()
    assert [(await future).index for future in futures] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]


async def test_what_only_waits_is_refused_and_what_is_in_the_log_is_unknown() -> None:
    """When office is lost. Red when both are answered alike."""
    proposals, core = made()
    in_log = proposals.add(b"in the log", None)
    member = proposals.add_member(Member("n4", "h:1"), add=True)
    proposals.submit()
    waiting = proposals.add(b"waiting", None)
    proposals.give_up("leadership was lost", AWAY)
    assert await in_log == Unknown("leadership was lost")
    assert await member == Unknown("leadership was lost")
    assert await waiting == AWAY
    core.settle()
    assert await in_log == Unknown("leadership was lost"), "an outcome does not change"
    proposals.submit()
    assert core.entries == [], "what was refused must not be proposed after all"


async def test_what_the_core_turns_away_never_was_in_the_log() -> None:
    proposals, core = made()
    future = proposals.add(b"x", None)
    proposals.submit()
    core.settle(FAIL_REASON.NOT_LEADER)
    assert await future == Refused(Refusal.NOT_LEADER, "n2")
    member = proposals.add_member(Member("n4", "h:1"), add=True)
    core.settle(FAIL_REASON.REQUEST_DENIED)
    assert await member == Refused(Refusal.DENIED, "n2")


@pytest.mark.parametrize("bound", ["PROPOSALS_WAITING_MAX", "PROPOSALS_WAITING_BYTES_MAX"])
async def test_no_more_waits_than_the_bounds_allow(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """And once it is in the log there is room again. Red when either bound is not asked, or not given back."""
    proposals, core = made()
    monkeypatch.setattr(proposals_module, bound, 30)
    futures = [proposals.add(b"x", None) for _ in range(40)]
    refused = [future for future in futures if future.done()]
    assert [await future for future in refused] == [Refused(Refusal.OVERLOADED)] * 10
    proposals.submit()
    assert not proposals.add(b"x", None).done()
    proposals.give_up("", AWAY)
    assert not proposals.add(bytes(20), None).done()
    assert core.entries


async def test_a_caller_that_gave_up_is_answered_no_more() -> None:
    proposals, core = made()
    gone, there = proposals.add(b"1", None), proposals.add(b"2", None)
    proposals.submit()
    gone.cancel()
    core.settle()
    assert await there == Applied(1, b"2")
