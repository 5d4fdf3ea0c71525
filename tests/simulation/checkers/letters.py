"""Messages that were refused too often, or are too old, are set aside, and become of it what somebody has said.

At every moment: a message that was to be set aside after so many refusals is not tried once more, unless somebody has
it delivered; and it is dropped only if somebody has said so. The answer to that is recorded before. That what was not
dropped takes effect, `checkers.steps` sees.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from coordinator.ledger.commands import Heard
from coordinator.ledger.records import Delivery, TransactionRecord
from participant.branch import Branch
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.steps import split

__all__ = ["Letters"]

_Place: TypeAlias = tuple[str, str]  # gid, branch
_AS_SAID = "a dead letter is delivered or dropped as somebody has said"


class Letters:
    """`dead`: what waits for somebody, with how often it was begun. `become` counts what became of them."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._latest: dict[_Place, Delivery] = {}
        self._said: dict[_Place, set[Heard]] = {}
        self._done: set[tuple[_Place, Heard]] = set()
        self.dead: dict[_Place, int] = {}
        self.dropped: set[_Place] = set()
        self.become: Counter[Heard] = Counter()

    def __str__(self) -> str:
        letters = ", ".join(f"{count} {what}" for what, count in sorted(self.become.items()))
        return f"letters: {letters or 'none set aside'}"

    # Whoever decides about them

    def saying(self, place: _Place, what: Heard) -> None:
        """Somebody is about to have it REDELIVERED or DROPPED."""
        self._said.setdefault(place, set()).add(what)

    def answered(self, place: _Place, what: Heard) -> None:
        """That was taken."""
        if (place, what) not in self._done:
            self._findings.report(_AS_SAID, f"{place}: {what} was answered, and is not recorded")

    # What becomes of them

    def recorded(self, record: TransactionRecord) -> None:
        """The newest record of a transaction."""
        for branch in record.branches:
            delivery = None if branch.step is None else branch.step.delivery
            if branch.step is None or delivery is None or not (delivery.attempts_max or delivery.age_max_ms):
                continue
            place = (record.gid, branch.branch)
            before = self._latest.get(place, delivery._replace(dead=False))
            self._latest[place] = delivery
            self._changed(place, before, delivery, branch.step.settling)

    def moves(self, after: Branch) -> None:
        """An attempt is about to have run, well or not."""
        name, _, attempt = split(after.key.branch)
        delivery = self._latest.get((after.key.gid, name))
        if delivery is not None and 0 < delivery.attempts_max < attempt - delivery.spared:
            self._findings.report("a message is set aside after so many refusals", f"{after.key}")

    def _changed(self, place: _Place, before: Delivery, now: Delivery, settling: int) -> None:
        if now.dead and not now.dropped:
            self.become[Heard.SET_ASIDE] += not before.dead
            self.dead[place] = settling
            return
        self.dead.pop(place, None)
        what = Heard.DROPPED if now.dropped else Heard.REDELIVERED
        if before.dead and not before.dropped:
            self.become[what] += 1
            self._done.add((place, what))
            if what not in self._said.get(place, ()):
                self._findings.report(_AS_SAID, f"{place} was {what}, and nobody has said so")
        elif before.dropped and not now.dropped:
            self._findings.report(_AS_SAID, f"{place} is delivered after it was dropped")
        if now.dropped:
            self.dropped.add(place)
