"""Which shard a gid belongs to: the same everywhere and for ever, evenly, and with little to move."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.shards import SHARDS_MAX, draw_gid, map_of, shard_of, weights_of
from coordinator.wire import new_gid

GIDS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789_.:-", min_size=1, max_size=64)
SHARDS = st.integers(1, SHARDS_MAX)
SAMPLE = [new_gid(1_700_000_000_000 + number, number * 2_654_435_761) for number in range(4_000)]


@pytest.mark.parametrize(
    ("gid", "shards"),
    [
        ("order-4711", (0, 0, 0, 0, 6, 6, 63)),
        ("a", (0, 1, 1, 3, 5, 5, 20)),
        ("01a20947-c89d-7821-92d1-23f3adb96f0e", (0, 0, 0, 0, 7, 7, 41)),
    ],
)
def test_the_placement_never_changes(gid: str, shards: tuple[int, ...]) -> None:
    """Goal: data is where an earlier release put it, and a client in another language agrees. Golden values."""
    assert tuple(shard_of(gid, count) for count in (1, 2, 3, 4, 8, 9, 64)) == shards


def test_a_weight_is_what_the_documentation_says() -> None:
    """Goal: `docs/howto/scale-out.md` is enough to write another client."""
    digest = blake2b(b"g", person=b"commitd\x01").digest()
    assert weights_of("g", 11)[10] == int.from_bytes(digest[16:24], "big")


@given(GIDS, SHARDS)
def test_a_gid_belongs_to_one_of_the_shards(gid: str, shards: int) -> None:
    assert 0 <= shard_of(gid, shards) < shards


@given(GIDS, st.integers(2, SHARDS_MAX))
def test_only_the_gids_of_a_removed_shard_move(gid: str, shards: int) -> None:
    """Goal: the property that gives rendezvous hashing its name. Broken on purpose with `hash % shards`: red."""
    before = shard_of(gid, shards)
    assert before == shards - 1 or shard_of(gid, shards - 1) == before


@pytest.mark.parametrize("shards", [2, 3, 8, 11])
def test_the_shards_get_about_equally_many(shards: int) -> None:
    """Goal: no shard has more than its share by more than chance allows (five standard deviations)."""
    counts = Counter(shard_of(gid, shards) for gid in SAMPLE)
    share = len(SAMPLE) / shards
    assert all(abs(counts[shard] - share) < 5 * share**0.5 for shard in range(shards))


def test_a_gid_can_be_drawn_for_a_shard() -> None:
    draws = iter(SAMPLE)
    assert shard_of(draw_gid(2, 4, lambda: next(draws)), 4) == 2


def test_equal_maps_have_equal_versions_and_others_have_not() -> None:
    urls = [{"n1": "http://h:1", "n2": "http://h:2"}, {"n1": "http://h:3", "n2": "http://h:4"}]
    same = [{"n2": "http://h:2", "n1": "http://h:1"}, urls[1]]
    assert map_of("demo", urls) == map_of("demo", same)
    others = [map_of("demo", urls[::-1]), map_of("other", urls), map_of("demo", urls[:1])]
    assert len({map_.version for map_ in (map_of("demo", urls), *others)}) == 4
