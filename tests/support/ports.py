"""Addresses to listen on that nobody else takes between choosing and listening.

A port that was free a moment ago may be the local end of an outgoing connection by now: of another test, or of the node
under test itself. On Linux all of 127.0.0.0/8 is this machine, and outgoing connections leave from 127.0.0.1; so each
process of the tests listens on an address of its own.
"""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["free_addresses"]

_PIDS_PER_NET = 250


def free_addresses(count: int) -> list[str]:
    """`count` addresses, all different, as host:port."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((_host(), 0))
        return ["{}:{}".format(*each.getsockname()) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _host() -> str:
    if sys.platform != "linux":
        return "127.0.0.1"
    rest, last = divmod(os.getpid(), _PIDS_PER_NET)
    high, middle = divmod(rest, _PIDS_PER_NET)
    return f"127.{high % _PIDS_PER_NET + 1}.{middle}.{last + 1}"
