"""`commitd cluster`: the replicas, each as it sees itself."""

from __future__ import annotations

import asyncio

import typer
from pydantic import BaseModel

from coordinator.cli import render
from coordinator.cli.asking import JsonOption, UrlOption, ask
from coordinator.client import Client
from coordinator.errors import ClientError
from coordinator.wire import ClusterView, MemberView

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at the cluster.")

MEMBER_TIMEOUT_S = 2.0


class ReplicaStatus(BaseModel):
    """One member, and what it says of itself; None if it did not answer."""

    member: MemberView
    status: ClusterView | None


class ClusterStatus(BaseModel):
    """Every member."""

    replicas: list[ReplicaStatus]


@app.callback()
def cluster() -> None:
    """Look at the cluster."""


@app.command()
def status(url: UrlOption, as_json: JsonOption = False) -> None:
    """Show every replica as it sees itself."""
    found = ask(url, _question)
    if as_json:
        replicas = [ReplicaStatus(member=member, status=view) for member, view in found]
        render.print_json(ClusterStatus(replicas=replicas))
    else:
        render.print_table(render.cluster_table(found))


async def _question(client: Client) -> list[tuple[MemberView, ClusterView | None]]:
    members = (await client.cluster()).members
    views = await asyncio.gather(*(_status_of(member) for member in members))
    return list(zip(members, views, strict=True))


async def _status_of(member: MemberView) -> ClusterView | None:
    if member.url is None:
        return None
    async with Client([member.url], timeout_s=MEMBER_TIMEOUT_S) as client:
        try:
            return await client.cluster()
        except ClientError:
            return None
