"""Which shard a transaction belongs to: a pure function of its gid and the number of shards. And the map of them.

Rendezvous hashing (D. Thaler and C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM
Transactions on Networking 6(1), 1998): every shard has a weight for the gid, and the heaviest one has it. A shard's
weight does not depend on how many others there are, so with one shard more or less, only its gids are elsewhere.

Server and clients compute the same, in any language: the weight of shard `s` for a gid is the `s % 8`-th big-endian
64-bit number of BLAKE2b-512 (RFC 7693) over the gid's bytes, personalised with `commitd` and the byte `s // 8`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from struct import unpack_from

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "MAP_PATH",
    "SHARDS_MAX",
    "SHARD_HEADER",
    "ClusterMap",
    "ReplicaView",
    "ShardView",
    "draw_gid",
    "map_of",
    "shard_of",
    "weights_of",
]

SHARDS_MAX = 64
SHARD_HEADER = "Commitd-Shard"
MAP_PATH = "/v1/cluster/map"

_PERSON = b"commitd"
_WEIGHTS_PER_DIGEST = 8
_VERSION_BYTES = 8


def weights_of(gid: str, shards: int) -> tuple[int, ...]:
    """The weight of each of `shards` shards for a gid, 0 to 2^64 - 1."""
    name = gid.encode()
    count = -(-shards // _WEIGHTS_PER_DIGEST)
    digests = b"".join(blake2b(name, person=_PERSON + bytes([number])).digest() for number in range(count))
    return unpack_from(f">{shards}Q", digests)


def shard_of(gid: str, shards: int) -> int:
    """The shard that a gid belongs to, from 0 to `shards` - 1; of equal weights, the first."""
    if shards == 1:
        return 0
    weights = weights_of(gid, shards)
    return weights.index(max(weights))


def draw_gid(shard: int, shards: int, draw: Callable[[], str]) -> str:
    """The first gid drawn that belongs to `shard`; that takes `shards` draws on average."""
    while shard_of(gid := draw(), shards) != shard:
        pass
    return gid


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ReplicaView(_Message):
    name: str
    url: str


class ShardView(_Message):
    """The replicas of one shard, one on each node."""

    shard: int
    replicas: list[ReplicaView] = Field(min_length=1)


class ClusterMap(_Message):
    """All shards, in the order of their numbers from 0. Equal maps have equal versions."""

    cluster: str
    version: str = Field(description="A digest of the rest.")
    shards: list[ShardView] = Field(min_length=1, max_length=SHARDS_MAX)
    traces: bool = Field(default=False, description="A transaction may name its trace.")


def map_of(cluster: str, urls: Sequence[Mapping[str, str]]) -> ClusterMap:
    """The map of shards whose replicas are at `urls[shard][node]`."""
    shards = [
        ShardView(shard=shard, replicas=[ReplicaView(name=name, url=url) for name, url in sorted(replicas.items())])
        for shard, replicas in enumerate(urls)
    ]
    unversioned = ClusterMap(cluster=cluster, version="", shards=shards, traces=True)
    version = blake2b(unversioned.model_dump_json().encode(), digest_size=_VERSION_BYTES).hexdigest()
    return unversioned.model_copy(update={"version": version})
