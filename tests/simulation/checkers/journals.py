"""Two logs with an entry of the same index and term agree on it and on all before it (Log Matching; figure 3).

Every entry that any node appends is compared with what is known of its index and term: the command, and the term of
the entry before it. By induction over the index, that is the whole property.
"""

from __future__ import annotations

import hashlib

from tests.simulation.checkers.findings import Findings

__all__ = ["LogMatching"]


class LogMatching:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._known: dict[tuple[int, int], tuple[bytes, int | None]] = {}

    def appended(self, node: str, entry: tuple[bytes, int, int], previous_term: int | None) -> None:
        """`node` appended `entry` (command, index, term) behind an entry of `previous_term`."""
        command, index, term = entry
        content = (hashlib.blake2b(command, digest_size=8).digest(), previous_term)
        known = self._known.setdefault((index, term), content)
        if known != content:
            what = f"{node} has another entry {index} of term {term}, or another term before it"
            self._findings.report("log matching", what)
