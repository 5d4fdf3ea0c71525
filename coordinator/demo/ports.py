"""Loopback ports chosen by the system, and kept for us as long as we need them.

A bound socket that does not listen keeps a port: no connection of anybody gets it as its own end, as a port that was
merely free a moment ago could, while a server with SO_REUSEADDR may still listen on it, again and again.
"""

from __future__ import annotations

import socket
from contextlib import suppress

__all__ = ["HOST", "Ports"]

HOST = "127.0.0.1"


class Ports:
    """Those that were taken, until `close`."""

    def __init__(self) -> None:
        self._kept: list[socket.socket] = []

    def take(self, count: int = 1) -> int:
        """The first of `count` ports in a row, which are ours until `close`."""
        while True:
            first = self._bind(0)
            with suppress(OSError, OverflowError):  # somebody has one of the row, or there are no more ports
                for port in range(first + 1, first + count):
                    self._bind(port)
                return first

    def _bind(self, wanted: int) -> int:
        kept = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._kept.append(kept)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((HOST, wanted))
        port: int = kept.getsockname()[1]
        return port

    def close(self) -> None:
        """Give the ports back."""
        for kept in self._kept:
            kept.close()
