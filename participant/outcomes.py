"""Asking the coordinators how a transaction ended.

Owns the question and what counts as an answer to it. Must never do: take silence, an error or an unexpected
answer for an outcome. Those are `None`, which is unknown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Protocol

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
WHY_CHARS_MAX = 500  # of a replica's explanation, in the log

_LOG = get_logger(__name__)
_NO_HEADERS: Mapping[str, str] = {}


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
        question = {"participant": self._participant, "branch": key.branch}
        trace = self._trace_of(key)
        if not trace:
            return await self._first(key, "POST", question)
        what = {"gid": key.gid, "branch": key.branch, "participant": self._participant}
        span = start("commitd.branch.inquire", trace, "CLIENT", what)
        outcome = None
        try:
            outcome = await self._first(key, "POST", question, headers_of(span.trace))
        finally:
            span.end("" if outcome else "no replica could say", outcome=outcome.value if outcome else "unknown")
        return outcome

    async def look(self, key: BranchKey) -> Outcome | None:
        """What an inquiry would answer, without one, so that it changes nothing. Of a transaction that nobody has
        recorded that is ABORTED, if nobody begins it before the inquiry.
        """
        return await self._first(key, "GET", None)

    async def _first(
        self, key: BranchKey, method: str, question: dict[str, str] | None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Outcome | None:
        for replica in tuple(self._replicas):
            outcome = await self._ask(replica, key, method, question, headers)
            if outcome is not None:
                self._prefer(replica)
                return outcome
        return None

    def _prefer(self, replica: str) -> None:
        self._replicas.remove(replica)
        self._replicas.insert(0, replica)

    async def _ask(
        self, replica: str, key: BranchKey, method: str, question: dict[str, str] | None, headers: Mapping[str, str]
    ) -> Outcome | None:
        if self._session is None:
            return None
        url = URL(f"{replica.rstrip('/')}/v1/transactions/{key.gid}")
        try:
            async with (
                asyncio.timeout(INQUIRY_TIMEOUT_S),
                self._session.request(
                    method,
                    url if question is None else url / "outcome",
                    json=question,
                    headers=headers,
                    max_redirects=REDIRECTS_MAX,
                ) as response,
            ):
                data = await read_bounded(response.content, ANSWER_BYTES_MAX)
                if question is None:
                    return self._read_record(key, response.status, data)
                outcome = _outcome_of(key, response.status, data)
                if response.status == HTTPStatus.CONFLICT:
                    _LOG.warning(
                        "inquiry.contradicted", replica=replica, gid=key.gid, branch=key.branch, why=_why(data)
                    )
                return outcome
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            _LOG.info("inquiry.unanswered", replica=replica, gid=key.gid, why=str(error) or type(error).__name__)
            return None

    def _read_record(self, key: BranchKey, status: int, data: bytes) -> Outcome | None:
        """What its coordinator would say of a branch, by the same rule: rolled back is what is no part of its
        transaction, and what another participant asks for is not answered.
        """
        if _is_unrecorded(status, data):
            return Outcome.ABORTED
        outcome, branches = _outcome_of(key, status, data), _document(data).get("branches")
        if outcome is None or not isinstance(branches, list):
            return None
        owners = [each.get("participant") for each in branches if each.get("branch") == key.branch]
        if not owners:
            return outcome if not branches else Outcome.ABORTED
        if owners == [self._participant]:
            return outcome
        why = f"the branch belongs to {owners[0]}, not to {self._participant}"
        _LOG.warning("inquiry.contradicted", gid=key.gid, branch=key.branch, why=why)
        return None


def _is_unrecorded(status: int, data: bytes) -> bool:
    """Whether a replica says that there is no such transaction; anything may answer 404."""
    return status == HTTPStatus.NOT_FOUND and _document(data).get("code") == "not-found"


def _why(data: bytes) -> str:
    return str(_document(data).get("detail", ""))[:WHY_CHARS_MAX]


def _document(data: bytes) -> dict[str, Any]:
    """A JSON object; an empty one in the place of anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _outcome_of(key: BranchKey, status: int, data: bytes) -> Outcome | None:
    """The outcome in an answer, if it is one, about the transaction that was asked for."""
    if status not in (200, 202) or len(data) > ANSWER_BYTES_MAX:
        return None
    answer = _document(data)
    if answer.get("gid") != key.gid:
        return None
    return next((outcome for outcome in Outcome if outcome == answer.get("outcome")), None)
