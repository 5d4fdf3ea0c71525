"""Conservation: at rest every account holds exactly what the committed transfers say, each counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tests.simulation.checkers.findings import Findings

__all__ = ["Money"]


class Money:
    """Accounts are named `bank/account`; one that was never touched holds `initial`."""

    def __init__(self, findings: Findings, initial: int) -> None:
        self._findings = findings
        self._initial = initial
        self._changes: dict[str, dict[str, int]] = {}

    def intended(self, gid: str, changes: Mapping[str, int]) -> None:
        """What `gid` will change if it commits; always the same for one gid."""
        self._changes[gid] = dict(changes)

    def check(self, committed: Iterable[str], balances: Mapping[str, int]) -> None:
        """At rest: `balances` of all touched accounts."""
        expected: Counter[str] = Counter()
        for gid in committed:
            expected.update(self._changes.get(gid, {}))
        for account in sorted(expected.keys() | balances.keys()):
            should, does = self._initial + expected[account], balances.get(account, self._initial)
            if should != does:
                self._findings.report("conservation", f"{account} holds {does}, the committed transfers make {should}")
