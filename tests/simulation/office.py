"""The people of the system world: they report the work that steps have begun, and say what becomes of dead letters.

What lies in their tray survives every crash, as paper does; the computer in their office fails like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from zlib import crc32

from coordinator.errors import Contradiction, RequestError, Unavailable
from coordinator.ledger.commands import Heard
from coordinator.ledger.records import Report
from coordinator.simulation.rpc import Rpc
from coordinator.simulation.web import SimClient, url_of
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.letters import Letters
from tests.simulation.checkers.order import Order
from tests.simulation.checkers.reports import Reports
from tests.simulation.errands import result_of

__all__ = ["Office", "Tray"]

_LOOKS_EVERY_S = 0.5
_TAKES_S = (0.0, 0.0, 1.0, 5.0, 15.0)
_DECLINES_PERCENT = 20
_REPEATS = 0.3
_CONTRADICTS = 0.2
_DROPS_PERCENT = 50
_PATIENT_PERCENT = 30
_DECIDES = 0.2  # about a letter, whenever it is seen

_OTHER = {Report.DONE: Report.REFUSED, Report.REFUSED: Report.DONE}


class Tray:
    """The tokens of the work that was begun and is not reported yet, each once. `now`: the time of the world, in
    seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: set[str] = set()
        self._done_at: dict[str, float] = {}

    def put(self, token: str) -> None:
        """Some action has begun this work, or is about to."""
        if token not in self._seen:
            self._seen.add(token)
            self._done_at[token] = self._now() + _TAKES_S[_draw(token, "takes", len(_TAKES_S))]

    def ready(self) -> list[str]:
        """What is done and not reported yet."""
        return [token for token, at in self._done_at.items() if at <= self._now()]

    def remove(self, token: str) -> None:
        """It is reported, or nobody wants to hear of it."""
        self._done_at.pop(token, None)


class Office:
    """One incarnation of the process. `rng`: for what happens by chance at the keyboard; what is said of one piece of
    work follows from its token, so that it is the same whoever asks.

    About some letters nobody decides before no other of their key stands in line: so if one held up the others, it
    would do so for ever.
    """

    def __init__(
        self,
        rng: Random,
        rpc: Rpc,
        replicas: Sequence[str],
        tray: Tray,
        checkers: tuple[Findings, Reports, Letters, Order],
    ) -> None:
        self._rng = rng
        self._tray = tray
        self._findings, self._reports, self._letters, self._order = checkers
        urls = [url_of(name) for name in replicas]
        self._client = SimClient(rpc, urls, timeout_s=8.0, attempt_timeout_s=4.0, chance=rng, routed=False)

    async def run(self) -> None:
        """Work for ever."""
        while True:
            await asyncio.sleep(_LOOKS_EVERY_S)
            reports = [self._report(token) for token in self._tray.ready()]
            letters = [self._decide(place, begun) for place, begun in self._letters.dead.items()]
            await asyncio.gather(*reports, *letters)

    async def _report(self, token: str) -> None:
        """Say what has come of it; and now and then the same again later, or the opposite."""
        is_declined = _draw(token, "declined", 100) < _DECLINES_PERCENT
        report = Report.REFUSED if is_declined else Report.DONE
        if not await self._say(token, report):
            return
        if self._rng.random() < _CONTRADICTS:
            await self._say(token, _OTHER[report])
        if self._rng.random() >= _REPEATS:
            self._tray.remove(token)

    async def _say(self, token: str, report: Report) -> bool:
        """Whether somebody has answered."""
        gid, name, *_ = token.split("/")
        self._reports.sending(token, report)
        try:
            if report is Report.DONE:
                await self._client.report(token, result_of(gid, name))
            else:
                await self._client.decline(token, "nobody had time")
        except Unavailable:
            return False
        except Contradiction:
            self._reports.too_late(token, report)
        except RequestError as error:
            self._findings.report("a proper report is taken", f"{token}: {error!r}")
        else:
            self._reports.answered(token, report)
        return True

    async def _decide(self, place: tuple[str, str], begun: int) -> None:
        """About a letter that was `begun` so often."""
        if self._rng.random() >= _DECIDES:
            return
        about = f"{place} {begun}"
        if _draw(about, "patient", 100) < _PATIENT_PERCENT and self._order.waits_behind(place):
            return
        what = Heard.DROPPED if _draw(about, "dropped", 100) < _DROPS_PERCENT else Heard.REDELIVERED
        decide = self._client.drop if what is Heard.DROPPED else self._client.redeliver
        self._letters.saying(place, what)
        gid, branch = place
        try:
            await decide(gid, operator="office", reason=f"after {begun} attempts", branches=[branch])
        except (Unavailable, Contradiction):  # it may be so, or somebody else was quicker
            return
        except RequestError as error:
            self._findings.report("a proper word about a letter is taken", f"{place}: {error!r}")
        else:
            self._letters.answered(place, what)


def _draw(about: str, what: str, below: int) -> int:
    """A number, 0 <= number < below; always the same."""
    return crc32(f"{what} of {about}".encode()) % below
