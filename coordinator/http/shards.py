"""Which transactions are this replica's, and where the others are.

Never changes anything: whoever asks the wrong shard is told the right one before anything is begun.
"""

from __future__ import annotations

from coordinator.errors import OtherShard, WrongShard
from coordinator.http.context import Context
from coordinator.shards import draw_gid, shard_of
from coordinator.wire import TransactionRequest

__all__ = ["placed", "require_own", "url_at", "wrong_shard"]


def require_own(context: Context, gid: str) -> None:
    """Raises OtherShard."""
    placement = context.placement
    if placement is not None and (shard := shard_of(gid, len(placement.urls))) != placement.shard:
        raise OtherShard(gid, shard)


def placed(context: Context, request: TransactionRequest) -> TransactionRequest:
    """A new transaction of this shard; one without a gid gets one that belongs here. Raises OtherShard."""
    placement = context.placement
    if placement is None:
        return request
    if request.gid is None:
        gid = draw_gid(placement.shard, len(placement.urls), placement.draw)
        return request.model_copy(update={"gid": gid})
    require_own(context, request.gid)
    return request


def url_at(context: Context, shard: int) -> str:
    """Where this node's replica of a shard is."""
    return context.shards[shard][context.node]


def wrong_shard(context: Context, error: OtherShard) -> WrongShard:
    """What is said of one transaction of many, which cannot be redirected by itself."""
    return WrongShard(f"{error}: send it to {url_at(context, error.shard)}")
