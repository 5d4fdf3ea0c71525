"""What every handler needs, under one key of the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from coordinator.driver.replica import Replica

__all__ = ["CONTEXT", "REQUEST_ID", "REQUEST_ID_HEADER", "Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """`urls`: where callers reach the replicas, by node name. `participants`: their URLs, by name."""

    replica: Replica
    cluster: str
    node: str
    urls: Mapping[str, str] = field(default_factory=dict)
    participants: Mapping[str, str] = field(default_factory=dict)
    requests_per_connection_max: int = 100_000


REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)  # every request has one
CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
