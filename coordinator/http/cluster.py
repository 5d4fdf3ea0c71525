"""The cluster as this replica sees it, the map of its shards, and the participants that it knows."""

from __future__ import annotations

from aiohttp import web

from coordinator.http.context import CONTEXT
from coordinator.http.media import respond
from coordinator.shards import map_of
from coordinator.wire import ClusterView, MemberView, ParticipantsView, ParticipantView

__all__ = ["map_", "participants", "show"]


async def show(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    replica = context.replica
    status = replica.log.status()
    leadership = status.leadership
    members = [
        MemberView(name=member.name, address=member.address, url=context.urls.get(member.name))
        for member in status.members
    ]
    view = ClusterView(
        cluster=context.cluster,
        shard=context.shard,
        shards=len(context.shards),
        node=context.node,
        role=leadership.role.value,
        term=leadership.term,
        leader=leadership.leader,
        leader_url=context.urls.get(leadership.leader or ""),
        members=members,
        connected=list(status.connected),
        last_index=status.last_index,
        durable_index=status.durable_index,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        snapshot_index=status.snapshot_index,
        journal_bytes=status.journal_bytes,
        in_flight=replica.supervisor.in_flight,
        open=replica.supervisor.open,
        waiting=len(replica.waiters),
        broken=replica.supervisor.broken,
        recorded=len(replica.ledger),
        counters=status.counters,
    )
    return respond(request, view)


async def map_(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    return respond(request, map_of(context.cluster, context.shards))


async def participants(request: web.Request) -> web.Response:
    known = sorted(request.app[CONTEXT].participants.items())
    return respond(request, ParticipantsView(participants=[ParticipantView(name=name, url=url) for name, url in known]))
