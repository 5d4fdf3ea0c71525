"""Addresses to listen on that nobody else takes between choosing and listening.

A port that was free a moment ago may be the local end of an outgoing connection by now: of another test, or of the node
under test itself. On Linux all of 127.0.0.0/8 is this machine, and outgoing connections leave from 127.0.0.1; so each
process of the tests listens on an address of its own, and gets no port twice.
"""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["free_addresses"]

_PIDS_PER_NET = 250

_given: set[str] = set()


def free_addresses(count: int) -> list[str]:
    """`count` addresses, all different from each other and from those before, as host:port."""
    new: list[str] = []
    while len(new) < count:
        with socket.socket() as taken:
            taken.bind((_host(), 0))
            address = "{}:{}".format(*taken.getsockname())
        if address not in _given:
            _given.add(address)
            new.append(address)
    return new


def _host() -> str:
    if sys.platform != "linux":
        return "127.0.0.1"
    rest, last = divmod(os.getpid(), _PIDS_PER_NET)
    high, middle = divmod(rest, _PIDS_PER_NET)
    return f"127.{high % _PIDS_PER_NET + 1}.{middle}.{last + 1}"
