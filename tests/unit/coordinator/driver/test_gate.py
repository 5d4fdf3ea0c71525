"""The gate to one participant: a window, a line, a breaker, and early refusals. In virtual time of a real loop."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from coordinator.driver.breaker import FAILURES_MAX, PROBE_FIRST_S
from coordinator.driver.gate import Ended, Gate, GateLimits
from coordinator.effects import CallEnded
from coordinator.errors import Overloaded, Unreachable
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Operation, Verb

PATIENCE_S = 5.0


def operation(gid: str, verb: Verb = Verb.PREPARE) -> Operation:
    return Operation(verb, BranchKey(gid, "b1"))


class Scene:
    """`sent` are the calls that passed; `end` ends one of them; `heard` is what came back, by gid."""

    def __init__(self, limits: GateLimits) -> None:
        self.sent: dict[str, tuple[Operation, Ended]] = {}
        self.arrivals: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.heard: dict[str, CallEnded] = {}
        self.gate = Gate("bank-a", self._send, limits)

    def _send(self, operation: Operation, ended: Ended) -> None:
        self.sent[operation.key.gid] = (operation, ended)
        self.arrivals[operation.key.gid].set()

    def call(self, *gids: str, verb: Verb = Verb.PREPARE) -> None:
        for gid in gids:
            self.gate.call(operation(gid, verb), lambda event, gid=gid: self.heard.update({gid: event}))  # type: ignore[misc]

    def end(
        self, gid: str, state: BranchState | None = BranchState.PREPARED, *, retry: bool = False, heard: bool = False
    ) -> None:
        asked, ended = self.sent.pop(gid)
        answer = None if state is None else Answer(state, retry=retry)
        ended(CallEnded("b1", asked.verb, answer, "" if answer else "nobody there", heard))

    def fail(self, count: int = FAILURES_MAX) -> None:
        """As many calls in a row find nobody."""
        for number in range(count):
            self.call(f"f{number}")
            self.end(f"f{number}", None)

    async def until_sent(self, gid: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.arrivals[gid].wait()


def scene(calls_max: int = 2, waiting_max: int = 3, owed_max: int = 2) -> Scene:
    return Scene(GateLimits(calls_max, waiting_max, owed_max))


async def test_a_window_of_calls_is_under_way_and_the_rest_follow_in_order() -> None:
    """Broken on purpose by not counting what is under way: red. By serving the newest first: red."""
    made = scene()
    made.call("a", "b", "c", "d")
    assert list(made.sent) == ["a", "b"]
    made.end("b")
    assert list(made.sent) == ["a", "c"]
    made.end("a")
    assert list(made.sent) == ["c", "d"]
    assert made.heard["a"].answer == Answer(BranchState.PREPARED)


async def test_past_the_line_new_transactions_are_refused_by_name_and_old_ones_are_not() -> None:
    made = scene()
    made.call("a", "b", "c", "d", "e")
    with pytest.raises(Overloaded, match=r"bank-a: 3 calls wait for it \(waiting_per_participant_max\)"):
        made.gate.admit()
    made.call("f")
    for gid in "abcdef":
        made.end(gid)
    assert set(made.heard) == set("abcdef"), "what was begun is never given up"
    made.gate.admit()


async def test_branches_that_owe_their_confirmation_are_counted() -> None:
    """Broken on purpose by counting calls under way only: red, because between two attempts there is none."""
    made = scene()
    made.call("a", "b", verb=Verb.COMMIT)
    made.end("a", None)
    made.end("b", BranchState.PREPARED, retry=True)
    with pytest.raises(Overloaded, match=r"2 branches have not confirmed \(owed_per_participant_max\)"):
        made.gate.admit()
    made.call("a", verb=Verb.COMMIT)
    made.end("a", BranchState.COMMITTED)
    made.gate.admit()


async def test_another_call_for_the_same_branch_takes_the_place_of_one_that_waits() -> None:
    """Broken on purpose by letting both pass: red (a late prepare would lock rows after the abort)."""
    made = scene(calls_max=1)
    made.call("busy", "g")
    made.call("g", verb=Verb.ABORT)
    assert made.heard["g"] == CallEnded("b1", Verb.PREPARE, None, "another call took its place")
    made.end("busy")
    assert made.sent["g"][0].verb is Verb.ABORT


async def test_what_ends_a_branch_does_not_stand_behind_what_waits_for_its_rows() -> None:
    """Red when all stand in one line: the prepares under way may be waiting for just this commit."""
    made = scene(calls_max=1)
    made.call("prepared", "behind")
    made.call("decided", verb=Verb.COMMIT)
    assert list(made.sent) == ["prepared", "decided"]


async def test_a_participant_that_answers_what_it_does_not_understand_is_not_dead() -> None:
    """Broken on purpose by counting only whether there is an answer: red (one bad caller would close it to all)."""
    made = scene()
    for number in range(2 * FAILURES_MAX):
        made.call(f"f{number}")
        made.end(f"f{number}", None, heard=True)
    made.gate.admit()


async def test_only_one_transaction_at_a_time_is_begun_to_probe() -> None:
    """Its call leaves a turn later, or more. Red when `admit` only asks whether a call may pass now."""
    made = scene()
    made.fail()
    await asyncio.sleep(PROBE_FIRST_S)
    made.gate.admit()
    with pytest.raises(Unreachable):
        made.gate.admit()
    made.call("probe")
    with pytest.raises(Unreachable):
        made.gate.admit()
    await made.until_sent("probe")
    made.end("probe")
    made.gate.admit()


async def test_to_a_dead_participant_nothing_is_sent_and_nothing_new_is_begun() -> None:
    """Broken on purpose by leaving the breaker out: red."""
    made = scene()
    made.fail()
    made.call("waits")
    assert "waits" not in made.sent
    assert "waits" not in made.heard
    with pytest.raises(Unreachable, match="bank-a does not answer"):
        made.gate.admit()


async def test_a_probe_finds_out_that_it_is_back_and_then_all_pass() -> None:
    made = scene(calls_max=10)
    made.fail()
    made.call("probe", "second", "third")
    await made.until_sent("probe")
    assert list(made.sent) == ["probe"], "one probe at a time"
    made.end("probe")
    assert list(made.sent) == ["second", "third"]
    made.gate.admit()


async def test_a_failed_probe_is_followed_by_another() -> None:
    """Broken on purpose by not arming the timer again: red."""
    made = scene()
    made.fail()
    made.call("first", "second")
    await made.until_sent("first")
    made.end("first", None)
    assert "second" not in made.sent
    await made.until_sent("second")


async def test_without_anything_in_the_line_a_new_transaction_is_the_probe() -> None:
    """Broken on purpose by refusing while the breaker is open: red (nobody would ever try again)."""
    made = scene()
    made.fail()
    with pytest.raises(Unreachable):
        made.gate.admit()
    await asyncio.sleep(PROBE_FIRST_S)
    made.gate.admit()
    made.call("new")
    await made.until_sent("new")


async def test_after_it_was_closed_nothing_passes() -> None:
    made = scene()
    made.fail()
    made.call("waits")
    made.gate.close()
    await asyncio.sleep(2 * PROBE_FIRST_S)
    assert made.sent == {}
    assert "waits" not in made.heard
