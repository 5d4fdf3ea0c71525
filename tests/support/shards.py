"""A coordinator cluster of several shards in one process: a `Cluster` for each, the same participants for all.

Method: as `tests/support/cluster.py`, always served; every replica knows where the others are, as from a configuration.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from random import Random

from coordinator.http.app import build_app, serving
from coordinator.http.context import Placement
from coordinator.shards import shard_of
from tests.support.cluster import ADMISSION, TUNABLES, Cluster
from tests.support.participants import Clerk

__all__ = ["Sharded", "sharded"]


class Sharded:
    """`shards` by number; `urls[shard][node]` of the served replicas; `clerks` (participants) by name."""

    def __init__(self, shards: list[Cluster], clerks: dict[str, Clerk]) -> None:
        self.shards = shards
        self.clerks = clerks
        self.urls: list[dict[str, str]] = [shard.urls for shard in shards]

    def gids(self, shard: int, prefix: str = "g") -> Iterable[str]:
        """Gids that belong to a shard, without end."""
        return (gid for gid in (f"{prefix}{number}" for number in count()) if self.owner(gid) == shard)

    def owner(self, gid: str) -> int:
        """The shard that a gid belongs to."""
        return shard_of(gid, len(self.shards))

    def holders(self, gid: str) -> list[int]:
        """The shards in which a gid is recorded."""
        ledgers = [shard.replicas["n1"].ledger for shard in self.shards]
        return [number for number, ledger in enumerate(ledgers) if ledger.get(gid) is not None]


@asynccontextmanager
async def sharded(
    shards: int = 2, replicas: int = 3, clerks: Iterable[str] = ("bank-a", "bank-b")
) -> AsyncIterator[Sharded]:
    """A running cluster whose shards are all led by `n1`."""
    names = [f"n{number}" for number in range(1, replicas + 1)]
    made = Sharded([], {name: Clerk(name) for name in clerks})
    made.shards += [Cluster(names, made.clerks.values(), ADMISSION, TUNABLES) for _ in range(shards)]
    made.urls += [shard.urls for shard in made.shards]
    drawn = count()
    async with AsyncExitStack() as stack:
        for number, shard in enumerate(made.shards):
            for name in names:
                await shard.start(name)
            stack.push_async_callback(shard.stop)
            await shard.lead("n1")
            placement = Placement(number, made.urls, lambda: f"drawn-{next(drawn)}")
            for name in names:
                app = build_app(replace(shard.context(name), placement=placement), Random(name))
                port = await stack.enter_async_context(serving(app, "127.0.0.1", 0, shutdown_s=0.5))
                shard.urls[name] = f"http://127.0.0.1:{port}"
        yield made
