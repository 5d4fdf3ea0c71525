"""Branches and locks under arbitrary histories, against small models that cannot be wrong in the same way."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coordinator.simulation.disk import SimDisk
from participant.branch import Ask
from participant.errors import Reject
from participant.ids import BranchKey
from participant.locks import LockTable, Row
from participant.resource import Call, ResourceLimits
from participant.rm.engine import Engine
from participant.rm.memory import Transaction
from participant.rm.memory.store import MemoryStore
from participant.rm.requests import BranchRequest, Read
from participant.values import canonical, digest_of
from participant.wire import Answer, BranchState

LIMITS = ResourceLimits(lock_wait_s=3, unprepared_limit_s=20)
KEYS = [BranchKey(f"g{i}", "b") for i in range(5)]
ROWS = ["x", "y"]
DECISIONS = (Ask.COMMIT, Ask.ABORT)


async def add(tx: Transaction, body: Any) -> None:
    value = (await tx.get(body["row"]) or 0) + body["amount"]
    if value < 0:
        raise Reject("too little")
    await tx.put(body["row"], value)


async def look(tx: Transaction, _: Any) -> dict[str, int]:
    return {row: await tx.get(row) or 0 for row in ROWS}


def _amount(key: BranchKey) -> tuple[str, int]:
    """What a branch asks for depends on its name alone, as it must."""
    number = int(key.gid[1:])
    return ROWS[number % 2], (5, -3, 4, -2, 1)[number]


def _call(key: BranchKey) -> Call:
    row, amount = _amount(key)
    return Call.of("add", add, {"row": row, "amount": amount})


class BranchHistories(RuleBasedStateMachine):
    """Any order of messages, repeats, waiting, kills and restarts, at one participant.

    The model: what was answered last for each branch, and the sum of what is committed. A coordinator that keeps the
    protocol is modelled too: once a branch has a decision, the other one is never sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimDisk()
        self.now = 0.0
        self.said: dict[BranchKey, BranchState] = {}
        self.decided: dict[BranchKey, Ask] = {}
        self.tickets = itertools.count()
        self.start()

    def start(self) -> None:
        self.waiting: dict[int, BranchKey] = {}
        self.engine = Engine(MemoryStore(self.disk), LIMITS)
        self.engine.open(self.now)

    def ask(self, request: BranchRequest) -> Answer | None:
        """None: it waits for a row."""
        ticket = next(self.tickets)
        self.waiting[ticket] = request.key
        results = dict(self.engine.step([(ticket, request)], self.now, int(self.now * 1_000)))
        for done, answer in results.items():
            self.hear(self.waiting.pop(done), answer)
        return results.get(ticket)

    def hear(self, key: BranchKey, answer: Answer) -> None:
        """An answer is a fact: it never contradicts an earlier one."""
        assert isinstance(answer, Answer)
        before = self.said.get(key, BranchState.UNKNOWN)
        if before in (BranchState.COMMITTED, BranchState.ABORTED):
            assert answer.state is before
        if before is BranchState.PREPARED:
            assert answer.state in (BranchState.PREPARED, BranchState.COMMITTED, BranchState.ABORTED)
            if answer.state is not BranchState.PREPARED:
                assert self.decided.get(key) is (Ask.COMMIT if answer.state is BranchState.COMMITTED else Ask.ABORT), (
                    "a yes is taken back by the decision alone"
                )
        self.said[key] = answer.state

    @rule(key=st.sampled_from(KEYS))
    def prepare(self, key: BranchKey) -> None:
        answer = self.ask(BranchRequest(Ask.PREPARE, key, _call(key)))
        if answer is not None:
            assert answer.state in (BranchState.PREPARED, BranchState.COMMITTED, BranchState.ABORTED)

    @rule(key=st.sampled_from(KEYS))
    def prevent(self, key: BranchKey) -> None:
        answer = self.ask(BranchRequest(Ask.PREVENT, key, reason="no"))
        assert answer is not None
        assert answer.state in (BranchState.PREPARED, BranchState.COMMITTED, BranchState.ABORTED)

    @rule(key=st.sampled_from(KEYS), ask=st.sampled_from(DECISIONS))
    def decide(self, key: BranchKey, ask: Ask) -> None:
        if ask is Ask.COMMIT and self.said.get(key) is not BranchState.PREPARED:
            return
        self.decided.setdefault(key, ask)
        answer = self.ask(BranchRequest(self.decided[key], key))
        assert answer is not None
        wanted = BranchState.COMMITTED if self.decided[key] is Ask.COMMIT else BranchState.ABORTED
        assert answer.state is wanted

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        for done, answer in self.engine.step([], self.now, int(self.now * 1_000)):
            self.hear(self.waiting.pop(done), answer)

    @rule()
    def killed(self) -> None:
        self.disk = self.disk.kill()
        self.start()

    @invariant()
    def what_is_committed_adds_up(self) -> None:
        committed = [_amount(key) for key, state in self.said.items() if state is BranchState.COMMITTED]
        wanted = {row: sum(amount for name, amount in committed if name == row) for row in ROWS}
        [(_, found)] = self.engine.step([("look", Read(Call.of("look", look, None)))], self.now, 0)
        assert found == wanted

    @invariant()
    def nobody_waits_longer_than_allowed(self) -> None:
        wake_at = self.engine.wake_at
        assert wake_at is None or wake_at <= self.now + LIMITS.lock_wait_s


TestBranchHistories = BranchHistories.TestCase
TestBranchHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

OWNERS = [BranchKey(name, "b") for name in "abcd"]
TABLE = [Row("t", (i,)) for i in range(3)]


class LockHistories(RuleBasedStateMachine):
    """Any order of requests, releases and deadlines. Red with the check of `_holder` in `_serve` taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = LockTable()
        self.now = 0.0
        self.waiting: dict[BranchKey, tuple[set[Row], float]] = {}

    @rule(owner=st.sampled_from(OWNERS), rows=st.sets(st.sampled_from(TABLE), min_size=1), wait=st.integers(1, 5))
    def acquire(self, owner: BranchKey, rows: set[Row], wait: int) -> None:
        self.waiting.pop(owner, None)
        if not self.locks.acquire(owner, rows, self.now + wait):
            self.waiting[owner] = rows, self.now + wait
        self.grant()

    @rule(owner=st.sampled_from(OWNERS), keep=st.sets(st.sampled_from(TABLE)))
    def release(self, owner: BranchKey, keep: set[Row]) -> None:
        before = self.locks.held(owner)
        self.locks.release(owner, keep=keep)
        self.waiting.pop(owner, None)
        assert self.locks.held(owner) == before & keep
        self.grant()

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        for expired in self.locks.expire(self.now):
            assert self.waiting.pop(expired.owner)[1] <= self.now
        assert all(deadline > self.now for _, deadline in self.waiting.values())
        self.grant()

    def grant(self) -> None:
        for owner in self.locks.take_granted():
            rows, _ = self.waiting.pop(owner)
            assert rows <= self.locks.held(owner), "all or nothing"

    @invariant()
    def every_row_has_one_holder_at_most(self) -> None:
        held = [row for owner in OWNERS for row in self.locks.held(owner)]
        assert len(held) == len(set(held))

    @invariant()
    def nobody_waits_for_free_rows_alone(self) -> None:
        """If nothing is held, nobody waits: among those who hold nothing there is no deadlock."""
        if not any(self.locks.held(owner) for owner in OWNERS):
            assert not self.waiting
        deadlines = [deadline for _, deadline in self.waiting.values()]
        assert self.locks.next_deadline == min(deadlines, default=None)


TestLockHistories = LockHistories.TestCase
TestLockHistories.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def _shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(list(value))}
    return [_shuffled(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_the_digest_of_a_value_does_not_depend_on_who_wrote_it(value: Any) -> None:
    assert digest_of("a", canonical(value, "body")) == digest_of("a", canonical(_shuffled(value), "body"))
