"""A NATS server with JetStream.

What it acknowledges survives a kill. A power cut may take what it acknowledged last: version 2.9, Debian's, cannot be
told to force each write to the disk (`sync_interval: always`, since 2.10).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from participant.testing.servers.server import LOOPBACK, Server, find_program

__all__ = ["Nats"]


class Nats(Server):
    """Its streams are below its folder."""

    user = "nats"

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self._program = find_program("nats-server", "nats-server")

    @property
    def url(self) -> str:
        """For clients."""
        return f"nats://{LOOPBACK}:{self.port}"

    async def make(self) -> None:
        """It makes its data itself."""

    def command(self) -> Sequence[str | Path]:
        return (self._program, "-a", LOOPBACK, "-p", str(self.port), "-js", "-sd", self.folder)

    async def probe(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bool:
        """It greets with INFO and what it can do."""
        greeting = await reader.readline()
        return greeting.startswith(b"INFO ") and bool(json.loads(greeting[5:]).get("jetstream"))
