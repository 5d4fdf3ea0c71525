"""Read points: who shares one, who must not, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pysyncobj import FAIL_REASON

from raftlog.port import Applied, Refusal, Refused, Unknown
from raftlog.reads import Reads

PATIENCE_S = 0.05
APPLIED = 10


def reads() -> Reads:
    return Reads(asyncio.get_running_loop(), PATIENCE_S)


def proposed(reads: Reads) -> Callable[[Any, int], None]:
    return reads.settler(lambda: APPLIED)


async def test_those_who_came_before_the_entry_share_it() -> None:
    some = reads()
    waiting = [some.at_leader() for _ in range(3)]
    assert some.wanted
    settle = proposed(some)
    assert not some.wanted
    settle([], FAIL_REASON.SUCCESS)
    assert [await future for future in waiting] == [Applied(APPLIED, None)] * 3


async def test_who_came_after_the_entry_was_proposed_does_not_share_it() -> None:
    """Something may have been acknowledged in between. Red when `settler` answers all who wait when it is called."""
    some = reads()
    early = some.at_leader()
    settle = proposed(some)
    late = some.at_leader()
    settle([], FAIL_REASON.SUCCESS)
    assert early.done()
    assert not late.done()
    assert some.wanted


async def test_a_point_that_never_entered_the_log_is_not_reached() -> None:
    some = reads()
    waiting = some.at_leader()
    answers: list[int | None] = []
    some.for_follower(answers.append)
    proposed(some)(None, FAIL_REASON.NOT_LEADER)
    assert isinstance(await waiting, Unknown)
    assert answers == [None]


async def test_a_caller_that_gave_up_spoils_nothing_for_the_others() -> None:
    some = reads()
    impatient, patient = some.at_leader(), some.at_leader()
    settle = proposed(some)
    impatient.cancel()
    settle([], FAIL_REASON.SUCCESS)
    assert await patient == Applied(APPLIED, None)


async def test_a_follower_is_told_the_index_of_the_entry() -> None:
    some = reads()
    answers: list[int | None] = []
    some.for_follower(answers.append)
    assert some.wanted
    proposed(some)([], FAIL_REASON.SUCCESS)
    assert answers == [APPLIED]


class Asking:
    """A follower's side."""

    def __init__(self, *, connected: bool = True) -> None:
        self.reads = reads()
        self.requests: list[int] = []
        self.connected = connected

    def ask(self) -> asyncio.Future[Any]:
        return self.reads.at_follower(self._send)

    def _send(self, message: dict[str, Any]) -> bool:
        assert message["type"] == "read_index"
        self.requests.append(message["id"])
        return self.connected


async def test_a_follower_waits_until_it_has_applied_as_far() -> None:
    """Red when `leader_reached` answers at once."""
    follower = Asking()
    future = follower.ask()
    follower.reads.leader_reached(follower.requests[0], 10, applied_index=8)
    follower.reads.applied(9)
    assert not future.done()
    follower.reads.applied(10)
    assert await future == Applied(10, None)


async def test_a_follower_that_is_as_far_answers_at_once() -> None:
    follower = Asking()
    future = follower.ask()
    follower.reads.leader_reached(follower.requests[0], 10, applied_index=10)
    assert await future == Applied(10, None)


async def test_each_question_of_a_follower_is_asked_anew() -> None:
    """The leader's point may lie before the later question. Red when a request on its way is shared."""
    follower = Asking()
    first, second = follower.ask(), follower.ask()
    assert len(set(follower.requests)) == 2
    follower.reads.leader_reached(follower.requests[0], 10, applied_index=10)
    assert first.done()
    assert not second.done()
    follower.reads.end("enough")


async def test_nobody_to_ask_and_nobody_who_leads_is_a_refusal() -> None:
    alone = Asking(connected=False)
    assert await alone.ask() == Refused(Refusal.NOT_LEADER)
    follower = Asking()
    future = follower.ask()
    follower.reads.leader_reached(follower.requests[0], None, applied_index=10)
    assert await future == Refused(Refusal.NOT_LEADER)


async def test_a_leader_that_never_answers_is_waited_for_no_longer_than_that() -> None:
    """And its answer, when it comes at last, is nobody's any more. Red when `_impatient` is not scheduled."""
    follower = Asking()
    future = follower.ask()
    async with asyncio.timeout(2):
        assert isinstance(await future, Unknown)
    follower.reads.leader_reached(follower.requests[0], 10, applied_index=10)
    follower.reads.leader_reached(12_345, 10, applied_index=10)


async def test_nor_is_our_own_application() -> None:
    """The leader answered, and then we were cut off. Red when `_impatient` covers the leader's word only."""
    follower = Asking()
    future = follower.ask()
    follower.reads.leader_reached(follower.requests[0], 10, applied_index=8)
    async with asyncio.timeout(2):
        assert isinstance(await future, Unknown)
    follower.reads.applied(10)


async def test_whoever_waits_at_the_end_is_told() -> None:
    """Red when `end` forgets any of the four places where somebody may wait."""
    follower = Asking()
    some = follower.reads
    answers: list[int | None] = []
    in_log = some.at_leader()
    settle = proposed(some)
    waiting = some.at_leader()
    some.for_follower(answers.append)
    asked, behind = follower.ask(), follower.ask()
    some.leader_reached(follower.requests[1], 10, applied_index=8)
    some.end("the node stopped")
    for future in (in_log, waiting, asked, behind):
        assert future.done()
        assert isinstance(future.result(), Unknown)
    assert answers == [None]
    settle([], FAIL_REASON.SUCCESS)
    some.end("again")
    assert answers == [None]
