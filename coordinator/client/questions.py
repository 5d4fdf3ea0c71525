"""What a client asks that changes nothing: the base of `coordinator.client.client.Client`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from functools import partial

from coordinator.client.asking import Asking, Patience
from coordinator.client.events import events
from coordinator.client.listing import listed, merged
from coordinator.client.shards import Shard, Shards
from coordinator.examined import ExaminationView
from coordinator.ledger.records import Phase
from coordinator.shards import MAP_PATH, ClusterMap
from coordinator.wire import ClusterView, ParticipantsView, TransactionView, handle_of, parse_name

__all__ = ["Questions", "path_of"]


def path_of(gid: str) -> str:
    """Where a transaction is. Raises Invalid for what cannot be a gid: it must not become another path."""
    return handle_of(parse_name(gid, "gid"))


class Questions:
    """Asked of whichever replica can answer, until one has or time is up."""

    def __init__(self, shards: Shards, patience: Patience) -> None:
        self._shards = shards
        self._patience = patience
        self._participants: dict[str, str] = {}

    async def settled(self, gid: str, *, timeout_s: float | None = None) -> TransactionView:
        """Wait until every branch of `gid` has confirmed its end, so that whoever looks at a participant sees it.

        *Committed* is heard before: the participants are told next. Raises: NotFound; Unavailable, if time is up.
        """
        asking = self.about(gid, timeout_s)
        while True:
            view = await asking.ask("GET", path_of(gid), TransactionView)
            if view.phase in (Phase.COMMITTED, Phase.ABORTED):
                return view
            await asking.pause("not every branch has confirmed")

    async def record(self, gid: str) -> TransactionView:
        """The record of `gid`. Raises: NotFound, Unavailable."""
        return await self.about(gid).ask("GET", path_of(gid), TransactionView)

    def events(self, gid: str) -> AsyncGenerator[TransactionView]:
        """The record of `gid` now, and after each change, until it has ended: `async for record in client.events(gid)`.

        It goes on over takeovers; changes that follow each other while nobody could be asked may come as one.
        Raises: NotFound, as `outcome` does; Unavailable; Invalid.
        """
        return events(partial(self.about, gid), f"{path_of(gid)}/events")

    async def examine(self, gid: str) -> ExaminationView:
        """What the participants of `gid` hold of it now; changes nothing. Raises: NotFound, Unavailable."""
        return await self.about(gid).ask("GET", f"{path_of(gid)}/branches", ExaminationView)

    async def transactions(
        self,
        *,
        key: str | None = None,
        phases: Iterable[Phase] = (),
        participant: str | None = None,
        begun_after_ms: int | None = None,
        begun_before_ms: int | None = None,
        stuck: bool = False,
        dead: bool = False,
        page_size: int | None = None,
    ) -> AsyncGenerator[TransactionView]:
        """Every recorded transaction of every shard that the filters let through, newest first; `stuck`: only those
        that a person should look at; `dead`: only those with messages that were set aside.

        Raises: Unavailable, Invalid.
        """
        query = {
            "key": key,
            "phase": [phase.value for phase in phases],
            "participant": participant,
            "begun_after_ms": begun_after_ms,
            "begun_before_ms": begun_before_ms,
            "stuck": "true" if stuck else None,
            "dead": "true" if dead else None,
            "limit": page_size,
        }
        shards = await self.shards()
        async with aclosing(merged([listed(shard, query, self._patience) for shard in shards])) as found:
            async for transaction in found:
                yield transaction

    async def by_key(self, key: str) -> list[TransactionView]:
        """The recorded transactions that were begun under `key`, of every shard, newest first. Raises: Unavailable,
        Invalid."""
        return [view async for view in self.transactions(key=key)]

    async def cluster(self) -> ClusterView:
        """The cluster as the replica sees it, of whichever shard, that answers first. Raises: Unavailable."""
        return await self._asking().ask("GET", "/v1/cluster", ClusterView)

    async def cluster_map(self) -> ClusterMap:
        """All shards, and where their replicas are. Raises: Unavailable."""
        return await self._asking().ask("GET", MAP_PATH, ClusterMap)

    async def participant_url(self, name: str) -> str:
        """Where the participant called `name` is. Raises: Unavailable, KeyError if it is not configured."""
        if name not in self._participants:
            view = await self._asking().ask("GET", "/v1/participants", ParticipantsView)
            self._participants = {participant.name: participant.url for participant in view.participants}
        return self._participants[name]

    def _asking(self) -> Asking:
        """A question that every replica can answer."""
        return Asking(self._shards.any, self._patience)

    def about(self, gid: str, timeout_s: float | None = None) -> Asking:
        """A question about `gid`."""
        return Asking(partial(self._shards.of, gid), self._patience, timeout_s)

    def asking_at(self, shard: Shard) -> Asking:
        """A question to the leader of a shard."""

        async def way(_: float) -> Shard:
            return shard

        return Asking(way, self._patience)

    async def shards(self) -> Sequence[Shard]:
        """All of them, in the order of their numbers. Raises: Unavailable."""
        return await self._asking().found(self._shards.all)

    @property
    def wait_ms(self) -> int:
        """How long a replica may keep one attempt waiting."""
        return self._patience.wait_ms
