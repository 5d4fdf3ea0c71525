"""The floor of a replicated write: one forced append and one round trip, done as cheaply as Python can do them.

One sample is one iteration of this loop, in one thread, on blocking descriptors:

1. `write` of 200 bytes to a file that was opened for appending, then `fdatasync`;
2. `sendall` of 200 bytes on a loopback TCP connection (TCP_NODELAY) to another process, which sends them back, and
   `recv` until all 200 have come.

No consensus can acknowledge a command for less: the leader must reach one follower and hear from it, and one forced
write has to lie in between.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["RECORD_BYTES", "Floor"]

RECORD_BYTES = 200


def _echo(ready: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ready.send(server.getsockname()[1])
        peer, _ = server.accept()
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := peer.recv(RECORD_BYTES, socket.MSG_WAITALL):
            peer.sendall(data)


class Floor:
    """The file, the connection and the process at its other end, kept open so that samples can be interleaved."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = mp.Pipe()
        self._peer = mp.get_context("spawn").Process(target=_echo, args=(theirs,), daemon=True)
        self._peer.start()
        self._socket = socket.create_connection(("127.0.0.1", ours.recv()))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = os.open(directory / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        os.close(self._file)
        self._peer.join()

    def measure(self, count: int) -> list[tuple[float, float]]:
        """`count` samples: seconds of the forced append, seconds of the round trip."""
        record = b"r" * RECORD_BYTES
        samples = []
        for _ in range(count):
            begun = time.perf_counter()
            os.write(self._file, record)
            os.fdatasync(self._file)
            synced = time.perf_counter()
            self._socket.sendall(record)
            self._socket.recv(RECORD_BYTES, socket.MSG_WAITALL)
            samples.append((synced - begun, time.perf_counter() - synced))
        return samples
