"""One simulated TCP connection: two endpoints, and a pipe in each direction.

What the kernel and the wire do is kept apart from what the process does, because they end at different times: after
`kill -9` the bytes that the kernel took still arrive, followed by an end or a reset; after a power cut nothing does,
and the peer learns of it only when it sends something to the machine that came back. While a direction is cut its
bytes wait (TCP resends), resets are lost, and no acknowledgement frees the sender's window.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.transports import _FlowControlMixin
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from coordinator.simulation.process import Process, State

if TYPE_CHECKING:
    from coordinator.simulation.network import Network

__all__ = ["OPENED", "Endpoint", "Pipe", "connected_pair"]

_WINDOW_BYTES = 256 * 1024
_SPLIT_PROBABILITY = 0.1

OPENED, _FIN, _RESET = "opened", "fin", "reset"


class Pipe:
    """One direction: in order, nothing lost, delayed, split and merged at random."""

    def __init__(self, network: Network, rng: Random) -> None:
        self.network = network
        self.source: Endpoint
        self.target: Endpoint
        self.unacknowledged = 0
        self._rng = rng
        self._queue: deque[tuple[float, bytes | str]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._owed = 0  # bytes whose acknowledgement cannot come back

    def send(self, data: bytes) -> None:
        """Put bytes on the wire, now and then in two pieces."""
        self.unacknowledged += len(data)
        if len(data) > 1 and self._rng.random() < _SPLIT_PROBABILITY:
            at = self._rng.randrange(1, len(data))
            self._put(data[:at])
            data = data[at:]
        self._put(data)

    def signal(self, what: str) -> None:
        self._put(what)

    def drop(self, *, stalled_only: bool = False) -> None:
        """Forget what is on its way; with `stalled_only`, unless the way is free."""
        if not (stalled_only and self._open()):
            self._queue.clear()

    def wake(self) -> None:
        """The links changed: what had to wait may go on."""
        if self._owed and self._open_back():
            owed, self._owed = self._owed, 0
            self._acknowledge(owed)
        if self._queue and self._timer is None and self._open():
            self._arm(self._delayed())
        if self._owed or (self._queue and self._timer is None):
            self.network.stalled(self)

    def retarget(self) -> None:
        """The target changed from alive to dead: whatever arrives is for the kernel to answer."""
        if self._timer is not None:
            when = self._timer.when()
            self._timer.cancel()
            self._arm(when)

    def received(self, size: int) -> None:
        """The target's process took `size` bytes."""
        if self._open_back():
            self._acknowledge(size)
        else:
            self._owed += size
            self.network.stalled(self)

    def _acknowledge(self, size: int) -> None:
        self.unacknowledged -= size
        if self.source.waits_for_window:
            loop = self.network.loop
            loop.call_at(self._delayed(), self.source.window_opened, context=self.source.context())

    def _open(self) -> bool:
        return self.network.links.open(self.source.machine, self.target.machine)

    def _open_back(self) -> bool:
        return self.network.links.open(self.target.machine, self.source.machine)

    def _delayed(self) -> float:
        return self.network.loop.time() + self.network.links.delay()

    def _put(self, item: bytes | str) -> None:
        """What overtakes on the way waits for what was sent before it (head of line)."""
        arrival = self._delayed()
        self._queue.append((arrival, item))
        if self._timer is None:
            self._arm(arrival)

    def _arm(self, when: float) -> None:
        self._timer = self.network.loop.call_at(when, self._arrive, context=self.target.context())

    def _arrive(self) -> None:
        self._timer = None
        queue = self._queue
        if not self._open():
            if queue and queue[-1][1] is _RESET:  # sent once, never again
                queue.clear()
            self.network.stalled(self)
            return
        now = self.network.loop.time()
        while queue and queue[0][0] <= now:
            item = queue.popleft()[1]
            if isinstance(item, bytes):
                while queue and queue[0][0] <= now and isinstance(more := queue[0][1], bytes):
                    item += more
                    queue.popleft()
            self.target.arrived(item)
        if queue and self._timer is None:
            self._arm(max(queue[0][0], now))


class Endpoint(_FlowControlMixin):
    """One end of a connection: the transport that a protocol sees, and the kernel's part beneath it.

    `attached` until the process lets go of it (closed, aborted, or dead); the kernel then answers for it.
    """

    def __init__(self, network: Network, process: Process, inbound: Pipe, outbound: Pipe, addresses: tuple[Any, Any]):
        sockname, peername = addresses
        extra = {"sockname": sockname, "peername": peername}
        super().__init__(extra, loop=network.loop)
        self.machine = process.name
        self.process = process
        self.peer: Endpoint
        self.opened: Callable[[], None] = lambda: None
        self._network = network
        self.inbound = inbound
        self.outbound = outbound
        self._protocol: Any = None
        self._context = process.context.copy()
        self._out = bytearray()
        self._inbox: list[bytes | str] = []
        self._attached = True
        self._reading = True
        self._closing = False
        self._eof_asked = False
        self._fin_sent = False

    # The protocol's side -------------------------------------------------------------------------------------

    def start(self, protocol: Any) -> None:
        """Give the connection to its protocol, in the process."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._loop.call_soon(self._read_inbox, context=self._context)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing or not self._attached

    def is_reading(self) -> bool:
        return self._reading and not self.is_closing()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and not self.is_closing():
            self._reading = True
            self._loop.call_soon(self._read_inbox, context=self._context)

    def get_write_buffer_size(self) -> int:
        return len(self._out)

    def write(self, data: Any) -> None:
        if self._eof_asked:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or not self._attached or not self._alive():
            return
        self._out += data
        self._pump()
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof_asked = True
        self._pump()

    def close(self) -> None:
        if self.is_closing() or not self._alive():
            return
        self._closing = True
        self._reading = False
        self._pump()

    def abort(self) -> None:
        if self._attached and self._alive():
            self._reset_peer()
            self._lose(None)

    # The kernel's side ------------------------------------------------------------------------------------------

    @property
    def waits_for_window(self) -> bool:
        return bool(self._out)

    def context(self) -> contextvars.Context:
        """Where arrivals run: in the process while it holds the connection, else in the world."""
        return self._context if self._attached else contextvars.Context()

    def window_opened(self) -> None:
        if self._attached:
            self._pump()
            self._maybe_resume_protocol()

    def arrived(self, item: bytes | str) -> None:
        """Something came in over the wire."""
        if not self._attached:
            if isinstance(item, bytes):
                self.outbound.signal(_RESET)
        elif item is OPENED:
            self.opened()
        elif item is _RESET:
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
        else:
            self._inbox.append(item)
            self._read_inbox()

    def process_died(self, *, silently: bool) -> None:
        """The process is gone; with `silently` the whole machine."""
        if not self._attached:
            return
        if silently:
            self.outbound.drop()
        elif self._inbox:
            self.outbound.signal(_RESET)
        else:
            self.outbound.signal(_FIN)
        self._detach()

    def _alive(self) -> bool:
        return self.process.state is not State.DEAD

    def _read_inbox(self) -> None:
        while self._inbox and self._reading and self._attached and self._protocol is not None:
            item = self._inbox.pop(0)
            if isinstance(item, bytes):
                self.inbound.received(len(item))
                self._guarded(self._protocol.data_received, item)
            elif item is _FIN and not self._guarded(self._protocol.eof_received):
                self.close()

    def _guarded(self, callback: Callable[..., Any], *args: Any) -> Any:
        """A protocol that raises loses its connection, as with asyncio's own transports."""
        try:
            return callback(*args)
        except Exception as error:  # noqa: BLE001
            context = {"message": "Fatal error: protocol call failed.", "exception": error, "transport": self}
            self._loop.call_exception_handler(context)
            self._reset_peer()
            self._lose(error)
            return None

    def _pump(self) -> None:
        """Hand the kernel what its window takes; end the stream when all is handed over and that was asked."""
        while self._out and (room := _WINDOW_BYTES - self.outbound.unacknowledged) > 0:
            data = bytes(self._out[:room])
            del self._out[:room]
            self.outbound.send(data)
        if not self._out and (self._closing or self._eof_asked) and not self._fin_sent:
            self._fin_sent = True
            self.outbound.signal(_RESET if self._closing and self._inbox else _FIN)  # RFC 1122, section 4.2.2.13
        if not self._out and self._closing:
            self._lose(None)

    def _reset_peer(self) -> None:
        self.outbound.drop(stalled_only=True)
        self.outbound.signal(_RESET)

    def _lose(self, error: Exception | None) -> None:
        if not self._attached:
            return
        self._detach()
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error, context=self._context)

    def _detach(self) -> None:
        self._attached = False
        self._closing = True
        self._out.clear()
        self._inbox.clear()
        self.inbound.retarget()
        self._network.detached(self)


def connected_pair(network: Network, client: Process, server: Process, ports: tuple[int, int], rng: Random) -> Endpoint:
    """A new connection; returns the client's endpoint, its `peer` is the server's."""
    there, back = Pipe(network, rng), Pipe(network, rng)
    here, away = (client.name, ports[0]), (server.name, ports[1])
    near = Endpoint(network, client, back, there, (here, away))
    far = Endpoint(network, server, there, back, (away, here))
    near.peer, far.peer = far, near
    there.source, there.target = near, far
    back.source, back.target = far, near
    return near
