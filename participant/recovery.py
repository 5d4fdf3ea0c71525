"""Branches in doubt: ask how their transactions ended, and finish them. The pull beside the coordinator's push.

A prepared branch may not decide for itself, so it asks. What was prepared before this process started is asked for at
once; what is prepared now gets a grace, because normally its coordinator is about to say. An answer "deciding",
or none, means to ask again, later each time up to a cap.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from structlog import get_logger
from structlog.contextvars import bind_contextvars

from participant.errors import ConfigError, ResourceBusy, ResourceError, ResourceUnreachable
from participant.ids import BranchKey
from participant.outcomes import Outcome, OutcomeSource
from participant.traceparent import trace_fields
from participant.wire import Answer

__all__ = ["Doubt", "Recovery", "RecoverySettings", "plan"]

INQUIRIES_AT_ONCE_MAX = 16

_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """`grace_s`: how long a branch is prepared before it is asked for. `interval_s`: the first pause between
    questions about one branch; it doubles up to `interval_max_s`, each shortened at random by up to a half.
    `peers_after_s`: in three phases, how long no replica must have answered before the peers are asked.
    """

    grace_s: float = 5.0
    interval_s: float = 1.0
    interval_max_s: float = 15.0
    peers_after_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("grace_s", "interval_s", "peers_after_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: must be more than 0 seconds, not {getattr(self, name)!r}")
        if self.interval_max_s < self.interval_s:
            raise ConfigError("interval_max_s: must not be less than interval_s")


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is known of one branch in doubt: how often it was asked for in vain, and when to ask (again); since when no
    replica has answered."""

    ask_at: float
    asked: int = 0
    silent_since: float | None = None

    def heard(self, outcome: Outcome | None, now: float) -> Doubt:
        """After a question."""
        silent_since = None if outcome is not None else now if self.silent_since is None else self.silent_since
        return replace(self, silent_since=silent_since)

    def later(self, settings: RecoverySettings, now: float, chance: float) -> Doubt:
        """After a question in vain. `chance` is from [0, 1)."""
        pause = min(settings.interval_max_s, settings.interval_s * 2.0 ** min(self.asked, 32))
        return replace(self, asked=self.asked + 1, ask_at=now + pause * (1.0 - chance / 2.0))


def plan(
    doubts: dict[BranchKey, Doubt], prepared: Iterable[BranchKey], now: float, grace_s: float
) -> tuple[dict[BranchKey, Doubt], list[BranchKey]]:
    """What is in doubt now, and which of it to ask for now. Pure: branches no longer prepared are dropped."""
    known = {key: doubts.get(key) or Doubt(ask_at=now + grace_s) for key in prepared}
    return known, [key for key, doubt in known.items() if doubt.ask_at <= now]


class Finisher(Protocol):
    """The part of a resource manager that this needs."""

    async def in_doubt(self) -> list[BranchKey]: ...
    def commit(self, key: BranchKey) -> Awaitable[Answer]: ...
    def abort(self, key: BranchKey) -> Awaitable[Answer]: ...


class Silent(Protocol):
    """Who ends branches in three phases that hear nothing (`participant.three_phase`)."""

    async def silent(self, key: BranchKey, *, is_deciding: bool, silent_s: float) -> Answer | None: ...


class Recovery:
    """The loop. `run` it as a task of its own, from the start of the participant to its end.

    `trace_of`: the trace of a branch, which lines about it name. `silent`: who is asked to end a branch of which no
    replica knows the end.
    """

    def __init__(
        self,
        resource: Finisher,
        source: OutcomeSource,
        settings: RecoverySettings,
        chance: random.Random,
        trace_of: Callable[[BranchKey], str] = lambda _: "",
        silent: Silent | None = None,
    ) -> None:
        self._silent = silent
        self._resource = resource
        self._source = source
        self._settings = settings
        self._chance = chance
        self._trace_of = trace_of
        self._doubts: dict[BranchKey, Doubt] = {}
        self._grace_s = 0.0  # none for what an earlier process left

    async def run(self) -> None:
        """Until cancelled, or until the resource manager is closed or has failed."""
        while True:
            try:
                await self.round()
            except (ResourceBusy, ResourceUnreachable) as later:
                _LOG.warning("recovery.later", why=str(later))
            except ResourceError as error:
                _LOG.warning("recovery.stopped", why=str(error))
                return
            await asyncio.sleep(self._settings.interval_s * (0.5 + self._chance.random() / 2.0))

    async def round(self) -> None:
        """Look once, and ask for what is due."""
        loop = asyncio.get_running_loop()
        prepared = await self._resource.in_doubt()
        self._doubts, due = plan(self._doubts, prepared, loop.time(), self._grace_s)
        self._grace_s = self._settings.grace_s
        for start in range(0, len(due), INQUIRIES_AT_ONCE_MAX):
            async with asyncio.TaskGroup() as group:
                for key in due[start : start + INQUIRIES_AT_ONCE_MAX]:
                    group.create_task(self._resolve(key))

    async def _resolve(self, key: BranchKey) -> None:
        answer = None
        bind_contextvars(**trace_fields(self._trace_of(key)))  # of this task
        try:
            outcome = await self._source.inquire(key)
            now = asyncio.get_running_loop().time()
            self._doubts[key] = self._doubts[key].heard(outcome, now)
            answer = await self._finish(key, outcome, now)
        except ResourceError as error:
            _LOG.warning("recovery.failed", gid=key.gid, branch=key.branch, why=str(error))
        except Exception:  # noqa: BLE001 - the border: a defect must not leave this and all others in doubt for ever
            _LOG.exception("recovery.failed", gid=key.gid, branch=key.branch)
        if answer is not None and not answer.retry:
            self._doubts.pop(key, None)
            _LOG.info("branch.resolved", gid=key.gid, branch=key.branch, state=answer.state)
            return
        now = asyncio.get_running_loop().time()
        self._doubts[key] = self._doubts[key].later(self._settings, now, self._chance.random())

    async def _finish(self, key: BranchKey, outcome: Outcome | None, now: float) -> Answer | None:
        match outcome:
            case Outcome.COMMITTED:
                return await self._resource.commit(key)
            case Outcome.ABORTED:
                return await self._resource.abort(key)
            case Outcome.DECIDING | None if self._silent is not None:
                since = self._doubts[key].silent_since
                silent_s = 0.0 if since is None else now - since
                return await self._silent.silent(key, is_deciding=outcome is not None, silent_s=silent_s)
        return None
