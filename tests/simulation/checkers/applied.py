"""All nodes apply the same commands at the same indexes in the same order, each once (State Machine Safety; figure 3).

The first node that reaches a position fixes what stands there; every other node, and every restart, must agree. A
restored snapshot must stand for exactly the commands up to its count.
"""

from __future__ import annotations

import hashlib

from tests.simulation.checkers.findings import Findings

__all__ = ["EMPTY_CHAIN", "AppliedSequence", "link", "short"]

EMPTY_CHAIN = bytes(8)


def link(chain: bytes, command: bytes) -> bytes:
    """The hash of a sequence, from the hash of all but its last command."""
    return hashlib.blake2b(chain + command, digest_size=8).digest()


def short(command: bytes) -> str:
    """A command as people like to read it: the zeros that pad it are left out."""
    return repr(command.rstrip(b"\0"))


class AppliedSequence:
    """Positions count from 1."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._commands: list[tuple[int, bytes]] = []
        self._chains: list[bytes] = [EMPTY_CHAIN]
        self._positions: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._commands)

    def position_of(self, command: bytes) -> int | None:
        return self._positions.get(command)

    def applied(self, node: str, position: int, index: int, command: bytes) -> None:
        """`node` applied `command`, of the entry at `index`, as number `position`."""
        if position <= len(self._commands):
            known = self._commands[position - 1]
            if known != (index, command):
                there = f"where {short(known[1])} of entry {known[0]} was applied"
                what = f"{node} applies {short(command)} of entry {index} at position {position}, {there}"
                self._findings.report("applied prefixes are equal", what)
            return
        first = self._positions.setdefault(command, position)
        if first != position:
            what = f"{node} applies {short(command)} at positions {first} and {position}"
            self._findings.report("applied once", what)
        self._commands.append((index, command))
        self._chains.append(link(self._chains[-1], command))

    def restored(self, node: str, count: int, chain: bytes) -> None:
        """`node` replaced its state by one that stands for `count` commands."""
        if count >= len(self._chains) or self._chains[count] != chain:
            what = f"{node} restores a state of {count} commands that nobody ever had"
            self._findings.report("applied prefixes are equal", what)
