"""Participants in this process: for tests, the simulator, and services that live beside their coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from coordinator.ports import CallFailed
from participant.wire import Answer, Capabilities, Operation

__all__ = ["LocalParticipant", "LocalParticipants"]


class LocalParticipant(Protocol):
    """What an object must offer to be called here; `participant.service` does.

    Both methods may raise CallFailed: the outcome is then unknown. Another exception is a bug.
    """

    async def perform(self, operation: Operation) -> Answer:
        """Do one operation; the answer is durable before it is given."""

    def capabilities(self) -> Capabilities:
        """What it can do."""


class LocalParticipants:
    """The `Participants` port over objects. The mapping is read at each call, so a test may replace an object."""

    def __init__(self, objects: Mapping[str, LocalParticipant]) -> None:
        self._objects = objects

    def known(self, name: str) -> bool:
        return name in self._objects

    def url(self, name: str) -> str:
        return f"local://{name}"

    async def capabilities(self, name: str) -> Capabilities:
        return self._find(name).capabilities()

    def call(self, name: str, operation: Operation) -> asyncio.Future[Answer]:
        return asyncio.ensure_future(self._perform(name, operation))

    async def _perform(self, name: str, operation: Operation) -> Answer:
        return await self._find(name).perform(operation)

    def _find(self, name: str) -> LocalParticipant:
        try:
            return self._objects[name]
        except KeyError:
            raise CallFailed(f"{name} is not configured") from None
