"""Connections between replicas over asyncio: who dials, who is heard, and when a silent connection is given up.

Of two replicas the one with the greater name dials; the other only after a while in vain, because who has been away may
not know yet whom it should dial. A connection is cut at the first byte that is not our protocol,
when it falls silent, and when its peer cannot keep up; cutting is always safe, because the guard expects gaps.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from ssl import SSLContext
from typing import Any, Protocol, cast

import structlog

from raftlog.config import LogConfig, split_address
from raftlog.errors import ConfigError, FrameError
from raftlog.frames import Channel
from raftlog.messages import Message
from raftlog.port import Member

__all__ = ["CONNECT_TIMEOUT_S", "SEND_BUFFER_BYTES_MAX", "PeerListener", "PeerTransport"]

SEND_BUFFER_BYTES_MAX = 32 << 20
CONNECT_TIMEOUT_S = 2.0
UNPROVEN_CONNECTIONS_MAX = 64
_NONCE_BYTES = 32
_PING: Message = {"type": "ping"}

_log = structlog.get_logger("raftlog.transport")


class PeerListener(Protocol):
    """Who is told what the connections bring."""

    def peer_connected(self, peer: str) -> None: ...
    def peer_message(self, peer: str, message: Message) -> None: ...
    def peer_disconnected(self, peer: str) -> None: ...


class _Connection(asyncio.Protocol):
    """One connection, either way round. It belongs to `PeerTransport`, which decides whom to listen to."""

    def __init__(self, owner: PeerTransport, channel: Channel) -> None:
        self._owner = owner
        self.channel = channel
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = owner.loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = owner.loop.time()
        self._spoke_at = self._heard_at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses of it
        if not self._owner.made(self):
            self.transport.abort()
            return
        self.transport.write(self.channel.greeting())
        self._watch()

    def data_received(self, data: bytes) -> None:
        try:
            for item in self.channel.receive(data):
                if isinstance(item, bytes):
                    self._write(item)
                    continue
                self._owner.opened(self)
                if item["type"] != "ping":
                    self._owner.heard(self, item)
            if self.channel.open:  # until then, bytes are no sign of life: whoever only dribbles is cut
                self._heard_at = self._owner.loop.time()
                self._owner.opened(self)
        except (FrameError, KeyError) as error:
            self.cut(str(error))

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.lost(self)

    def send(self, message: Message) -> None:
        self._write(self.channel.encode(message))

    def cut(self, why: str, cause: str = "cut") -> None:
        """Give the connection up, at once and without waiting for what is still to be sent."""
        if self.transport is not None and not self.transport.is_closing():
            self._owner.note_cut(self, why, cause)
            self.transport.abort()

    def _write(self, data: bytes) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._spoke_at = self._owner.loop.time()
        transport.write(data)
        if transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            self.cut("the peer does not keep up", "cut_slow")

    def _watch(self) -> None:
        """Every third of the silence allowed: cut a dead connection, keep a quiet one alive."""
        now, silence = self._owner.loop.time(), self._owner.silence_s
        if now - self._heard_at >= silence:
            self.cut(f"nothing heard for {silence:g} s", "cut_silent")
            return
        if self.channel.open and now - self._spoke_at >= silence / 3:
            self.send(_PING)
        self._timer = self._owner.loop.call_later(silence / 3, self._watch)


class PeerTransport:
    """All connections of one node. `counters` counts what was refused or cut, by cause."""

    def __init__(self, config: LogConfig, listener: PeerListener, dice: random.Random) -> None:
        self._config = config
        self._listener = listener
        self._dice = dice
        self.loop = asyncio.get_running_loop()
        self.silence_s = config.timing.silence_s
        self.counters: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._open: dict[str, _Connection] = {}
        self._all: dict[_Connection, None] = {}  # a set in the order of arrival; behind TLS, in that of the handshakes
        self._stopped = False
        self._dialers: dict[str, tuple[str, asyncio.Task[None]]] = {}

    async def start(self, address: str) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        host, port = split_address(address)
        tls = self._config.security.tls_server
        self._server = await self.loop.create_server(
            lambda: self._connection(dialing=False, expected=None),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=_handshake_timeout_s(tls),
        )

    async def stop(self) -> None:
        """Cut everything, and wait until nothing of it runs any more."""
        dialers = [task for _, task in self._dialers.values()]
        closed = [connection.closed for connection in self._all]
        self.abort()
        await asyncio.gather(*dialers, *closed, return_exceptions=True)

    def abort(self) -> None:
        """Cut everything, at once."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        for _, task in self._dialers.values():
            task.cancel()
        self._dialers.clear()
        for connection in list(self._all):
            if connection.transport is not None:
                connection.transport.abort()

    def set_members(self, members: tuple[Member, ...]) -> None:
        """Dial whom we should dial now, and nobody else."""
        wanted = {member.name: member.address for member in members if member.name != self._config.name}
        for name, (address, task) in list(self._dialers.items()):
            if wanted.get(name) != address:
                task.cancel()
                del self._dialers[name]
        for name, address in wanted.items():
            if name not in self._dialers:
                self._dialers[name] = (address, self.loop.create_task(self._keep_connected(name, address)))

    def send(self, peer: str, message: Message) -> bool:
        """Queue a message for a connected peer; False if it is not connected."""
        connection = self._open.get(peer)
        if connection is None:
            return False
        connection.send(message)
        return True

    def backlog_bytes(self, peer: str) -> int:
        """What has been queued for a peer and has not left this process."""
        connection = self._open.get(peer)
        return 0 if connection is None or connection.transport is None else connection.transport.get_write_buffer_size()

    def connected(self) -> tuple[str, ...]:
        """The names of the peers that have proven themselves and can be sent to."""
        return tuple(sorted(self._open))

    # What connections report -----------------------------------------------------------------------------

    def made(self, connection: _Connection) -> bool:
        """A connection is there, through its TLS handshake if it has one; False: nobody wants it any more.

        asyncio tells nobody of a handshake that failed, so what has not come this far is not kept anywhere.
        """
        if self._stopped:
            return False
        self._all[connection] = None
        unproven = [other for other in self._all if not other.channel.open]
        if len(unproven) > UNPROVEN_CONNECTIONS_MAX:
            unproven[0].cut("too many connections that have proven nothing")
        return True

    def opened(self, connection: _Connection) -> None:
        """The peer has proven who it is. Of two connections of one peer the later one counts."""
        peer = connection.channel.peer
        known = self._open.get(peer or "")
        if peer is None or known is connection:
            return
        if not self._named_by_certificate(connection, peer):
            connection.cut(f"the certificate does not name {peer!r}")
            return
        if known is not None:
            self._forget(known)
            known.cut("the peer opened another connection")
        self._open[peer] = connection
        self._listener.peer_connected(peer)

    def heard(self, connection: _Connection, message: dict[str, Any]) -> None:
        """A message, of a connection that still counts."""
        peer = connection.channel.peer
        if peer is not None and self._open.get(peer) is connection:
            self._listener.peer_message(peer, message)

    def lost(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._all.pop(connection, None)
        self._forget(connection)

    def note_cut(self, connection: _Connection, why: str, cause: str) -> None:
        """Say why a connection was given up, and count it; whoever has proven nothing has been refused."""
        self.counters[cause if connection.channel.open else "refused"] += 1
        _log.warning("connection cut", node=self._config.name, peer=connection.channel.peer, why=why)

    def _forget(self, connection: _Connection) -> None:
        peer = connection.channel.peer
        if peer is not None and self._open.get(peer) is connection:
            del self._open[peer]
            self._listener.peer_disconnected(peer)

    def _named_by_certificate(self, connection: _Connection, peer: str) -> bool:
        if self._config.security.tls_server is None or connection.transport is None:
            return True
        certificate = connection.transport.get_extra_info("peercert") or {}
        return ("DNS", peer) in certificate.get("subjectAltName", ())

    # Dialling --------------------------------------------------------------------------------------------

    def _connection(self, *, dialing: bool, expected: str | None) -> _Connection:
        config = self._config
        nonce = self._dice.randbytes(_NONCE_BYTES)
        channel = Channel(
            config.cluster, config.name, config.security.secret, nonce, dialing=dialing, expected=expected
        )
        return _Connection(self, channel)

    async def _keep_connected(self, peer: str, address: str) -> None:
        """Until the address changes. One that cannot be dialled at all is given up; the next one gets a new task."""
        try:
            await self._redial(peer, *split_address(address))
        except (ConfigError, ValueError) as error:  # ValueError: a host that is no domain name
            self.counters["bad_address"] += 1
            _log.error("cannot dial peer", node=self._config.name, peer=peer, address=address, why=str(error))

    async def _redial(self, peer: str, host: str, port: int) -> None:
        patience_s = self._config.timing.redial_s if peer < self._config.name else self.silence_s
        await asyncio.sleep(0 if peer < self._config.name else self._drawn(patience_s))
        while True:
            connection = self._open.get(peer)
            if connection is None:
                await self._dial(peer, host, port)
            else:
                await asyncio.shield(connection.closed)
            await asyncio.sleep(self._drawn(patience_s))

    def _drawn(self, mean_s: float) -> float:
        return mean_s * (0.5 + self._dice.random())

    async def _dial(self, peer: str, host: str, port: int) -> None:
        """Connect, and stay until the connection is gone."""
        tls = self._config.security.tls_client
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await self.loop.create_connection(
                    lambda: self._connection(dialing=True, expected=peer),
                    host,
                    port,
                    ssl=tls,
                    ssl_handshake_timeout=_handshake_timeout_s(tls),
                    server_hostname=peer if tls is not None else None,
                )
            await asyncio.shield(connection.closed)
        except OSError as error:  # refused, unreachable, timed out, or a certificate that does not verify
            self.counters["dial_failed"] += 1
            _log.debug("cannot reach peer", node=self._config.name, peer=peer, why=str(error))


def _handshake_timeout_s(tls: SSLContext | None) -> float | None:
    """asyncio takes one only with a context."""
    return None if tls is None else CONNECT_TIMEOUT_S
