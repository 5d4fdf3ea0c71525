"""What every handler needs, under one key of the application."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from coordinator.driver.replica import Replica

__all__ = ["CONTEXT", "REQUEST_ID", "REQUEST_ID_HEADER", "Context", "Placement"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where this replica's shard stands among several.

    `urls`: where callers reach the replicas, by shard and node name. `draw` makes a gid, of whichever shard.
    """

    shard: int
    urls: Sequence[Mapping[str, str]]
    draw: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Context:
    """`urls`: where callers reach the replicas of this shard, by node name. `participants`: their URLs, by name.

    `placement`: None if there is only one shard.
    """

    replica: Replica
    cluster: str
    node: str
    urls: Mapping[str, str] = field(default_factory=dict)
    participants: Mapping[str, str] = field(default_factory=dict)
    requests_per_connection_max: int = 100_000
    placement: Placement | None = None

    @property
    def shard(self) -> int:
        """The shard that this replica belongs to."""
        return 0 if self.placement is None else self.placement.shard

    @property
    def shards(self) -> Sequence[Mapping[str, str]]:
        """Where callers reach the replicas, by shard and node name."""
        return (self.urls,) if self.placement is None else self.placement.urls


REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)  # every request has one
CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
