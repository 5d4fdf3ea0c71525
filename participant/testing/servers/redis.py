"""A Redis server. Every write is on the disk before it is answered, unless `settings` say otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from participant.testing.servers.server import LOOPBACK, Server, find_program

__all__ = ["Redis"]

_SETTINGS = {"save": "", "appendonly": "yes", "appendfsync": "always"}


class Redis(Server):
    """`settings` are directives of `redis.conf`."""

    user = "redis"

    def __init__(self, folder: Path, port: int, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port)
        self.settings = {**_SETTINGS, **(settings or {})}
        self._program = find_program("redis-server", "redis-server")

    @property
    def url(self) -> str:
        """Of its database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    async def make(self) -> None:
        """It makes its data itself."""

    def command(self) -> Sequence[str | Path]:
        chosen = (part for name, value in self.settings.items() for part in (f"--{name}", value))
        return (self._program, "--port", str(self.port), "--bind", LOOPBACK, "--dir", self.folder, *chosen)

    async def probe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """While it loads its data it answers PING with -LOADING."""
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
