"""Forward the committed rows of the outbox to the broker, and delete each once the broker has it.

Owns the order and the repeats: at least once, and of one subject and key one after the other. A row is deleted only
after the broker's own acknowledgement; what became of one that was not acknowledged is unknown, and it is sent again,
under the same id. Must never do: skip a row because a later one was seen, or send a row before the one in front of it
in its lane is acknowledged or dead.

Several processes. The order does not rest on there being one relay only. Each sends a message after the one in front of
it was acknowledged to itself, or is gone from the table because it was to another; so whoever runs beside or behind
another one can only repeat what was sent, and repeats are known by their ids. The lease only saves the work of doing
everything twice; it may be wrong without any harm, so it may rest on clocks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from typing import Any, Protocol

from structlog import get_logger

from participant.errors import (
    BrokerUnreachable,
    ConfigError,
    ResourceBusy,
    ResourceError,
    ResourceUnreachable,
)
from participant.ids import BranchKey
from participant.messages import tables
from participant.messages.broker import Broker, Done, Refused, Unknown
from participant.messages.lanes import in_lanes
from participant.messages.patience import Trouble
from participant.messages.tables import Lease, Waiting
from participant.resource import Call
from participant.sql import branch_tx
from participant.wire import Answer, BranchState

__all__ = ["BATCH_ROWS_MAX", "LEASE_S", "POLL_S", "SENDING_MAX", "SUBJECTS_PAUSED_MAX", "Relay"]

POLL_S = 0.25  # between two looks at an empty outbox
BATCH_ROWS_MAX = 128
SENDING_MAX = 32  # messages on their way at once, each of another lane
LEASE_S = 5.0  # after which another relay takes over
SUBJECTS_PAUSED_MAX = 100  # subjects that are left out of a look because the broker does not take them now

_LOG = get_logger(__name__)


class Rows(Protocol):
    """The part of a resource manager that this needs."""

    async def read(self, call: Call) -> Any: ...
    def commit_one_phase(self, key: BranchKey, call: Call | None) -> Awaitable[Answer]: ...


class Relay:
    """The relay of one process. `run` it as a task of its own, while the resource manager is open."""

    def __init__(self, resource: Rows, broker: Broker, chance: random.Random) -> None:
        self._resource = resource
        self._broker = broker
        self._chance = chance
        self._holder = f"{chance.getrandbits(64):016x}"
        self._writes = 0
        self._is_connected = False
        self._holds_until = 0.0
        self._troubles: dict[str, Trouble] = {}

    async def open(self) -> None:
        """See that the tables are there, and connect; a broker that does not answer now is asked again later.

        Raises ConfigError.
        """
        await tables.check(self._resource)
        try:
            await self._connect()
        except BrokerUnreachable as later:
            _LOG.warning("broker.unreachable", why=str(later))

    async def close(self) -> None:
        """After `run` has ended: another one need not wait until the lease is over."""
        if asyncio.get_running_loop().time() < self._holds_until:
            with suppress(ResourceError):
                await self._write(lambda tx: tables.give_lease(tx, self._holder))
        await self._broker.close()

    async def status(self) -> dict[str, Any]:
        """How many messages wait (`tables.COUNTED_MAX` at most), since when, and how many nobody takes."""
        rows, oldest_s, dead = await self._read(tables.count)
        return {"waiting": rows, "oldest_s": oldest_s, "dead": dead}

    async def run(self) -> None:
        """Until cancelled, or until the resource manager is closed or has failed."""
        while True:
            is_more = False
            try:
                await self._connect()
                is_more = await self.round()
            except (ResourceBusy, ResourceUnreachable, BrokerUnreachable, ConfigError) as later:
                _LOG.warning("outbox.later", why=str(later))
            except ResourceError as error:
                _LOG.warning("outbox.stopped", why=str(error))
                return
            except Exception:  # noqa: BLE001 - the border: a defect must not keep all messages back for ever
                _LOG.exception("outbox.failed")
            if not is_more:
                await asyncio.sleep(POLL_S)

    async def round(self) -> bool:
        """Send what is there, if it is this relay's turn; whether there may be more."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        paused = [subject for subject, trouble in self._troubles.items() if trouble.until > asked_at]
        rows, lease = await self._look(paused[:SUBJECTS_PAUSED_MAX])
        if not rows or (lease.left_ms and lease.holder != self._holder):
            return False
        until = asked_at + lease.left_ms / 1_000
        if lease.holder != self._holder or lease.left_ms < LEASE_S * 500:
            asked_at = loop.time()
            if not await self._write(lambda tx: tables.take_lease(tx, self._holder, int(LEASE_S * 1_000))):
                return False
            until = asked_at + LEASE_S
        self._holds_until = until
        done, refused = await self._send(rows, until)
        if done or refused:
            await self._write(lambda tx: self._settle(tx, done, refused))
        return bool(done or refused)

    async def _connect(self) -> None:
        if not self._is_connected:
            await self._broker.open()
            self._is_connected = True

    async def _send(self, rows: list[Waiting], until: float) -> tuple[list[Waiting], list[tuple[Waiting, str]]]:
        """What the broker has now, and what it will never take, with the reason."""
        loop = asyncio.get_running_loop()
        done: list[Waiting] = []
        refused: list[tuple[Waiting, str]] = []

        async def send(row: Waiting) -> bool:
            message = row.message
            trouble = self._troubles.get(message.subject)
            if loop.time() >= until or (trouble is not None and loop.time() < trouble.until):
                return False
            match await self._broker.publish(message):
                case Done():
                    done.append(row)
                    self._troubles.pop(message.subject, None)
                case Refused(why):
                    refused.append((row, why))
                    _LOG.error("outbox.refused", message=message.id, subject=message.subject, why=why)
                case Unknown(why):
                    self._wait_for(message.subject, why)
                    return False
            return True

        await in_lanes(rows, _lane_of, send, SENDING_MAX)
        return done, refused

    def _wait_for(self, subject: str, why: str) -> None:
        now = asyncio.get_running_loop().time()
        trouble = Trouble.after(self._troubles.get(subject), now, self._chance.random())
        if trouble.is_alarming(now):
            _LOG.error("outbox.late", subject=subject, for_s=round(now - trouble.since), why=why)
            trouble = trouble._replace(alarmed_at=now)
        elif trouble.tried == 1:
            _LOG.warning("outbox.later", subject=subject, why=why)
        self._troubles[subject] = trouble

    async def _settle(self, tx: Any, done: list[Waiting], refused: list[tuple[Waiting, str]]) -> bool:
        await tables.remove(tx, [*done, *(row for row, _ in refused)])
        for row, why in refused:
            await tables.bury(tx, row.message, why)
        await tables.take_lease(tx, self._holder, int(LEASE_S * 1_000))  # which costs no write of its own, here
        return True

    async def _look(self, paused: list[str]) -> tuple[list[Waiting], Lease]:
        found: tuple[list[Waiting], Lease] = await self._read(lambda tx: tables.waiting(tx, BATCH_ROWS_MAX, paused))
        return found

    async def _read(self, ask: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        async def view(tx: Any, _: Any) -> Any:
            return await ask(await branch_tx(tx))

        return await self._resource.read(Call.of("outbox", view, None))

    async def _write(self, work: Callable[[Any], Coroutine[Any, Any, bool]]) -> bool:
        """As a branch of its own, committed in one phase; whether it was, and `work` said yes in the end."""
        said = [False]

        async def action(tx: Any, _: Any) -> None:
            said[0] = await work(await branch_tx(tx))

        self._writes += 1
        key = BranchKey(f"relay:{self._holder}", str(self._writes))
        answer: Answer = await self._resource.commit_one_phase(key, Call.of("outbox", action, None))
        if answer.state is not BranchState.COMMITTED:
            _LOG.warning("outbox.later", why=answer.reason)
        return answer.state is BranchState.COMMITTED and said[0]


def _lane_of(row: Waiting) -> Hashable:
    """Where it must stay in order. A message without a key has a lane of its own."""
    message = row.message
    return (message.subject, message.key) if message.key else message.id
