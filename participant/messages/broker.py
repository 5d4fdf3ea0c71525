"""The port of a message broker: an append-only stream for each subject, on the broker's disk, read by groups.

Implementations: `participant.messages.redis`, `participant.messages.nats`. Both pass one contract suite.

A message that is published again under the same id is appended once, as far as the broker remembers (`DEDUPE_S`); who
reads must know ids for longer than that (`participant.messages.inbox`). What is published after another one was
answered `Done` stands behind it in the stream.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

from participant.messages.message import Message

__all__ = ["DEDUPE_S", "Broker", "Delivery", "Done", "Published", "Refused", "Subscription", "Unknown"]

DEDUPE_S = 600.0  # how long a broker remembers ids, at least


class Done(NamedTuple):
    """The broker has it, as durable as that broker is."""


class Refused(NamedTuple):
    """The broker will never take it, and does not have it."""

    why: str


class Unknown(NamedTuple):
    """The broker may have it or not, or cannot take it now; publishing it again is safe."""

    why: str


Published: TypeAlias = Done | Refused | Unknown


class Delivery(NamedTuple):
    """A message that has come, with what its subscription needs to acknowledge it."""

    message: Message
    receipt: Any


class Broker(Protocol):
    """Where messages go."""

    async def open(self) -> None:
        """Connect, and see that the broker keeps what it acknowledges.

        Raises: BrokerUnreachable, and ConfigError if it would lose messages, saying which setting to change.
        """

    async def close(self) -> None:
        """Give the connection back. Harmless if it is not open."""

    async def publish(self, message: Message) -> Published:
        """Append it to the stream of its subject, unless it is there. Raises nothing for what a broker may do."""


class Subscription(Protocol):
    """What one group reads of one subject. Each message comes to one reader of the group, until it is acknowledged."""

    group: str
    subject: str

    async def open(self) -> None:
        """Connect, and make the group if it is new; it begins with the oldest message. Raises as `Broker.open`."""

    async def close(self) -> None:
        """Give the connection back. What was not acknowledged will come again. Harmless if it is not open."""

    async def fetch(self) -> list[Delivery]:
        """The next messages, in the order of the stream; [] if none came in a moment. Raises BrokerUnreachable.

        What another reader, or an earlier process, did not acknowledge in time comes again.
        """

    async def acknowledge(self, delivery: Delivery) -> None:
        """It need not come again. Raises BrokerUnreachable: then it will."""
