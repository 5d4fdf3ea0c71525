"""`commitd cluster`: the replicas of all shards, each as it sees itself."""

from __future__ import annotations

import asyncio

import typer
from pydantic import BaseModel

from coordinator.cli import render
from coordinator.cli.asking import JsonOption, UrlOption, ask
from coordinator.client import Client
from coordinator.errors import ClientError
from coordinator.shards import ReplicaView
from coordinator.wire import ClusterView

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at the cluster.")

REPLICA_TIMEOUT_S = 2.0


class ReplicaStatus(BaseModel):
    """One replica of a shard, and what it says of itself; None if it did not answer."""

    shard: int
    replica: ReplicaView
    status: ClusterView | None


class ClusterStatus(BaseModel):
    """Every replica of every shard."""

    replicas: list[ReplicaStatus]


@app.callback()
def cluster() -> None:
    """Look at the cluster."""


@app.command()
def status(url: UrlOption, as_json: JsonOption = False) -> None:
    """Show every replica of every shard as it sees itself."""
    found = ask(url, _question)
    if as_json:
        render.print_json(ClusterStatus(replicas=found))
    else:
        render.print_table(render.cluster_table((each.shard, each.replica, each.status) for each in found))


async def _question(client: Client) -> list[ReplicaStatus]:
    shards = (await client.cluster_map()).shards
    return await asyncio.gather(*(_ask(each.shard, replica) for each in shards for replica in each.replicas))


async def _ask(shard: int, replica: ReplicaView) -> ReplicaStatus:
    async with Client([replica.url], timeout_s=REPLICA_TIMEOUT_S, routed=False) as client:
        try:
            return ReplicaStatus(shard=shard, replica=replica, status=await client.cluster())
        except ClientError:
            return ReplicaStatus(shard=shard, replica=replica, status=None)
