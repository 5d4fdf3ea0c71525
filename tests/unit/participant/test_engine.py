"""The engine, step by step: what is parked, what is served, and when it wants to be woken. No event loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from participant.branch import Ask
from participant.errors import BranchConflict, Reject
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.engine import Engine
from participant.rm.memory import Transaction
from participant.rm.memory.store import MemoryStore
from participant.rm.requests import BranchRequest
from participant.wire import CONFLICT, Answer, BranchState

LIMITS = ResourceLimits(lock_wait_s=3, unprepared_limit_s=20, deadlock_wait_s=1.5)


async def put(tx: Transaction, body: Any) -> None:
    for key, value in body.items():
        await tx.put(key, value)


async def follow(tx: Transaction, _: Any) -> None:
    """Write to the key that another key points to."""
    await tx.put(await tx.get("pointer"), "followed")


def prepare(gid: str, **values: Any) -> BranchRequest:
    return BranchRequest(Ask.PREPARE, BranchKey(gid, "b"), Call.of("put", put, values))


def work(gid: str, seq: int, **values: Any) -> BranchRequest:
    return BranchRequest(Ask.WORK, BranchKey(gid, "b"), Call.of("put", put, values), seq)


def ask(what: Ask, gid: str) -> BranchRequest:
    return BranchRequest(what, BranchKey(gid, "b"))


@dataclass(eq=False)
class _Caller:
    asks: str
    has_gone: bool = False


class _Desk:
    """An engine whose requests are known by their gid and ask; `step` gives the states that were answered."""

    def __init__(self, limits: ResourceLimits = LIMITS) -> None:
        self.callers: list[_Caller] = []
        self.engine = Engine(MemoryStore(SimDisk()), limits, is_awaited=lambda caller: not caller.has_gone)
        self.engine.open(0.0)

    def step(self, *requests: BranchRequest, now: float = 0) -> dict[str, Any]:
        tickets = [(_Caller(f"{request.key.gid} {request.ask}"), request) for request in requests]
        self.callers += [caller for caller, _ in tickets]
        results = self.engine.step(tickets, now, int(now * 1_000))
        for caller, _ in results:
            self.callers.remove(caller)
        return {caller.asks: getattr(result, "state", result) for caller, result in results if not caller.has_gone}

    def all_leave(self) -> None:
        """Nobody waits for what was asked up to now."""
        for caller in self.callers:
            caller.has_gone = True


@pytest.fixture
def desk() -> Iterator[_Desk]:
    desk = _Desk()
    yield desk
    desk.engine.close()


def test_one_commit_serves_everybody_who_can_go_on_now(desk: _Desk) -> None:
    desk.step(prepare("a", x=1), prepare("b", x=2), prepare("c", x=3))
    assert desk.step(ask(Ask.COMMIT, "a")) == {"a commit": "committed", "b prepare": "prepared"}
    assert desk.step(ask(Ask.COMMIT, "b")) == {"b commit": "committed", "c prepare": "prepared"}


def test_a_branch_whose_rows_have_changed_holds_nothing_while_it_waits_for_the_new_ones(desk: _Desk) -> None:
    """It was granted `old`, ran again, and needs `new` now, which is locked. Red if it keeps `old` meanwhile."""
    desk.step(BranchRequest(Ask.COMMIT_ONE_PHASE, BranchKey("0", "b"), Call.of("put", put, {"pointer": "old"})))
    desk.step(prepare("holds-old", old=1, pointer="new"), prepare("holds-new", new=1))
    follower = BranchRequest(Ask.PREPARE, BranchKey("follower", "b"), Call.of("follow", follow, None))
    assert desk.step(follower) == {}
    assert desk.step(ask(Ask.COMMIT, "holds-old")) == {"holds-old commit": "committed"}
    assert desk.step(prepare("late", old=2)) == {"late prepare": "prepared"}
    assert desk.step(ask(Ask.COMMIT, "holds-new"))["follower prepare"] == "prepared"


def test_two_interactive_branches_that_wait_for_each_other_are_parted_by_time(desk: _Desk) -> None:
    """The one deadlock that the queues cannot prevent. Red when both have the same patience: both would be lost."""
    desk.step(work("a", 0, x=1), work("b", 0, y=1))
    assert desk.step(work("a", 1, y=2), now=1) == {}
    assert desk.step(work("b", 1, x=2), now=2) == {}
    assert desk.engine.wake_at == 2 + LIMITS.deadlock_wait_s
    assert desk.step(now=3.5) == {"b work": "aborted", "a work": "working"}


def test_a_line_that_moves_costs_nobody_who_stands_in_it(desk: _Desk) -> None:
    """Each keeps the row for a second, so the last waits twice as long as a deadlock may last. Red when the wait for
    an older one is counted from the arrival."""
    desk.step(prepare("a", x=1))
    assert desk.step(*(prepare(name, x=name) for name in "bcd")) == {}
    assert desk.step(ask(Ask.COMMIT, "a"), now=1)["b prepare"] == "prepared"
    assert desk.step(ask(Ask.COMMIT, "b"), now=2)["c prepare"] == "prepared"
    assert desk.step(ask(Ask.COMMIT, "c"), now=2.9)["d prepare"] == "prepared"


def test_nobody_waits_longer_than_the_limit_however_the_line_moves(desk: _Desk) -> None:
    desk.step(prepare("a", x=1))
    assert desk.step(*(prepare(name, x=name) for name in "bcd")) == {}
    desk.step(ask(Ask.COMMIT, "a"), now=1)
    desk.step(ask(Ask.COMMIT, "b"), now=2)
    [(_, answer)] = desk.engine.step([], 3, 0)
    assert answer.state is BranchState.ABORTED
    assert answer.reason == f"{CONFLICT}key('x') stayed locked by c/b for 3 s"


def test_an_older_one_that_gets_the_row_first_is_waited_for_no_longer_than_a_deadlock_may_last(desk: _Desk) -> None:
    """`c` waits for a younger one at first. Red when its deadline is only set as it lines up: both sides of a deadlock
    would wait to the limit, and die together."""
    desk.step(prepare("d", x=1))
    assert desk.step(prepare("a", x=2), prepare("c", x=3)) == {}
    assert desk.step(ask(Ask.COMMIT, "d"), now=1)["a prepare"] == "prepared"
    assert desk.step(now=1 + LIMITS.deadlock_wait_s) == {"c prepare": "aborted"}


def test_of_several_rows_the_one_of_the_oldest_holder_counts(desk: _Desk) -> None:
    """Red when a late wait is prolonged for the row that comes first, whose holder is younger."""
    desk.step(prepare("d", x=1), prepare("a", y=1))
    assert desk.step(prepare("c", x=2, y=2)) == {}
    assert desk.step(now=LIMITS.deadlock_wait_s) == {"c prepare": "aborted"}


def test_a_branch_that_is_granted_its_rows_when_there_is_no_room_for_it_does_not_keep_them() -> None:
    """Red when only its answer says that it is to come again: nobody else would ever get the row."""
    desk = _Desk(ResourceLimits(lock_wait_s=3, branches_max=2))
    desk.step(prepare("a", x=1, y=1))
    assert desk.step(prepare("b", x=2), prepare("c", y=2)) == {}
    desk.step(prepare("d", z=1))
    assert desk.step(ask(Ask.COMMIT, "a")) == {
        "a commit": "committed",
        "b prepare": "prepared",
        "c prepare": "unknown",
    }
    desk.step(ask(Ask.COMMIT, "b"), ask(Ask.COMMIT, "d"))
    assert desk.step(prepare("e", y=3)) == {"e prepare": "prepared"}


def test_branches_of_one_transaction_do_not_wait_for_each_other(desk: _Desk) -> None:
    """The first keeps its rows until the second has voted, so the second would wait in vain."""
    desk.step(prepare("a", x=1))
    second = BranchRequest(Ask.PREPARE, BranchKey("a", "second"), Call.of("put", put, {"x": 2}))
    [(_, answer)] = desk.engine.step([("second", second)], 0, 0)
    assert answer.state is BranchState.ABORTED
    assert answer.reason == "key('x') is changed by branch b of the same transaction; make them one branch"


@pytest.mark.parametrize("vote", [Ask.PREPARE, Ask.COMMIT_ONE_PHASE])
@pytest.mark.parametrize(
    ("works", "reason"), [(1, "unknown work: 2 of 1"), (2, ""), (3, "lost work: 2 of 3"), (None, "")]
)
def test_a_branch_that_holds_another_number_of_works_than_its_caller_votes_no(
    desk: _Desk, vote: Ask, works: int | None, reason: str
) -> None:
    """A repeat counts once. Red when `_effects` does not compare, and when `_work` counts repeats."""
    desk.step(work("a", 0, x=1))
    desk.step(work("a", 0, x=1))
    desk.step(work("a", 1, y=1))
    [(_, answer)] = desk.engine.step([("vote", BranchRequest(vote, BranchKey("a", "b"), works=works))], 0, 0)
    yes = BranchState.PREPARED if vote is Ask.PREPARE else BranchState.COMMITTED
    assert (answer.state, answer.reason) == (BranchState.ABORTED if reason else yes, reason)
    again = BranchRequest(vote, BranchKey("a", "b"), works=works)
    assert desk.step(again) == {f"a {vote}": answer.state}, "and stays so"
    if reason:
        assert desk.step(prepare("b", x=2, y=2)) == {"b prepare": "prepared"}, "its rows are free"


def test_it_wants_to_be_woken_for_the_next_deadline_only(desk: _Desk) -> None:
    assert desk.engine.wake_at is None
    desk.step(work("a", 0, x=1), now=1)
    assert desk.engine.wake_at == 21
    desk.step(prepare("0", x=2), now=5)
    assert desk.engine.wake_at == 8
    assert desk.step(now=8) == {"0 prepare": "aborted"}
    assert desk.step(ask(Ask.OUTCOME, "a"), now=21) == {"a outcome": "aborted"}
    assert desk.engine.wake_at is None


def test_a_repeat_of_a_waiting_prepare_joins_it_and_another_body_does_not(desk: _Desk) -> None:
    desk.step(prepare("a", x=1), prepare("b", x=2))
    assert desk.step(prepare("b", x=2), now=1) == {}
    [(_, refused)] = desk.engine.step([(_Caller("other"), prepare("b", x=3))], 1, 0)
    assert isinstance(refused, BranchConflict)
    answers = desk.engine.step([(_Caller("abort"), ask(Ask.ABORT, "a"))], 1, 0)
    assert [(caller.asks, answer.state) for caller, answer in answers] == [
        ("abort", BranchState.ABORTED),
        ("b prepare", BranchState.PREPARED),
        ("b prepare", BranchState.PREPARED),
    ]


def test_work_is_prepared_without_an_action_only(desk: _Desk) -> None:
    desk.step(work("a", 0, x=1))
    assert isinstance(desk.step(prepare("a", x=1))["a prepare"], BranchConflict)
    assert desk.step(ask(Ask.PREPARE, "a")) == {"a prepare": "prepared"}


def test_old_work_is_not_repeated_as_something_else(desk: _Desk) -> None:
    desk.step(work("a", 0, x=1), work("a", 1, x=2))
    assert desk.step(work("a", 1, x=2)) == {"a work": "working"}
    assert isinstance(desk.step(work("a", 1, x=3))["a work"], BranchConflict)
    assert isinstance(desk.step(work("a", 0, x=1))["a work"], BranchConflict)


def test_interactive_work_may_be_committed_in_one_phase(desk: _Desk) -> None:
    desk.step(work("a", 0, x=1))
    assert desk.step(ask(Ask.COMMIT_ONE_PHASE, "a")) == {"a commit in one phase": "committed"}
    assert desk.step(prepare("b", x=2)) == {"b prepare": "prepared"}, "and its rows are free"


def test_one_phase_waits_for_rows_like_a_vote(desk: _Desk) -> None:
    one_phase = BranchRequest(Ask.COMMIT_ONE_PHASE, BranchKey("b", "b"), Call.of("put", put, {"x": 2}))
    desk.step(prepare("a", x=1))
    assert desk.step(one_phase) == {}
    assert desk.step(ask(Ask.COMMIT, "a"))["b commit in one phase"] == "committed"


def test_a_prepare_without_an_action_does_not_cut_in_on_what_waits(desk: _Desk) -> None:
    """It would end the waiting request's branch as another request's. Seen red: it took the whole engine down."""
    desk.step(prepare("a", x=1), prepare("b", x=2))
    assert isinstance(desk.step(ask(Ask.PREPARE, "b"))["b prepare"], BranchConflict)
    assert isinstance(desk.step(ask(Ask.COMMIT_ONE_PHASE, "b"))["b commit in one phase"], BranchConflict)
    assert desk.step(ask(Ask.COMMIT, "a")) == {"a commit": "committed", "b prepare": "prepared"}


def test_work_that_waits_for_a_row_is_never_left_out_of_the_vote(desk: _Desk) -> None:
    """Seen red: the first half of the work was prepared, without the half that waited."""
    desk.step(prepare("a", x=1), work("b", 0, y=1))
    assert desk.step(work("b", 1, x=2)) == {}
    assert isinstance(desk.step(ask(Ask.PREPARE, "b"))["b prepare"], BranchConflict)
    assert desk.step(ask(Ask.COMMIT, "a")) == {"a commit": "committed", "b work": "working"}
    assert desk.step(ask(Ask.PREPARE, "b")) == {"b prepare": "prepared"}


@pytest.mark.parametrize("asks", [(Ask.ABORT, Ask.PREPARE), (Ask.PREVENT, Ask.COMMIT_ONE_PHASE)])
def test_an_abort_keeps_a_prepare_of_the_same_batch_out(desk: _Desk, asks: tuple[Ask, Ask]) -> None:
    first, second = (BranchRequest(what, BranchKey("a", "b"), prepare("a", x=1).call) for what in asks)
    assert list(desk.step(first, second).values()) == ["aborted", "aborted"]
    assert desk.step(prepare("b", x=2)) == {"b prepare": "prepared"}, "and it holds no row"


@pytest.mark.parametrize(
    ("reason", "said"),
    [(ValueError("no such room"), "no such room"), ("room \ud800", "room ?"), (7, "7")],
)
def test_a_no_needs_no_well_formed_reason(desk: _Desk, reason: Any, said: str) -> None:
    """`raise Reject(error)` is a slip of one action. Seen red: it ended the participant, at each repeat again."""

    async def refuse(tx: Transaction, body: Any) -> None:
        raise Reject(reason)

    request = BranchRequest(Ask.PREPARE, BranchKey("a", "b"), Call.of("refuse", refuse, None))
    [(_, answer)] = desk.engine.step([("a", request)], 0, 0)
    assert answer == Answer(BranchState.ABORTED, said)


def test_a_wait_that_nobody_waits_for_ends_without_a_vote(desk: _Desk) -> None:
    """Red when it votes no all the same: the next coordinator would hear it, and the transaction be lost."""
    desk.step(prepare("a", x=1))
    assert desk.step(prepare("b", x=2)) == {}
    desk.all_leave()
    assert desk.step(now=LIMITS.lock_wait_s) == {}
    assert desk.callers == [], "nobody is remembered for ever"
    assert desk.step(ask(Ask.OUTCOME, "b")) == {"b outcome": "unknown"}
    assert desk.step(ask(Ask.COMMIT, "a"), prepare("b", x=2))["b prepare"] == "prepared"


def test_a_repeat_by_somebody_else_waits_as_long_as_any(desk: _Desk) -> None:
    """Red when it joins the wait that nobody waits for: it would be voted down for the time of others."""
    desk.step(prepare("a", x=1))
    assert desk.step(prepare("b", x=2)) == {}
    desk.all_leave()
    assert desk.step(prepare("b", x=2), now=1) == {}
    assert len(desk.callers) == 1, "nobody is remembered for ever"
    assert desk.step(now=LIMITS.deadlock_wait_s) == {}
    assert desk.step(now=1 + LIMITS.deadlock_wait_s) == {"b prepare": "aborted"}


def test_open_work_stays_when_the_wait_for_more_is_given_up(desk: _Desk) -> None:
    """Red when all that the branch holds goes with its place in the line: another would get `y`."""
    desk.step(prepare("a", x=1))
    assert desk.step(work("b", 0, y=1)) == {"b work": "working"}
    assert desk.step(work("b", 1, x=2)) == {}
    desk.all_leave()
    assert desk.step(prepare("c", y=3)) == {}
    assert desk.step(work("b", 1, x=2), now=1) == {}
    assert desk.step(ask(Ask.COMMIT, "a"), now=1) == {"a commit": "committed", "b work": "working"}
