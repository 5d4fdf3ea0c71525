"""The brokers that are ours, each with a subject of its own, and one that does what a test says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import nats
import redis.asyncio

from participant.messages.broker import Broker, Done, Published, Subscription
from participant.messages.message import Message
from participant.messages.nats import NatsStreams
from participant.messages.redis import RedisStreams
from participant.testing.servers import Nats, Redis

__all__ = ["BROKERS", "Line", "ToldBroker", "line_on"]

BROKERS = ("redis", "nats")

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Line:
    """A broker with a subject that nobody else uses. `url` and `subject` make it again in another process."""

    kind: str
    url: str
    subject: str

    def broker(self) -> Broker:
        if self.kind == "redis":
            return RedisStreams(self.url)
        return self._nats()

    def subscription(self, group: str = "readers") -> Subscription:
        if self.kind == "redis":
            return RedisStreams(self.url).subscription(self.subject, group=group)
        return self._nats().subscription(self.subject, group=group)

    def message(self, name: str, key: str = "", text: str = "null") -> Message:
        return Message(name, self.subject, key, text)

    async def owed(self, group: str = "readers") -> int:
        """How many messages were handed to the group's readers and not acknowledged."""
        if self.kind == "redis":
            async with redis.asyncio.from_url(self.url) as server:
                return int((await server.xpending(f"{{messages:{self.subject}}}", group))["pending"])
        client = await nats.connect(self.url)
        try:
            consumer = await client.jetstream().consumer_info(self.subject, f"{group}__{self.subject}")
        finally:
            await client.close()
        return int(consumer.num_ack_pending or 0)

    def _nats(self) -> NatsStreams:
        return NatsStreams(self.url, stream=self.subject, subjects=[self.subject])


def line_on(server: Redis | Nats) -> Line:
    """A new one."""
    return Line(type(server).__name__.lower(), server.url, f"subject-{os.getpid()}-{next(_NUMBERS)}")


@dataclass(slots=True)
class ToldBroker:
    """It has all that it was sent, in `sent`, and answers what `answer` says."""

    answer: Callable[[Message], Published] = lambda _: Done()
    sent: list[Message] = field(default_factory=list)

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def publish(self, message: Message) -> Published:
        self.sent.append(message)
        return self.answer(message)
