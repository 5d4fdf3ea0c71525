"""Asking the coordinators how a transaction ended.

Owns the question and what counts as an answer to it. Must never do: take silence, an error or an unexpected
answer for an outcome. Those are `None`, which is unknown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import aiohttp
from structlog import get_logger
from yarl import URL

from participant.bounded import read_bounded
from participant.ids import BranchKey
from participant.traceparent import headers_of
from participant.tracing import start

__all__ = ["INQUIRY_TIMEOUT_S", "HttpOutcomeSource", "Outcome", "OutcomeSource"]

INQUIRY_TIMEOUT_S = 3.0  # for one replica, redirects included
ANSWER_BYTES_MAX = 65_536
REDIRECTS_MAX = 4

_LOG = get_logger(__name__)


class Outcome(StrEnum):
    """What a coordinator may say."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    DECIDING = "deciding"


class OutcomeSource(Protocol):
    """Somebody who knows how transactions ended."""

    async def inquire(self, key: BranchKey) -> Outcome | None:
        """How the transaction of a prepared branch ended; None if nobody could say.

        The question is an *inquiry*: of a transaction that no coordinator knows, it makes the abort durable,
        and answers ABORTED.
        """


class HttpOutcomeSource:
    """Replicas, asked in turn, beginning with the one that answered last. To be used between `start` and `stop`.

    `trace_of`: the trace of a branch, which its question names, too.
    """

    def __init__(
        self, participant: str, replicas: Sequence[str], trace_of: Callable[[BranchKey], str] = lambda _: ""
    ) -> None:
        self._participant = participant
        self._trace_of = trace_of
        self._replicas = list(replicas)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=INQUIRY_TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def stop(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def inquire(self, key: BranchKey) -> Outcome | None:
        trace = self._trace_of(key)
        if not trace:
            return await self._ask_all(key, {})
        what = {"gid": key.gid, "branch": key.branch, "participant": self._participant}
        span = start("commitd.branch.inquire", trace, "CLIENT", what)
        outcome = None
        try:
            outcome = await self._ask_all(key, headers_of(span.trace))
        finally:
            span.end("" if outcome else "no replica could say", outcome=outcome.value if outcome else "unknown")
        return outcome

    async def _ask_all(self, key: BranchKey, headers: Mapping[str, str]) -> Outcome | None:
        for replica in tuple(self._replicas):
            outcome = await self._ask(replica, key, headers)
            if outcome is not None:
                self._prefer(replica)
                return outcome
        return None

    def _prefer(self, replica: str) -> None:
        self._replicas.remove(replica)
        self._replicas.insert(0, replica)

    async def _ask(self, replica: str, key: BranchKey, headers: Mapping[str, str]) -> Outcome | None:
        if self._session is None:
            return None
        url = URL(f"{replica.rstrip('/')}/v1/transactions/{key.gid}/outcome")
        question = {"participant": self._participant, "branch": key.branch}
        try:
            async with (
                asyncio.timeout(INQUIRY_TIMEOUT_S),
                self._session.post(url, json=question, headers=headers, max_redirects=REDIRECTS_MAX) as response,
            ):
                return _outcome_of(key, response.status, await read_bounded(response.content, ANSWER_BYTES_MAX))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            _LOG.info("inquiry.unanswered", replica=replica, gid=key.gid, why=str(error) or type(error).__name__)
            return None


def _outcome_of(key: BranchKey, status: int, data: bytes) -> Outcome | None:
    """The outcome in an answer, if it is one, about the transaction that was asked for."""
    if status not in (200, 202) or len(data) > ANSWER_BYTES_MAX:
        return None
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or answer.get("gid") != key.gid:
        return None
    return next((outcome for outcome in Outcome if outcome == answer.get("outcome")), None)
