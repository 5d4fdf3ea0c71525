"""Handle what arrives with an effect that happens once: the handler's work and the message's id commit together.

A message is handled as a branch that commits in one phase, and is named for the message. So its id is kept by the same
row that makes every branch idempotent, in the same transaction as the handler's rows, on every database; the broker is
told only after that commit. A message that comes again finds the row, and is only acknowledged.

A try that fails is aborted, durably, and the next one has a name of its own. One is begun only when all before it are
known to be aborted, so at most one of them commits, whoever tries, and however many do. When too many have failed, or
the handler has raised `Reject`, the message is kept in `message_dead` with the reason.

Must never do: acknowledge what has neither had its effect nor is buried.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from structlog import get_logger

from participant.errors import (
    BranchConflict,
    BrokerUnreachable,
    ConfigError,
    Reject,
    ResourceBusy,
    ResourceError,
    ResourceUnreachable,
    WireError,
)
from participant.ids import BranchKey
from participant.messages import tables
from participant.messages.broker import Delivery, Subscription
from participant.messages.lanes import in_lanes
from participant.messages.message import Message
from participant.messages.patience import pause_s
from participant.resource import Call
from participant.sql import branch_tx
from participant.wire import CONFLICT, Answer, BranchState

__all__ = ["ATTEMPTS_MAX", "HANDLING_MAX", "TRIES_MAX", "Handler", "Inbox"]

ATTEMPTS_MAX = 5  # tries that fail by the handler's own fault, before the message is dead
TRIES_MAX = 100  # with those that only met the rows of others
HANDLING_MAX = 32  # messages handled at once, each of another key

_LOG = get_logger(__name__)

Handler: TypeAlias = Callable[[Any, Message], Coroutine[Any, Any, Any]]
"""`async def handler(tx, message)`; the rules of actions hold, and `tx` is theirs. Raise `Reject` for what can never be
handled.
"""


class Branches(Protocol):
    """The part of a resource manager that this needs."""

    async def read(self, call: Call) -> Any: ...
    def commit_one_phase(self, key: BranchKey, call: Call | None) -> Awaitable[Answer]: ...


@dataclass(slots=True)
class _Try:
    """What one run of the handler has said; nothing if there was none here."""

    has_run: bool = False
    is_refused: bool = False
    why: str = ""


class Inbox:
    """One handler of one subscription. `run` it as a task of its own, while the resource manager is open."""

    def __init__(
        self,
        resource: Branches,
        subscription: Subscription,
        handler: Handler,
        chance: random.Random,
        *,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        """Raises ConfigError."""
        if not 1 <= attempts_max <= TRIES_MAX:
            raise ConfigError(f"attempts_max: must be 1 to {TRIES_MAX}, not {attempts_max!r}")
        self._resource = resource
        self._subscription = subscription
        self._handler = handler
        self._chance = chance
        self._attempts_max = attempts_max
        self._is_connected = False

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
        """After `run` has ended."""
        await self._subscription.close()

    async def run(self) -> None:
        """Until cancelled, or until the resource manager is closed or has failed."""
        tried = 0
        while True:
            try:
                await self._connect()
                await self.round()
                tried = 0
                continue
            except (BrokerUnreachable, ConfigError) as later:
                _LOG.warning("inbox.later", group=self._subscription.group, why=str(later))
            except ResourceError as error:
                _LOG.warning("inbox.stopped", group=self._subscription.group, why=str(error))
                return
            except Exception:  # noqa: BLE001 - the border: a defect must not end all handling
                _LOG.exception("inbox.failed", group=self._subscription.group)
            tried += 1
            await asyncio.sleep(pause_s(tried, self._chance.random()))

    async def round(self) -> None:
        """Handle what comes next, in order for each key."""
        await in_lanes(await self._subscription.fetch(), _lane_of, self._handle, HANDLING_MAX)

    async def _connect(self) -> None:
        if not self._is_connected:
            await self._subscription.open()
            self._is_connected = True

    async def _handle(self, delivery: Delivery) -> bool:
        """True: the next one of its lane may be handled."""
        await self.settle(delivery.message)
        try:
            await self._subscription.acknowledge(delivery)
        except BrokerUnreachable as later:
            _LOG.warning("inbox.later", group=self._subscription.group, why=str(later))  # it will come again
        return True

    async def settle(self, message: Message) -> None:
        """Until it has had its effect, or is buried; durable on return. Raises ResourceClosed, ResourceFailed."""
        failures, why = 0, ""
        try:
            _ = message.body
            for number in range(TRIES_MAX):
                run = _Try()
                answer = await self._try(message, str(number), self._handling(message, run))
                if answer.state is BranchState.COMMITTED:
                    return
                why = run.why or answer.reason
                failures += not answer.reason.startswith(CONFLICT)
                if run.is_refused or failures >= self._attempts_max:
                    break
                if run.has_run:
                    await asyncio.sleep(pause_s(number + 1, self._chance.random()))
        except (WireError, BranchConflict) as error:
            why = str(error)
        await self._bury(message, why)

    def _handling(self, message: Message, run: _Try) -> Callable[[Any, Any], Coroutine[Any, Any, None]]:
        async def handle(tx: Any, _: Any) -> None:
            run.has_run = True
            try:
                await self._handler(tx, message)
            except Reject as no:
                run.is_refused, run.why = True, no.reason
                raise
            except Exception as error:
                run.why = f"{type(error).__name__}: {error}"
                raise

        return handle

    async def _bury(self, message: Message, why: str) -> None:
        _LOG.error("inbox.dead", group=self._subscription.group, message=message.id, why=why)

        async def bury(tx: Any, _: Any) -> None:
            await tables.bury(await branch_tx(tx), message, why, group=self._subscription.group)

        for number in range(TRIES_MAX):
            answer = await self._try(message, f"dead.{number}", bury)
            if answer.state is BranchState.COMMITTED:
                return
            await asyncio.sleep(pause_s(number + 1, self._chance.random()))
        raise ResourceUnreachable(f"message {message.id} cannot be kept as dead: {answer.reason}")

    async def _try(
        self, message: Message, name: str, function: Callable[[Any, Any], Coroutine[Any, Any, None]]
    ) -> Answer:
        """One try, asked for until it is known how it has ended. Raises BranchConflict, ResourceError."""
        group = self._subscription.group
        key = BranchKey(_gid_of(message), f"{group}.{name}")
        call = Call.of(f"message to {group}", function, list(message))
        asked = 0
        while True:
            asked += 1
            try:
                answer = await self._resource.commit_one_phase(key, call)
                if answer.state in (BranchState.COMMITTED, BranchState.ABORTED):
                    return answer
                why = answer.reason
            except (ResourceBusy, ResourceUnreachable) as later:
                why = str(later)
            _LOG.warning("inbox.later", group=group, message=message.id, why=why)
            await asyncio.sleep(pause_s(asked, self._chance.random()))


def _gid_of(message: Message) -> str:
    """What its branches are named; ids of others may be longer than a gid."""
    name = f"{message.subject}/{message.id}".encode("utf-8", "surrogatepass")
    return "message:" + hashlib.blake2b(name, digest_size=16).hexdigest()


def _lane_of(delivery: Delivery) -> Hashable:
    message = delivery.message
    return (message.subject, message.key) if message.key else message.id
