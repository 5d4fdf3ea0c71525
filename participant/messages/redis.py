"""Redis Streams as a message broker. Needs redis-py: `pip install commitd[redis]`.

One stream for each subject, with one entry for each message: `id`, `key` and `body`, which is JSON. Redis itself knows
no ids, so a script appends and remembers the id in one step.

Redis keeps what it acknowledges through a power cut only with `appendonly yes` and `appendfsync always`. Because the
row in the outbox is deleted on that acknowledgement, anything less is refused, and so is a policy that evicts streams.
Redis replicates after it has acknowledged: a failover to a replica may lose what was acknowledged last.

Nothing here ever trims a stream: only whoever knows all its readers can tell what was read.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from structlog import get_logger

from participant.errors import BrokerUnreachable, ConfigError
from participant.messages.broker import DEDUPE_S, Delivery, Done, Published, Refused, Unknown
from participant.messages.message import (
    BODY_BYTES_MAX,
    Message,
    check_group,
    check_subject,
    received,
)

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoPermissionError, RedisError, ResponseError
except ImportError as missing:
    raise ImportError("messages over Redis need redis-py: pip install 'commitd[redis]'") from missing

__all__ = ["ANSWER_TIMEOUT_S", "CLAIM_AFTER_S", "FETCH_MAX", "FETCH_WAIT_S", "RedisStreams", "RedisSubscription"]

ANSWER_TIMEOUT_S = 5.0
FETCH_MAX = 32  # messages in one look
FETCH_WAIT_S = 1.0  # for the first of them
CLAIM_AFTER_S = 60.0  # what a reader did not acknowledge for so long goes to another one
CLAIM_INTERVAL_S = 5.0  # between two looks for such

_LOG = get_logger(__name__)

# The id that it has got is the value, so that a person can find the entry.
_APPEND = """
local known = redis.call('GET', KEYS[2])
if known then return known end
local entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'key', ARGV[2], 'body', ARGV[3])
redis.call('SET', KEYS[2], entry, 'PX', ARGV[4])
return entry
"""
# A reader that leaves takes its name with it, unless it has something that was not acknowledged: that would be lost.
_LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""
_SETTINGS = {"appendonly": "yes", "appendfsync": "always"}


class RedisStreams:
    """`participant.messages.broker.Broker`, see there.

    `url` is `redis://user:password@host:port/database`, or `rediss://` with TLS. `require_fsync=False` takes a Redis
    that may lose acknowledged messages, or does not say whether it does; they are gone then, without a trace.
    """

    def __init__(self, url: str, *, require_fsync: bool = True, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        """`body_bytes_max`: larger messages are refused, and kept as dead. Raises ConfigError."""
        self._url = url
        self._require_fsync = require_fsync
        self._body_bytes_max = body_bytes_max
        self._redis = _client(url)

    def subscription(self, subject: str, *, group: str) -> RedisSubscription:
        """What `group` reads of `subject`. Raises WireError, ConfigError."""
        return RedisSubscription(self._url, subject, group)

    async def open(self) -> None:
        try:
            async with _asking():
                await self._redis.ping()
                await self._check()
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        await self._redis.aclose()

    async def publish(self, message: Message) -> Published:
        size = len(message.text.encode())
        if size > self._body_bytes_max:
            return Refused(f"its body has {size:,} bytes; at most {self._body_bytes_max:,} are sent")
        stream = _stream_of(message.subject)
        keys = [stream, f"{stream}:{message.id}"]
        try:
            async with _asking():
                append = self._redis.register_script(_APPEND)
                await append(keys=keys, args=[message.id, message.key, message.text, int(DEDUPE_S * 1_000)])
        except BrokerUnreachable as error:
            return Unknown(str(error))
        return Done()

    async def _check(self) -> None:
        """Raises ConfigError, or says loudly what may be lost."""
        mistakes = await self._mistakes()
        if mistakes and self._require_fsync:
            raise ConfigError(
                f"Redis may lose messages that it has acknowledged: {'; '.join(mistakes)}. If they "
                "may be lost: `RedisStreams(…, require_fsync=False)`"
            )
        for mistake in mistakes:
            _LOG.warning("redis.may_lose_messages", why=mistake)

    async def _mistakes(self) -> list[str]:
        try:
            known = await self._redis.config_get("append*", "maxmemory-policy")
        except (NoPermissionError, ResponseError) as error:
            return [f"it does not say how it keeps its data ({error}): let this user run CONFIG GET"]
        mistakes = [
            f"{name} is {known.get(name)!r}: set `{name} {wanted}` in redis.conf, and CONFIG SET it"
            for name, wanted in _SETTINGS.items()
            if known.get(name) != wanted
        ]
        policy = str(known.get("maxmemory-policy", ""))
        if policy.startswith("allkeys"):
            mistakes.append(f"maxmemory-policy {policy} evicts streams: set `maxmemory-policy noeviction`")
        return mistakes


class RedisSubscription:
    """`participant.messages.broker.Subscription`, see there."""

    def __init__(self, url: str, subject: str, group: str) -> None:
        check_subject(subject)
        check_group(group)
        self.subject = subject
        self.group = group
        self._stream = _stream_of(subject)
        self._reader = secrets.token_hex(8)
        self._redis = _client(url)
        self._claim_at = 0.0

    async def open(self) -> None:
        async with _asking():
            try:
                await self._redis.xgroup_create(self._stream, self.group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def close(self) -> None:
        try:
            async with _asking():
                await self._redis.eval(_LEAVE, 1, self._stream, self.group, self._reader)
        except BrokerUnreachable as error:
            _LOG.info("redis.reader_left", reader=self._reader, why=str(error))
        await self._redis.aclose()

    async def fetch(self) -> list[Delivery]:
        async with _asking(FETCH_WAIT_S):
            try:
                entries = await self._overdue() or await self._new()
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self.open()  # somebody has deleted it
                return []
        return [self._delivery(entry, fields) for entry, fields in entries if fields]

    async def acknowledge(self, delivery: Delivery) -> None:
        async with _asking():
            await self._redis.xack(self._stream, self.group, delivery.receipt)

    async def _overdue(self) -> list[tuple[str, dict[str, str]]]:
        """What others, or a process before this one, have left."""
        now = asyncio.get_running_loop().time()
        if now < self._claim_at:
            return []
        claimed = await self._redis.xautoclaim(
            self._stream, self.group, self._reader, min_idle_time=int(CLAIM_AFTER_S * 1_000), count=FETCH_MAX
        )
        entries: list[tuple[str, dict[str, str]]] = claimed[1]
        self._claim_at = now if entries else now + CLAIM_INTERVAL_S
        return entries

    async def _new(self) -> list[tuple[str, dict[str, str]]]:
        streams: Any = await self._redis.xreadgroup(
            self.group, self._reader, {self._stream: ">"}, count=FETCH_MAX, block=int(FETCH_WAIT_S * 1_000)
        )
        listed = streams.items() if isinstance(streams, dict) else streams
        return [entry for _, entries in listed for entry in entries]

    def _delivery(self, entry: str, fields: dict[str, str]) -> Delivery:
        """An entry without an id is somebody else's, and named by its place."""
        name = fields.get("id") or f"{self.subject}:{entry}"
        return Delivery(received(name, self.subject, fields.get("key", ""), fields.get("body", "")), entry)


def _client(url: str) -> Redis:
    try:
        return Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=ANSWER_TIMEOUT_S + FETCH_WAIT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # one that was idle may be lost; all else is waited for elsewhere
        )
    except ValueError as error:
        raise ConfigError(f"the URL of Redis: {error}") from error


def _stream_of(subject: str) -> str:
    """With a hash tag, so that the ids of a stream are where it is."""
    return f"{{messages:{subject}}}"


@asynccontextmanager
async def _asking(more_s: float = 0.0) -> AsyncIterator[None]:
    """Raise BrokerUnreachable for whatever says that there is no answer, or none in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S + more_s):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BrokerUnreachable(f"Redis: {error or type(error).__name__}") from error
