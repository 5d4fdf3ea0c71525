"""One question to the cluster, asked until it is answered or time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from coordinator.client.policy import Next, Pauses, next_after, pause_s
from coordinator.client.replicas import Reply
from coordinator.client.session import Lost, NotReached
from coordinator.client.shards import Shard
from coordinator.errors import OutcomeUnknown, Overloaded, RequestError, Unavailable, Unreachable
from coordinator.wire import WAIT_MAX_MS, handle_of

__all__ = ["ATTEMPT_MIN_S", "Asking", "Patience", "Way", "honest"]

ATTEMPT_MIN_S = 0.05  # with less time left, an attempt would only make its outcome unknown

Way: TypeAlias = Callable[[float], Awaitable[Shard]]

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Patience:
    """`timeout_s`: for a question with all its attempts; `attempt_timeout_s`: for one replica's answer."""

    timeout_s: float
    attempt_timeout_s: float
    pauses: Pauses
    chance: Random

    @property
    def wait_ms(self) -> int:
        """How long a replica may keep us waiting: its answer is to be here before we lose patience."""
        return min(int(self.attempt_timeout_s * 750), WAIT_MAX_MS)


class Asking:
    """`way` finds, within so many seconds, whom to ask; it is asked before each attempt.

    `ambiguous` says that an attempt may have reached a replica whose answer we do not have.
    """

    def __init__(self, way: Way, patience: Patience, timeout_s: float | None = None) -> None:
        self.ambiguous = False
        self._way = way
        self._patience = patience
        self._attempts = 0
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + (patience.timeout_s if timeout_s is None else timeout_s)

    async def ask(
        self, method: str, path: str, answer: type[_M], *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> _M:
        """The answer of a replica. Raises: RequestError if one refuses, Unavailable if time is up."""

        def attempt(shard: Shard, timeout_s: float) -> Awaitable[Reply]:
            return shard.replicas.attempt(method, path, query=query, body=body, timeout_s=timeout_s)

        return await self.insist(attempt, answer)

    async def found(self, way: Callable[[float], Awaitable[_T]]) -> _T:
        """What `way` finds. Raises Unavailable if time is up; nothing was begun by that."""
        while True:
            try:
                return await way(self._budget_s())
            except NotReached as failure:
                await self.pause(str(failure))

    async def insist(self, attempt: Callable[[Shard, float], Awaitable[Reply]], answer: type[_M]) -> _M:
        """The answer that one of the attempts brings, each for so many seconds; fields of later versions are ignored.

        Raises: RequestError if a replica refuses, Unavailable if time is up.
        """
        while True:
            error: RequestError | None = None
            shard = await self.found(self._way)
            target = shard.replicas.target
            try:
                reply = await attempt(shard, self._budget_s())
            except NotReached as failure:
                why = str(failure)
            except Lost as failure:
                why = str(failure)
                self.ambiguous = True
            else:
                error = reply.error
                why = f"status {reply.status}" if error is None else error.detail
                match next_after(reply.status, error):
                    case Next.TAKE:
                        try:
                            return answer.model_validate(reply.document, extra="ignore")
                        except ValidationError:
                            why = f"status {reply.status}, but what came is no {answer.__name__}"
                            self.ambiguous = True
                    case Next.AGAIN_AMBIGUOUS:
                        self.ambiguous = True
                    case Next.RAISE if error is not None:
                        raise error
            if not isinstance(error, Overloaded | Unreachable):  # the leader's own words: another has none
                shard.replicas.turn_away(target)
            await self.pause(why, error)

    async def pause(self, why: str, error: RequestError | None = None) -> None:
        """Wait a little before the next attempt. Raises Unavailable if there is no time for one."""
        self._attempts += 1
        patience = self._patience
        pause = pause_s(patience.pauses, self._attempts, patience.chance.random(), error)
        if self._loop.time() + pause + ATTEMPT_MIN_S > self._ends_at:
            raise Unavailable(f"no replica gave an answer in time: {why}")
        await asyncio.sleep(pause)

    def _budget_s(self) -> float:
        return max(ATTEMPT_MIN_S, min(self._patience.attempt_timeout_s, self._ends_at - self._loop.time()))


@contextmanager
def honest(asking: Asking, gid: str) -> Iterator[None]:
    """A replica may have begun what a later one refuses, or nobody answers any more: then nobody knows."""
    try:
        yield
    except (Unavailable, RequestError) as error:
        if asking.ambiguous:
            raise OutcomeUnknown(gid, handle_of(gid), str(error)) from error
        raise
