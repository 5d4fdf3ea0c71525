"""The simulated network for byte streams: listening, connecting, and what becomes of connections when links are cut.

It stands behind `SimLoop.create_server` and `create_connection`, so `asyncio.start_server`, `open_connection` and
protocols of our own work on it unchanged. A host is the name of a machine. Time-outs of the kernel: a connection
attempt is repeated after 1, 2, 4, ... seconds and given up after `CONNECT_TIMEOUT_S`, as Linux does by default.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from coordinator.simulation.links import Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.process import PROCESS, Process, State
from coordinator.simulation.stream import OPENED, Endpoint, Pipe, connected_pair

__all__ = ["CONNECT_TIMEOUT_S", "Network", "Server"]

CONNECT_TIMEOUT_S = 127.0

_FIRST_RETRY_S = 1.0
_EPHEMERAL_PORTS_FROM = 32_768
_WILDCARDS = (None, "", "0.0.0.0", "::", "localhost", "127.0.0.1")
_WORLD = contextvars.Context()

Factory = Callable[[], asyncio.BaseProtocol]


class Network:
    """All connections of one world."""

    def __init__(self, loop: SimLoop, links: Links) -> None:
        self.loop = loop
        self.links = links
        self._rng = Random(f"{loop.seed}/network")
        self._ports = count(_EPHEMERAL_PORTS_FROM)
        self._servers: dict[tuple[str, int], Server] = {}
        self._endpoints: dict[Process, dict[Endpoint, None]] = {}
        self._stalled: dict[Pipe, None] = {}
        links.on_change(self._wake)
        loop.network = self

    async def listen(self, factory: Factory, host: Any, port: int | None) -> Server:
        """Accept connections at a port of the calling process's machine (0: any)."""
        process = _caller()
        address = (process.name, port or next(self._ports))
        if host not in (*_WILDCARDS, process.name):
            raise OSError(99, f"cannot assign requested address {host!r} on {process.name}")
        if address in self._servers:
            raise OSError(98, f"address already in use: {address}")
        server = Server(self, process, factory, address)
        self._servers[address] = server
        process.when_dead(server.close)
        return server

    async def connect(self, factory: Factory, host: str, port: int) -> tuple[Endpoint, asyncio.BaseProtocol]:
        """Open a connection. Raises ConnectionRefusedError, TimeoutError."""
        process = _caller()
        attempt = _Attempt(self, process, process.name if host in _WILDCARDS else host, port)
        try:
            endpoint = await attempt.result
            protocol = factory()
            endpoint.start(protocol)
        except BaseException:
            attempt.give_up()
            raise
        return endpoint, protocol

    def endpoints(self, client: Process, server: Process, ports: tuple[int, int]) -> Endpoint:
        """Both ends of a new connection, known to the network from now on; returns the client's."""
        near = connected_pair(self, client, server, ports, self._rng)
        for endpoint in (near, near.peer):
            self._attached(endpoint)
        return near

    def server_at(self, machine: str, port: int) -> Server | None:
        return self._servers.get((machine, port))

    def ephemeral_port(self) -> int:
        return next(self._ports)

    def forget(self, server: Server) -> None:
        if self._servers.get(server.address) is server:
            del self._servers[server.address]

    def detached(self, endpoint: Endpoint) -> None:
        """The process has let go of `endpoint`."""
        self._endpoints.get(endpoint.process, {}).pop(endpoint, None)

    def stalled(self, pipe: Pipe) -> None:
        """Tell `pipe` when the links change."""
        self._stalled[pipe] = None

    def connections(self, process: Process) -> int:
        """How many endpoints a process holds."""
        return len(self._endpoints.get(process, {}))

    def _attached(self, endpoint: Endpoint) -> None:
        process = endpoint.process
        if process not in self._endpoints:
            self._endpoints[process] = {}
            process.when_dead(lambda: self._process_died(process))
        self._endpoints[process][endpoint] = None

    def _process_died(self, process: Process) -> None:
        silently = not self.links.powered(process.name)
        for endpoint in list(self._endpoints[process]):
            endpoint.process_died(silently=silently)
        del self._endpoints[process]

    def _wake(self) -> None:
        stalled, self._stalled = self._stalled, {}
        for pipe in stalled:
            pipe.wake()


class Server(asyncio.AbstractServer):
    """A listening port."""

    def __init__(self, network: Network, process: Process, factory: Factory, address: tuple[str, int]) -> None:
        self.address = address
        self.process = process
        self._network = network
        self._factory = factory
        self._listening = True
        self._closed: asyncio.Event = asyncio.Event()

    @property
    def sockets(self) -> tuple[_Socket, ...]:
        return (_Socket(self.address),) if self._listening else ()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._network.loop

    def is_serving(self) -> bool:
        return self._listening

    async def start_serving(self) -> None:
        """It has served since it was made."""

    async def serve_forever(self) -> None:
        await self._closed.wait()

    def close(self) -> None:
        """Stop listening; accepted connections stay."""
        self._listening = False
        self._network.forget(self)
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def accept(self, endpoint: Endpoint) -> None:
        """In the server's process: give a new connection its protocol."""
        if self._listening:
            endpoint.start(self._factory())
        else:
            endpoint.abort()


class _Socket:
    """What is left of a socket: its address."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class _Attempt:
    """One connection attempt, repeated while the links are cut."""

    def __init__(self, network: Network, process: Process, host: str, port: int) -> None:
        self.result: asyncio.Future[Endpoint] = network.loop.create_future()
        self._network = network
        self._process = process
        self._target = (host, port)
        self._retry_s = _FIRST_RETRY_S
        self._deadline = network.loop.time() + CONNECT_TIMEOUT_S
        self._endpoint: Endpoint | None = None
        self._later(network.links.delay(), self._arrive)

    def give_up(self) -> None:
        """The caller does not want the connection any more."""
        self.result.cancel()
        if self._endpoint is not None:
            self._endpoint.abort()

    def _arrive(self) -> None:
        """The request reaches the machine, or has to be sent again."""
        network, (host, port) = self._network, self._target
        if self.result.done() or self._process.state is State.DEAD:
            return
        open_both_ways = network.links.open(self._process.name, host) and network.links.open(host, self._process.name)
        if not open_both_ways:
            if network.loop.time() + self._retry_s > self._deadline:
                self._in_process(self._fail, TimeoutError(110, f"connection to {host}:{port} timed out"))
            else:
                self._later(self._retry_s, self._arrive)
                self._retry_s *= 2
            return
        server = network.server_at(host, port)
        if server is None:
            self._in_process(self._fail, ConnectionRefusedError(111, f"connection to {host}:{port} refused"))
            return
        near = network.endpoints(self._process, server.process, (network.ephemeral_port(), port))
        near.opened = self._opened
        self._endpoint = near
        network.loop.call_soon(server.accept, near.peer, context=near.peer.context())
        near.peer.outbound.signal(OPENED)

    def _opened(self) -> None:
        if not self.result.done() and self._endpoint is not None:
            self.result.set_result(self._endpoint)

    def _fail(self, error: OSError) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._network.loop.call_later(delay_s, callback, context=_WORLD.copy())

    def _in_process(self, callback: Callable[[OSError], None], error: OSError) -> None:
        """The kernel's answer, on its way back to the process."""
        context = self._process.context.copy()
        self._network.loop.call_later(self._network.links.delay(), callback, error, context=context)


def _caller() -> Process:
    process = PROCESS.get()
    if process is None:
        raise RuntimeError("only a simulated process has a network")
    return process
