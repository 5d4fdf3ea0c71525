"""Notices on their way to applications: how many are under way to each host, and which have to wait.

An application that is slow or gone takes nothing from the others: what waits for it costs no timer and no attempt.

Owns: the lines, and what a notice says. Must never do: give up a notice. It ends as one TellEnded, and whoever asked
for it asks again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import structlog

from coordinator.driver.overdue import Overdue
from coordinator.effects import TellEnded
from coordinator.ledger.records import Decision, Notice, TransactionRecord
from coordinator.ledger.untold import host_of
from coordinator.ports import CallFailed, Letter, Notifier
from coordinator.webhooks import NoticeData, NoticeView, id_of
from coordinator.wire import Encoding, Outcome, encode

__all__ = ["AT_ONCE_MAX", "SILENT", "Notices", "letter_of"]

AT_ONCE_MAX = 16  # notices under way to one host

Told: TypeAlias = Callable[[TellEnded], None]

_log = structlog.get_logger(__name__)


def letter_of(record: TransactionRecord, notice: Notice) -> Letter:
    """What the application is told. The record holds a decision."""
    outcome = Outcome.COMMITTED if record.decision is Decision.COMMIT else Outcome.ABORTED
    data = NoticeData(
        gid=record.gid,
        key=record.key or None,
        outcome=outcome,
        phase=record.phase,
        reason=(record.reason or record.decided_by) if outcome is Outcome.ABORTED else None,
        branch=record.culprit,
        begun_at_ms=record.begun_at_ms,
        decided_at_ms=record.decided_at_ms,
    )
    body = encode(NoticeView(type=f"transaction.{notice}", data=data), Encoding.JSON)
    return Letter(record.notify, id_of(record.gid, record.begun_at_ms, notice), body)


class _Silent:
    """The `Notifier` of a cluster that allows no URL."""

    def refusal(self, _: str) -> str:
        return "nobody is notified by this cluster: its configuration allows no URL (notify.allow)"

    def send(self, letter: Letter) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(CallFailed(self.refusal(letter.url)))
        return future


SILENT = _Silent()


class _Line:
    """Of one host."""

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: deque[tuple[str, Notice, Letter, Told, Callable[[], bool]]] = deque()


class Notices:
    """Sends notices through `notifier`, each for `timeout_s` at most once it is its turn."""

    def __init__(self, notifier: Notifier, timeout_s: float) -> None:
        self._notifier = notifier
        self._under_way = Overdue(timeout_s)
        self._lines: dict[str, _Line] = {}

    def tell(self, record: TransactionRecord, notice: Notice, told: Told, is_wanted: Callable[[], bool]) -> None:
        """Send it, as soon as there is room, if it is wanted then; `told` hears whether it was taken."""
        host = host_of(record.notify)
        line = self._lines.setdefault(host, _Line())
        line.waiting.append((record.gid, notice, letter_of(record, notice), told, is_wanted))
        self._pass(host, line)

    def forget_all(self) -> list[asyncio.Future[Any]]:
        """Whoever asked has gone; what was under way."""
        self._lines.clear()
        return self._under_way.forget_all()

    def _pass(self, host: str, line: _Line) -> None:
        while line.waiting and line.under_way < AT_ONCE_MAX:
            gid, notice, letter, told, is_wanted = line.waiting.popleft()
            if not is_wanted():
                continue
            line.under_way += 1
            ended = partial(self._ended, host, line, gid, notice, told)
            self._under_way.watch(self._notifier.send(letter), ended)
        if not line.under_way and self._lines.get(host) is line:
            del self._lines[host]

    def _ended(
        self, host: str, line: _Line, gid: str, notice: Notice, told: Told, future: asyncio.Future[None]
    ) -> None:
        late = CallFailed(f"no answer within {self._under_way.timeout_s:g} s")
        error = late if future.cancelled() else future.exception()
        if error is not None:
            if not isinstance(error, CallFailed):  # a mistake of our own: loud, and tried again like any other
                _log.error("notice.failed", gid=gid, notice=notice.value, exc_info=error)
            _log.info("notice.unknown", gid=gid, notice=notice.value, error=str(error) or type(error).__name__)
        line.under_way -= 1
        told(TellEnded(notice, "" if error is None else str(error) or type(error).__name__))
        self._pass(host, line)
