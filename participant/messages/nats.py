"""NATS JetStream as a message broker. Needs nats-py: `pip install commitd[nats]`.

One stream for all subjects, in files. A message is published with its id as `Nats-Msg-Id`, by which the server finds
repeats, and counts as sent when the server has acknowledged it. The body is JSON; the key is in the header
`Commitd-Key`, percent-encoded.

What the server acknowledges is in its files, and survives its process. A power cut may take the last of it: the server
forces files to the disk every two minutes, unless it is told `sync_interval: always`, which version 2.10 and newer
know. A client cannot see which. With three replicas on machines that do not fail together, a majority has it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

from structlog import get_logger

from participant.errors import BrokerUnreachable, ConfigError
from participant.messages.broker import DEDUPE_S, Delivery, Done, Published, Refused, Unknown
from participant.messages.message import Message, check_group, check_subject, received

try:
    from nats.aio.client import Client
    from nats.errors import Error as NatsError
    from nats.errors import MaxPayloadError
    from nats.js import JetStreamContext, api
    from nats.js.errors import APIError, NotFoundError
except ImportError as missing:
    raise ImportError("messages over NATS need nats-py: pip install 'commitd[nats]'") from missing

__all__ = ["ACK_WAIT_S", "ANSWER_TIMEOUT_S", "FETCH_MAX", "FETCH_WAIT_S", "NatsStreams", "NatsSubscription"]

ANSWER_TIMEOUT_S = 5.0
FETCH_MAX = 32  # messages in one look
FETCH_WAIT_S = 1.0  # for the first of them
RECONNECT_S = 1  # between two tries to connect again
ACK_WAIT_S = 60.0  # what was not acknowledged for so long comes again

_LOG = get_logger(__name__)

_ID, _KEY = "Nats-Msg-Id", "Commitd-Key"
_TOO_LARGE = 10_054  # the server's number for a message that the stream does not take
_ERRORS = (NatsError, OSError, TimeoutError)


class _Connection:
    """A client that connects again by itself, for as long as it is open."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None

    async def open(self) -> JetStreamContext:
        """Raises BrokerUnreachable."""
        await self.close()
        client = Client()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await client.connect(
                    self._url.split(","),
                    max_reconnect_attempts=-1,  # also at first, for ever
                    reconnect_time_wait=RECONNECT_S,
                    error_cb=_said_elsewhere,
                )
        except (*_ERRORS, ValueError) as error:
            await _end(client)
            raise _unreachable(error) from error
        self._client = client
        return client.jetstream(timeout=ANSWER_TIMEOUT_S)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _end(client)


class NatsStreams:
    """`participant.messages.broker.Broker`, see there.

    `url` is `nats://host:port`, or several with commas between. The stream is made if it is not there, with `replicas`
    copies, for all `subjects` (NATS's wildcards: `orders.>`); one that is there stays as it is.
    """

    def __init__(self, url: str, *, stream: str, subjects: list[str], replicas: int = 1) -> None:
        self._url = url
        self._stream = stream
        self._subjects = subjects
        self._replicas = replicas
        self._connection = _Connection(url)
        self._streams: JetStreamContext | None = None

    def subscription(self, subject: str, *, group: str) -> NatsSubscription:
        """What `group` reads of `subject`. Raises WireError."""
        return NatsSubscription(self._url, self._stream, subject, group)

    async def open(self) -> None:
        streams = await self._connection.open()
        try:
            config = await self._made(streams)
        except _ERRORS as error:
            raise _unreachable(error) from error
        if config.storage != api.StorageType.FILE:
            await self.close()
            raise ConfigError(
                f"stream {self._stream} of NATS is in memory, and would lose what it has acknowledged: make it "
                "anew with file storage"
            )
        if (config.num_replicas or 1) < 3:
            _LOG.warning(
                "nats.may_lose_messages",
                why="a power cut may take what one server has acknowledged last: use three replicas, or "
                "`sync_interval: always` of NATS 2.10",
            )
        self._streams = streams

    async def close(self) -> None:
        await self._connection.close()

    async def publish(self, message: Message) -> Published:
        if self._streams is None:
            return Unknown("NATS is not connected")
        headers = {_ID: message.id, _KEY: quote(message.key)}
        try:
            await self._streams.publish(
                message.subject, message.text.encode(), timeout=ANSWER_TIMEOUT_S, stream=self._stream, headers=headers
            )
        except MaxPayloadError as error:
            return Refused(f"NATS: {error}")
        except APIError as error:
            if error.err_code == _TOO_LARGE:
                return Refused(f"NATS: {error.description}")
            return Unknown(f"NATS: {error.description}")
        except _ERRORS as error:
            return Unknown(f"NATS: {error or type(error).__name__}")
        return Done()

    async def _made(self, streams: JetStreamContext) -> api.StreamConfig:
        try:
            info = await streams.stream_info(self._stream)
        except NotFoundError:
            info = await streams.add_stream(
                api.StreamConfig(
                    name=self._stream,
                    subjects=self._subjects,
                    storage=api.StorageType.FILE,
                    num_replicas=self._replicas,
                    duplicate_window=DEDUPE_S,
                )
            )
        return info.config


class NatsSubscription:
    """`participant.messages.broker.Subscription`, see there."""

    def __init__(self, url: str, stream: str, subject: str, group: str) -> None:
        check_subject(subject)
        check_group(group)
        self.subject = subject
        self.group = group
        self._stream = stream
        self._connection = _Connection(url)
        self._pull: Any = None

    async def open(self) -> None:
        streams = await self._connection.open()
        durable = f"{self.group}__{self.subject.replace('.', '__')}"  # a dot may not stand in it
        config = api.ConsumerConfig(
            ack_policy=api.AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_S, deliver_policy=api.DeliverPolicy.ALL, max_deliver=-1
        )
        try:
            self._pull = await streams.pull_subscribe(self.subject, durable=durable, stream=self._stream, config=config)
            known = (await self._pull.consumer_info()).config.filter_subject
        except _ERRORS as error:
            raise _unreachable(error) from error
        if known != self.subject:
            await self.close()
            raise ConfigError(f"consumer {durable} of stream {self._stream} is of {known!r}, not {self.subject!r}")

    async def close(self) -> None:
        await self._connection.close()

    async def fetch(self) -> list[Delivery]:
        try:
            messages = await self._pull.fetch(FETCH_MAX, timeout=FETCH_WAIT_S)
        except TimeoutError:
            return []
        except _ERRORS as error:
            raise _unreachable(error) from error
        return [self._delivery(message) for message in messages]

    async def acknowledge(self, delivery: Delivery) -> None:
        try:
            await delivery.receipt.ack_sync(timeout=ANSWER_TIMEOUT_S)
        except _ERRORS as error:
            raise _unreachable(error) from error

    def _delivery(self, message: Any) -> Delivery:
        """A message without an id is somebody else's, and named by its place."""
        headers = message.headers or {}
        name = headers.get(_ID) or f"{self._stream}:{message.metadata.sequence.stream}"
        text = message.data.decode("utf-8", "replace")
        return Delivery(received(name, message.subject, unquote(headers.get(_KEY, "")), text), message)


async def _end(client: Client) -> None:
    """Whatever state it is in."""
    with suppress(*_ERRORS):
        await client.close()


async def _said_elsewhere(error: Exception) -> None:
    """The client's own errors: what they mean for a message is answered where it is published or fetched."""
    _LOG.info("nats.error", why=str(error) or type(error).__name__)


def _unreachable(error: BaseException) -> BrokerUnreachable:
    return BrokerUnreachable(f"NATS: {error or type(error).__name__}")
