"""Whom to ask about a transaction: the client's copy of the cluster map.

Owns: which replicas there are in each shard; learned with the first request, from whichever replica the caller named,
and anew after one has pointed to another shard, or after all of a shard have failed. Must never do: retry, or say what
an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from coordinator.client.lane import Lane
from coordinator.client.replicas import Replicas
from coordinator.client.session import Lost, NotReached, Session
from coordinator.shards import MAP_PATH, ClusterMap, shard_of

__all__ = ["RELEARN_PAUSE_S", "RELEARN_SHARE", "Shard", "Shards"]

RELEARN_PAUSE_S = 1.0  # between two questions for a newer map: a shard that is dead makes many doubt the one there is
RELEARN_SHARE = 0.25  # of the time of the one who asks for it; the old map needs the rest


@dataclass(frozen=True, slots=True)
class Shard:
    """The replicas of one Raft group, and the lane of new transactions to them."""

    replicas: Replicas
    lane: Lane


class Shards:
    """`urls` are replicas of any shard. Without `routed`, they are all that is ever asked, whatever is asked for.

    To be closed.
    """

    def __init__(
        self, urls: Sequence[str], session: Session, lane_to: Callable[[Replicas], Lane], *, routed: bool
    ) -> None:
        self._session = session
        self._lane_to = lane_to
        self._routed = routed
        self._made: list[Shard] = []
        self._seeds = self._shard(urls)
        self._shards: list[Shard] = [self._seeds]
        self._is_known = not routed
        self._has_map = False
        self._takes_traces = False
        self._relearn_at = 0.0
        self._learning = asyncio.Lock()

    async def any(self, timeout_s: float) -> Shard:  # noqa: ARG002 - as `of` and `all`
        """For questions that every replica answers: those that the caller has named."""
        return self._seeds

    async def of(self, gid: str, timeout_s: float) -> Shard:
        """The shard that `gid` belongs to. Raises NotReached if there is no map to be had."""
        shards = await self.all(timeout_s)
        return shards[shard_of(gid, len(shards))]

    async def all(self, timeout_s: float) -> Sequence[Shard]:
        """Every shard, in the order of their numbers. Raises NotReached if there is no map to be had."""
        if not self._is_known and self._has_map:
            await self._relearn(timeout_s)
        elif not self._is_known:
            try:
                async with asyncio.timeout(timeout_s), self._learning:
                    if not self._is_known:
                        await self._learn(timeout_s)
            except TimeoutError as error:
                raise NotReached(f"no cluster map within {timeout_s:.1f} s") from error
        return self._shards

    async def close(self) -> None:
        """Close the lanes."""
        for shard in self._made:
            await shard.lane.close()

    @property
    def takes_traces(self) -> bool:
        """Whether a transaction may name its trace, as far as the map says; an older cluster would refuse it."""
        return self._takes_traces

    def _shard(self, urls: Sequence[str]) -> Shard:
        replicas = Replicas(urls, self._session, self._forget)
        shard = Shard(replicas, self._lane_to(replicas))
        self._made.append(shard)
        return shard

    def _forget(self) -> None:
        """The map led to another shard, or to nobody: it is old, or never was of this cluster; or a shard is dead."""
        self._is_known = not self._routed

    async def _relearn(self, timeout_s: float) -> None:
        """A newer map, if one is soon to be had. Else the old one stays, as for all who come meanwhile."""
        now = asyncio.get_running_loop().time()
        if now >= self._relearn_at:
            self._relearn_at = now + RELEARN_PAUSE_S
            with suppress(NotReached):
                await self._learn(min(timeout_s * RELEARN_SHARE, RELEARN_PAUSE_S))

    async def _learn(self, timeout_s: float) -> None:
        seeds = self._seeds.replicas
        target = seeds.target
        try:
            reply = await seeds.attempt("GET", MAP_PATH, timeout_s=timeout_s)
            found = ClusterMap.model_validate(reply.document, extra="ignore")
        except (Lost, NotReached) as error:
            seeds.turn_away(target)
            raise NotReached(str(error)) from error
        except ValidationError as error:
            seeds.turn_away(target)
            raise NotReached(f"{target} sent no cluster map") from error
        self._takes_traces = found.traces
        self._take([[replica.url for replica in shard.replicas] for shard in found.shards])

    def _take(self, urls: list[list[str]]) -> None:
        """Ask at these from now on. What is under way at replicas that are known already stays there."""
        self._seeds.replicas.add([url for some in urls for url in some])
        if len(urls) == 1:
            self._shards = [self._seeds]
        elif len(self._shards) != len(urls):
            self._shards = [self._shard(some) for some in urls]
        else:
            for shard, some in zip(self._shards, urls, strict=True):
                shard.replicas.become(some)
        self._is_known = self._has_map = True
