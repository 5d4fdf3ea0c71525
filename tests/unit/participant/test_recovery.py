"""Branches in doubt: whom to ask for, when, and what an answer does."""

from __future__ import annotations

import random

import pytest

from participant.errors import ConfigError, ResourceFailed
from participant.ids import BranchKey
from participant.outcomes import Outcome
from participant.recovery import Doubt, Recovery, RecoverySettings, plan
from participant.wire import Answer, BranchState

A, B = BranchKey("a", "1"), BranchKey("b", "1")
SETTINGS = RecoverySettings(grace_s=5, interval_s=1, interval_max_s=8)


def test_a_new_branch_in_doubt_gets_a_grace() -> None:
    doubts, due = plan({}, [A], now=100, grace_s=5)
    assert (doubts, due) == ({A: Doubt(ask_at=105)}, [])
    assert plan(doubts, [A], now=105, grace_s=5)[1] == [A]


def test_what_an_earlier_process_left_is_asked_for_at_once() -> None:
    assert plan({}, [A, B], now=100, grace_s=0)[1] == [A, B]


def test_a_branch_that_was_finished_is_forgotten() -> None:
    assert plan({A: Doubt(1), B: Doubt(1)}, [B], now=100, grace_s=5) == ({B: Doubt(1)}, [B])


def test_questions_in_vain_come_ever_more_rarely_up_to_a_cap() -> None:
    doubt, pauses = Doubt(ask_at=0), []
    for _ in range(6):
        doubt = doubt.later(SETTINGS, now=0, chance=0)
        pauses.append(doubt.ask_at)
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_chance_shortens_a_pause_by_up_to_a_half() -> None:
    assert Doubt(0).later(SETTINGS, now=10, chance=0.999).ask_at == pytest.approx(10.5, abs=0.01)
    assert Doubt(0, asked=10_000).later(SETTINGS, now=0, chance=0).ask_at == 8, "and the doubling cannot overflow"


@pytest.mark.parametrize(
    "settings", [{"grace_s": 0}, {"interval_s": 0}, {"interval_s": 2, "interval_max_s": 1}, {"peers_after_s": 0}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RecoverySettings(**settings)


def test_silence_is_counted_from_the_first_question_that_no_replica_answered() -> None:
    doubt = Doubt(0).heard(None, 10.0).heard(None, 12.0)
    assert doubt.silent_since == 10.0
    assert doubt.heard(Outcome.DECIDING, 13.0).silent_since is None
    assert doubt.later(SETTINGS, now=12, chance=0).silent_since == 10.0


class _Resource:
    """What recovery needs of a resource manager: branches, and what was done to them."""

    def __init__(self, *prepared: BranchKey) -> None:
        self.prepared = list(prepared)
        self.done: dict[BranchKey, str] = {}
        self.is_stuck = False

    async def in_doubt(self) -> list[BranchKey]:
        return list(self.prepared)

    async def commit(self, key: BranchKey) -> Answer:
        if self.is_stuck:
            return Answer(BranchState.PREPARED, "somebody wrote outside the protocol", retry=True)
        self.done[key] = "committed"
        self.prepared.remove(key)
        return Answer(BranchState.COMMITTED)

    async def abort(self, key: BranchKey) -> Answer:
        self.done[key] = "aborted"
        self.prepared.remove(key)
        return Answer(BranchState.ABORTED)


class _Source:
    """An outcome source that says what it is told to."""

    def __init__(self, **outcomes: Outcome | None) -> None:
        self.outcomes = outcomes
        self.asked: list[BranchKey] = []

    async def inquire(self, key: BranchKey) -> Outcome | None:
        self.asked.append(key)
        return self.outcomes.get(key.gid)


def _recovery(resource: _Resource, source: _Source) -> Recovery:
    return Recovery(resource, source, SETTINGS, random.Random(1))


async def test_a_branch_ends_as_its_transaction_did() -> None:
    resource, source = _Resource(A, B), _Source(a=Outcome.COMMITTED, b=Outcome.ABORTED)
    await _recovery(resource, source).round()
    assert resource.done == {A: "committed", B: "aborted"}


@pytest.mark.parametrize("outcome", [Outcome.DECIDING, None])
async def test_neither_silence_nor_deciding_is_an_outcome(outcome: Outcome | None) -> None:
    """A yes is never taken back without the decision: red if None is treated like ABORTED."""
    resource, source = _Resource(A), _Source(a=outcome)
    recovery = _recovery(resource, source)
    await recovery.round()
    await recovery.round()
    assert resource.done == {}
    assert source.asked == [A], "and it is not asked again at once"


async def test_a_branch_that_cannot_be_finished_is_tried_again_later() -> None:
    resource, source = _Resource(A), _Source(a=Outcome.COMMITTED)
    resource.is_stuck = True
    recovery = _recovery(resource, source)
    await recovery.round()
    await recovery.round()
    assert source.asked == [A]


async def test_a_defect_in_one_question_leaves_the_others_alone() -> None:
    """Seen red: the task ended without a word, and what was in doubt stayed so until a restart."""

    class Broken(_Source):
        async def inquire(self, key: BranchKey) -> Outcome | None:
            if key == A:
                raise ZeroDivisionError
            return await super().inquire(key)

    resource = _Resource(A, B)
    await _recovery(resource, Broken(b=Outcome.COMMITTED)).round()
    assert resource.done == {B: "committed"}


async def test_it_ends_when_the_resource_manager_has_failed() -> None:
    class Failed(_Resource):
        async def in_doubt(self) -> list[BranchKey]:
            raise ResourceFailed("disk")

    await _recovery(Failed(), _Source()).run()


class _Silent:
    """Who ends branches of which no replica knows the end."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[bool, float]] = []

    async def silent(self, _: BranchKey, *, is_deciding: bool, silent_s: float) -> Answer | None:
        self.asked.append((is_deciding, silent_s))
        return self.answers.pop(0)


@pytest.mark.parametrize("outcome", [Outcome.DECIDING, None])
async def test_without_an_outcome_its_peers_may_end_it(outcome: Outcome | None) -> None:
    resource, silent = _Resource(A), _Silent(None, Answer(BranchState.COMMITTED))
    recovery = Recovery(resource, _Source(a=outcome), SETTINGS, random.Random(1), silent=silent)
    await recovery.round()
    ((is_deciding, silent_s),) = silent.asked
    assert is_deciding is (outcome is Outcome.DECIDING)
    assert silent_s == 0


async def test_an_outcome_is_not_asked_of_its_peers() -> None:
    resource, silent = _Resource(A), _Silent()
    await Recovery(resource, _Source(a=Outcome.ABORTED), SETTINGS, random.Random(1), silent=silent).round()
    assert resource.done == {A: "aborted"}
    assert silent.asked == []
