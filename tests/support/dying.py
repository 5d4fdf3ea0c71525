"""A participant in a process of its own, which kills itself right before it would have finished its work on a message.

As `relay` it dies when the broker has taken so many messages, before that is in the database. As `reader` it dies when
so many handlers have committed, before the broker hears of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from participant.messages import nats as over_nats
from participant.messages import redis as over_redis
from participant.messages import relay
from participant.messages.broker import Broker, Delivery, Done, Published, Subscription
from participant.messages.message import Message
from tests.support.brokers import Line
from tests.support.shops import make_reader, make_shop

__all__ = ["HASTE", "die_as"]

HASTE: tuple[tuple[ModuleType, str, float], ...] = (  # what the dead have left is taken up soon
    (relay, "LEASE_S", 0.3),
    (over_redis, "CLAIM_AFTER_S", 0.1),
    (over_redis, "CLAIM_INTERVAL_S", 0.1),
    (over_redis, "ANSWER_TIMEOUT_S", 1.0),
    (over_nats, "ACK_WAIT_S", 1.0),
    (over_nats, "ANSWER_TIMEOUT_S", 1.0),
)

ROOT = Path(__file__).parents[2]


class _Dying:
    """Counts, and dies after so many."""

    def __init__(self, inner: Any, after: int) -> None:
        self._inner = inner
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class _DyingBroker(_Dying):
    _inner: Broker

    async def publish(self, message: Message) -> Published:
        published = await self._inner.publish(message)
        if published == Done():
            self._count()
        return published


class _DyingSubscription(_Dying):
    _inner: Subscription

    async def acknowledge(self, delivery: Delivery) -> None:
        self._count()
        await self._inner.acknowledge(delivery)


async def die_as(role: str, kind: str, place: str, line: Line, after: int) -> int:
    """Run such a process to its end; its exit status."""
    arguments = (role, kind, place, line.kind, line.url, line.subject, str(after))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.dying", *arguments, cwd=ROOT)
    return await process.wait()


async def _run(role: str, kind: str, place: str, line: Line, after: int) -> None:
    for module, name, value in HASTE:
        setattr(module, name, value)
    if role == "relay":
        participant = make_shop(kind, place, _DyingBroker(line.broker(), after))
    else:
        participant = make_reader(kind, place, _DyingSubscription(line.subscription(), after))
    async with participant.serving():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], sys.argv[3], Line(*sys.argv[4:7]), int(sys.argv[7])))
