"""What the client does about an answer: the table of it, and the arithmetic of its pauses."""

from __future__ import annotations

from random import Random

import pytest

from coordinator.client.policy import Next, Pauses, next_after, pause_s
from coordinator.errors import (
    GidReused,
    Internal,
    Invalid,
    NoLeader,
    NotFound,
    Overloaded,
    RequestError,
    Undetermined,
)

PAUSES = Pauses(base_s=0.1, cap_s=1.0)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (200, None, Next.TAKE),
        (202, None, Next.TAKE),
        (404, NotFound("x"), Next.RAISE),
        (409, GidReused("x"), Next.RAISE),
        (422, Invalid("x"), Next.RAISE),
        (503, NoLeader("x"), Next.AGAIN),
        (503, Overloaded("x"), Next.AGAIN),
        (503, Undetermined("x"), Next.AGAIN_AMBIGUOUS),
        (500, Internal("x"), Next.AGAIN_AMBIGUOUS),
        (502, None, Next.AGAIN_AMBIGUOUS),
        (404, None, Next.AGAIN_AMBIGUOUS),
        (301, None, Next.AGAIN_AMBIGUOUS),
    ],
)
def test_only_a_replicas_own_word_that_nothing_was_begun_is_unambiguous(
    status: int, error: RequestError | None, expected: Next
) -> None:
    """A proxy's 502 or bare 404 says nothing about what the replica behind it did."""
    assert next_after(status, error) is expected


def test_pauses_are_drawn_from_a_window_that_doubles_up_to_its_cap() -> None:
    assert [pause_s(PAUSES, attempt, 1.0) for attempt in (1, 2, 3, 4, 5, 1_000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert pause_s(PAUSES, 5, 0.0) == 0.0


def test_the_jitter_is_full() -> None:
    """Goal: a crowd that failed together comes back spread over the whole window."""
    chance = Random(7)
    drawn = [pause_s(PAUSES, 4, chance.random()) for _ in range(2_000)]
    assert min(drawn) < 0.01
    assert max(drawn) > 0.79
    assert sum(drawn) / len(drawn) == pytest.approx(0.4, abs=0.02)


def test_an_overloaded_replica_is_left_alone_for_as_long_as_it_asks() -> None:
    assert pause_s(PAUSES, 1, 0.5, Overloaded("x", retry_after_s=2.0)) == 2.05


def test_an_election_is_not_waited_for_in_whole_seconds() -> None:
    assert pause_s(PAUSES, 1, 0.5, NoLeader("x", retry_after_s=1.0)) == 0.05
