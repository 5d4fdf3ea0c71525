"""Which transactions are this replica's, and where the others are.

Never changes anything: whoever asks the wrong shard is told the right one before anything is begun.
"""

from __future__ import annotations

from coordinator.errors import Invalid, OtherShard, WrongShard
from coordinator.http.context import Context
from coordinator.shards import draw_gid, shard_of
from coordinator.wire import TransactionRequest

__all__ = ["own_gid", "placed", "require_own", "url_at", "wrong_shard"]


def require_own(context: Context, gid: str) -> None:
    """Raises OtherShard."""
    placement = context.placement
    if placement is not None and (shard := shard_of(gid, len(placement.urls))) != placement.shard:
        raise OtherShard(gid, shard)


def own_gid(context: Context, gid: str | None) -> str | None:
    """The gid, which belongs here; without one, one that does, where there are several shards. Raises OtherShard."""
    placement = context.placement
    if gid is not None:
        require_own(context, gid)
    elif placement is not None:
        return draw_gid(placement.shard, len(placement.urls), placement.draw)
    return gid


def placed(context: Context, request: TransactionRequest) -> TransactionRequest:
    """A new transaction of this shard; one without a gid gets one that belongs here. A shard keeps the order of the
    keys that belong to it, as gids do. Raises: OtherShard, Invalid."""
    placement = context.placement
    if placement is None:
        return request
    gid = own_gid(context, request.gid)
    for number, branch in enumerate(request.branches):
        key = None if branch.step is None else branch.step.order_key
        if key is not None and (shard := shard_of(key, len(placement.urls))) != placement.shard:
            if request.gid is None:
                raise OtherShard(key, shard)
            why = f"belongs to shard {shard}, and the gid does not, so that nobody would know both in one order"
            raise Invalid.field(f"branches.{number}.step.order_key", why)
    return request.model_copy(update={"gid": gid})


def url_at(context: Context, shard: int) -> str:
    """Where this node's replica of a shard is."""
    return context.shards[shard][context.node]


def wrong_shard(context: Context, error: OtherShard) -> WrongShard:
    """What is said of one transaction of many, which cannot be redirected by itself."""
    return WrongShard(f"{error}: send it to {url_at(context, error.shard)}")
