"""Connections between replicas, over real sockets: who gets in, who is cut, and that a node is none the worse."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from raftlog import transport as transport_module
from raftlog.config import LogConfig, Security, Timing
from raftlog.frames import FRAME_BYTES_MAX, Channel
from raftlog.messages import Message
from raftlog.port import Member
from raftlog.transport import PeerTransport
from tests.support.certificates import Authority
from tests.support.lines import Lines, captured_lines
from tests.support.ports import free_addresses

PATIENCE_S = 10.0
SECRET = b"the secret of the cluster"
TIMING = Timing(heartbeat_s=0.01, election_min_s=0.05, election_max_s=0.1, silence_s=0.2, redial_s=0.01)
QUIET = Timing(silence_s=60.0)
MESSAGE: Message = {"type": "read_index", "id": 7}


class Peer:
    """One node's transport, and everything that it was told; `happened` wakes who waits for something."""

    def __init__(self, name: str, members: tuple[Member, ...], security: Security, timing: Timing) -> None:
        self.name = name
        self.events: list[tuple[str, str]] = []
        self.messages: list[Message] = []
        self._changed = asyncio.Event()
        config = LogConfig("c", name, members, security, timing)
        self.transport = PeerTransport(config, self, random.Random(name))
        self.members = members

    async def start(self) -> Peer:
        await self.transport.start(next(member.address for member in self.members if member.name == self.name))
        self.transport.set_members(self.members)
        return self

    def peer_connected(self, peer: str) -> None:
        self._note("connected", peer)

    def peer_disconnected(self, peer: str) -> None:
        self._note("disconnected", peer)

    def peer_message(self, peer: str, message: Message) -> None:
        self.messages.append(message)
        self._note("message", peer)

    def _note(self, what: str, peer: str) -> None:
        self.events.append((what, peer))
        self._changed.set()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def until_connected(self, *peers: str) -> None:
        await self.until(lambda: self.transport.connected() == peers)


def members_of(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name, address) for name, address in zip(names, free_addresses(len(names)), strict=True))


class Raw:
    """A connection to a node, made by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> bytes:
        """The next frame that the node sends, with its length."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readexactly(4)
            return head + await self._reader.readexactly(int.from_bytes(head, "big"))

    async def introduce(self, channel: Channel) -> None:
        """The handshake, as `channel` makes it."""
        self.send(channel.greeting())
        for item in channel.receive(await self.frame()):
            assert isinstance(item, bytes)
            self.send(item)
        list(channel.receive(await self.frame()))
        assert channel.open

    async def was_cut(self) -> bool:
        """Whether the node ended the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self._reader.read(65_536):
                    pass
            except ConnectionError:
                pass
        return True


class Net:
    """Makes nodes and raw connections to them, and ends them all."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.raws: list[Raw] = []

    async def start(
        self, name: str, members: tuple[Member, ...], security: Security | None = None, timing: Timing = QUIET
    ) -> Peer:
        self.peers.append(Peer(name, members, security or Security(secret=SECRET), timing))
        return await self.peers[-1].start()

    async def connect(self, peer: Peer, security: Security | None = None) -> Raw:
        """In plain, or through the TLS of `security`."""
        host, port = next(member.address for member in peer.members if member.name == peer.name).split(":")
        tls = None if security is None else security.tls_client
        name = None if tls is None else peer.name
        self.raws.append(Raw(*await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=name)))
        return self.raws[-1]

    async def end(self) -> None:
        for peer in self.peers:
            await peer.transport.stop()
        for raw in self.raws:
            raw.writer.close()
            with suppress(OSError):
                await raw.writer.wait_closed()


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    net = Net()
    yield net
    await net.end()


def channel(name: str = "n2", *, cluster: str = "c", secret: bytes = SECRET) -> Channel:
    return Channel(cluster, name, secret, b"N" * 32, dialing=True, expected="n1")


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def reasons(lines: Lines) -> list[str]:
    """Why connections were cut."""
    return [line["why"] for line in lines.of("connection cut")]


# Coming together -----------------------------------------------------------------------------------------------------


async def test_replicas_find_each_other_and_talk(net: Net) -> None:
    """In whichever order they start; of two, the one with the greater name dials."""
    members = members_of("n1", "n2", "n3")
    three = await net.start("n3", members)
    one = await net.start("n1", members)
    two = await net.start("n2", members)
    await one.until_connected("n2", "n3")
    await two.until_connected("n1", "n3")
    await three.until_connected("n1", "n2")
    assert one.transport.send("n3", MESSAGE)
    assert three.transport.send("n1", {**MESSAGE, "id": 8})
    await three.until(lambda: three.messages)
    await one.until(lambda: one.messages)
    assert three.messages == [MESSAGE]
    assert one.messages == [{**MESSAGE, "id": 8}]


async def test_nothing_is_sent_to_who_is_not_there(net: Net) -> None:
    one = await net.start("n1", members_of("n1", "n2"))
    assert not one.transport.send("n2", MESSAGE)
    assert one.transport.backlog_bytes("n2") == 0


async def test_a_peer_that_dies_is_noticed_and_found_again(net: Net) -> None:
    """Red when `_keep_dialing` ends with its first connection."""
    members = members_of("n1", "n2")
    one, two = await net.start("n1", members), await net.start("n2", members)
    await two.until_connected("n1")
    await one.transport.stop()
    await two.until_connected()
    again = await net.start("n1", members)
    await two.until_connected("n1")
    await again.until_connected("n2")
    assert two.events == [("connected", "n1"), ("disconnected", "n1"), ("connected", "n1")]


async def test_a_member_that_was_removed_is_not_dialled_and_one_that_moved_is_dialled_there(net: Net) -> None:
    members = members_of("n1", "n2")
    two = await net.start("n2", members)
    two.transport.set_members(members[1:])
    assert two.transport._dialers == {}
    moved = (Member("n1", free_addresses(1)[0]), members[1])
    two.transport.set_members(moved)
    await net.start("n1", moved)
    await two.until_connected("n1")


async def test_an_address_that_is_taken_is_an_error_at_the_start(net: Net) -> None:
    members = members_of("n1")
    await net.start("n1", members)
    with pytest.raises(OSError, match="in use"):
        await net.start("n1", members)


async def test_of_two_connections_of_one_peer_the_later_counts(net: Net) -> None:
    """The earlier may be one that only looks alive."""
    one = await net.start("n1", members_of("n1"))
    first, second = await net.connect(one), await net.connect(one)
    await first.introduce(old := channel())
    await one.until_connected("n2")
    await second.introduce(new := channel())
    assert await first.was_cut()
    second.send(new.encode(MESSAGE))
    await one.until(lambda: one.messages)
    assert one.events == [("connected", "n2"), ("disconnected", "n2"), ("connected", "n2"), ("message", "n2")]
    assert old.open


@pytest.mark.parametrize("address", ["", "nowhere", f"{'x' * 70}.example:1"], ids=["none", "no port", "no name"])
async def test_an_address_that_cannot_be_dialled_is_reported_once_and_a_better_one_is_dialled(
    net: Net, address: str
) -> None:
    """Red when the dialling task dies of it: nobody would ever know."""
    members = members_of("n1", "n2")
    two = await net.start("n2", members[1:])
    with captured_lines() as lines:
        two.transport.set_members((Member("n1", address), members[1]))
        two.transport.set_members((Member("n1", address), members[1]))
        await lines.until(lambda: lines.of("cannot dial peer"))
    (line,) = lines.of("cannot dial peer")
    assert (line["peer"], line["address"], line["level"]) == ("n1", address, "error")
    assert two.transport.counters["bad_address"] == 1
    two.transport.set_members(members)
    await net.start("n1", members)
    await two.until_connected("n1")


# Silence -------------------------------------------------------------------------------------------------------------


async def test_a_quiet_connection_is_kept_alive(net: Net) -> None:
    """Red when `_watch` sends no pings."""
    members = members_of("n1", "n2")
    one, two = await net.start("n1", members, timing=TIMING), await net.start("n2", members, timing=TIMING)
    await one.until_connected("n2")
    await two.until_connected("n1")
    await asyncio.sleep(3 * TIMING.silence_s)
    assert one.events == [("connected", "n2")]
    assert two.events == [("connected", "n1")]
    assert one.messages == two.messages == [], "pings are nobody's business"


@pytest.mark.parametrize("proven", [True, False])
async def test_a_silent_connection_is_cut(net: Net, proven: bool) -> None:
    """Red when `_watch` does not look at when something was heard."""
    one = await net.start("n1", members_of("n1"), timing=TIMING)
    raw = await net.connect(one)
    with captured_lines() as lines:
        if proven:
            await raw.introduce(channel())
        assert await raw.was_cut()
        await lines.until(lambda: reasons(lines))
    assert reasons(lines) == ["nothing heard for 0.2 s"]
    assert one.transport.counters["cut_silent" if proven else "refused"] == 1


async def test_who_dribbles_without_proving_anything_is_cut_as_well(net: Net) -> None:
    """Red when any byte counts as a sign of life."""
    one = await net.start("n1", members_of("n1"), timing=TIMING)
    raw = await net.connect(one)

    async def dribble() -> None:
        for byte in channel().greeting()[:-1]:
            raw.send(bytes((byte,)))
            await asyncio.sleep(TIMING.silence_s / 10)

    dribbling = asyncio.create_task(dribble())
    began = asyncio.get_running_loop().time()
    assert await raw.was_cut()
    assert asyncio.get_running_loop().time() - began < 5 * TIMING.silence_s
    dribbling.cancel()


# Who does not get in -------------------------------------------------------------------------------------------------


def old_version() -> bytes:
    greeting = channel().greeting()
    return greeting.replace(b"\xa7version\x01", b"\xa7version\x00")


def new_version() -> bytes:
    return channel().greeting().replace(b"\xa7version\x01", b"\xa7version\x02")


class Bomb:
    """What a pickle may do to who loads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: n1\r\n\r\n", "a frame of 1195725856 bytes where at most 1024 are allowed"),
        (framed(b"\xff" * 100), "the peer does not speak this protocol|not msgpack|not a message"),
        (b"\xff" * 2_000, "a frame of 4294967295 bytes"),
        (framed(b""), "not msgpack"),
        (channel(cluster="d").greeting(), "the peer belongs to cluster 'd', we to 'c'"),
        (old_version(), "the peer speaks version 0, we speak 1"),
        (new_version(), "the peer speaks version 2, we speak 1"),
        (channel().greeting() + framed(b"x" * 32), "'n2' does not know the cluster's secret"),
        (channel().greeting() + channel(secret=b"x" * 16).greeting(), "'n2' does not know the cluster's secret"),
    ],
    ids=["http", "garbage", "noise", "empty", "cluster", "older", "newer", "proof", "no proof"],
)
async def test_who_does_not_speak_our_protocol_is_cut_counted_and_named(net: Net, first: bytes, why: str) -> None:
    """One clear line each, and the node goes on. Red when `data_received` lets FrameError pass."""
    one = await net.start("n1", members_of("n1"))
    raw = await net.connect(one)
    with captured_lines() as lines:
        raw.send(first)
        assert await raw.was_cut()
    (reason,) = reasons(lines)
    assert any(part in reason for part in why.split("|"))
    assert [line["level"] for line in lines.lines] == ["warning"]
    assert one.transport.counters["refused"] == 1
    assert one.events == []
    await _still_well(net, one)


async def test_a_pickle_is_no_more_than_garbage(net: Net, tmp_path: Path) -> None:
    """The library's own transport runs whatever a pickle says. Raw, in a frame, and after the whole handshake."""
    target = tmp_path / "run"
    bomb = pickle.dumps(Bomb(target))
    one = await net.start("n1", members_of("n1"))
    for first in (bomb, framed(bomb), len(bomb).to_bytes(4, "little") + bomb):
        raw = await net.connect(one)
        raw.send(first)
        raw.writer.write_eof()
        assert await raw.was_cut()
    raw = await net.connect(one)
    await raw.introduce(proven := channel())
    raw.send(proven.encode({"type": "append_entries", "data": bomb}))
    raw.send(framed(bomb))
    assert await raw.was_cut()
    assert not target.exists()
    assert one.messages == [{"type": "append_entries", "data": bomb}]
    await _still_well(net, one)


@pytest.mark.parametrize("what", ["tampered", "repeated", "reordered", "too long", "untyped", "no map"])
async def test_a_proven_connection_is_cut_at_the_first_frame_that_is_not_right(net: Net, what: str) -> None:
    """Red, but for the last two, when messages carry no tag, or one without the sequence number."""
    one = await net.start("n1", members_of("n1"))
    raw = await net.connect(one)
    await raw.introduce(proven := channel())
    await one.until_connected("n2")
    first, second = proven.encode(MESSAGE), proven.encode(MESSAGE)
    bad = {
        "tampered": first[:-1] + bytes((first[-1] ^ 1,)),
        "repeated": first + first,
        "reordered": second + first,
        "too long": (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"x",
        "untyped": first + second + proven.encode({"id": 7}),
        "no map": first + second + proven.encode([1, 2]),  # type: ignore[arg-type]
    }[what]
    with captured_lines() as lines:
        raw.send(bad)
        assert await raw.was_cut()
    assert len(reasons(lines)) == 1
    assert one.transport.counters["cut"] == 1
    assert len(one.messages) == {"repeated": 1, "untyped": 2, "no map": 2}.get(what, 0)
    assert one.events[-1] == ("disconnected", "n2")
    await _still_well(net, one)


async def _still_well(net: Net, peer: Peer) -> None:
    """An honest peer gets in and is heard."""
    peer.messages.clear()
    raw = await net.connect(peer)
    await raw.introduce(honest := channel("n3"))
    raw.send(honest.encode(MESSAGE))
    await peer.until(lambda: MESSAGE in peer.messages)


async def test_strangers_do_not_use_up_the_connections(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest that has proven nothing makes room. Red when nobody counts, and when the newest makes room."""
    monkeypatch.setattr(transport_module, "UNPROVEN_CONNECTIONS_MAX", 4)
    one = await net.start("n1", members_of("n1"))
    honest = await net.connect(one)
    await honest.introduce(proven := channel())
    strangers = []
    for _ in range(8):
        strangers.append(await net.connect(one))
        await strangers[-1].frame()  # it was let in
    for stranger in strangers[:4]:
        assert await stranger.was_cut()
    assert one.transport.counters["refused"] == 4
    honest.send(proven.encode(MESSAGE))
    await one.until(lambda: one.messages)
    await (await net.connect(one)).introduce(channel("n3"))


async def test_a_peer_that_does_not_read_is_cut(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when nobody looks at the buffer: it would grow until the memory is full."""
    monkeypatch.setattr(transport_module, "SEND_BUFFER_BYTES_MAX", 1 << 20)
    one = await net.start("n1", members_of("n1"))
    raw = await net.connect(one)
    await raw.introduce(channel())
    await one.until_connected("n2")
    transport = raw.writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    large: Message = {"type": "x", "data": bytes(1 << 18)}
    with captured_lines() as lines:
        for _ in range(1_000):
            if not one.transport.send("n2", large) or reasons(lines):
                break
            await asyncio.sleep(0)
    assert reasons(lines) == ["the peer does not keep up"]
    assert one.transport.counters["cut_slow"] == 1
    await one.until_connected()
    transport.abort()


# TLS -----------------------------------------------------------------------------------------------------------------


async def test_certificates_prove_the_names(net: Net, tmp_path: Path) -> None:
    """Waiting for the connection, and for the message, fails after a while."""
    authority = Authority(tmp_path)
    members = members_of("n1", "n2")
    one = await net.start("n1", members, authority.security("n1"))
    two = await net.start("n2", members, authority.security("n2"))
    await one.until_connected("n2")
    await two.until_connected("n1")
    two.transport.send("n1", MESSAGE)
    await one.until(lambda: one.messages)


async def test_a_dialler_whose_certificate_names_another_is_cut(net: Net, tmp_path: Path) -> None:
    """The authority knows it, but not by that name. Red when `_named_by_certificate` says yes."""
    authority = Authority(tmp_path)
    members = members_of("n1", "n2")
    one = await net.start("n1", members, authority.security("n1"))
    with captured_lines() as lines:
        await net.start("n2", members, authority.security("n2", issued_to="n3"))
        await lines.until(lambda: "the certificate does not name 'n2'" in reasons(lines))
    assert one.events == []


async def test_a_listener_whose_certificate_names_another_is_not_believed(net: Net, tmp_path: Path) -> None:
    """Red when `_keep_dialing` does not say whom it expects."""
    authority = Authority(tmp_path)
    members = members_of("n1", "n2")
    await net.start("n1", members, authority.security("n1", issued_to="n3"))
    with captured_lines() as lines:
        two = await net.start("n2", members, authority.security("n2"))
        await lines.until(lambda: len(lines.of("cannot reach peer")) > 1)
    assert "certificate" in lines.of("cannot reach peer")[0]["why"]
    assert two.transport.counters["dial_failed"] > 1
    assert two.events == []


async def test_a_certificate_of_another_authority_is_not_believed(net: Net, tmp_path: Path) -> None:
    """In neither direction, and neither is plain text."""
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "other authority")
    members = members_of("n1", "n2")
    one = await net.start("n1", members, ours.security("n1"))
    with captured_lines() as lines:
        two = await net.start("n2", members, theirs.security("n2"))
        await lines.until(lambda: len(lines.of("cannot reach peer")) > 1)
    assert one.events == two.events == []
    raw = await net.connect(one)
    raw.send(channel().greeting())
    assert await raw.was_cut()
    assert one.events == []


async def test_a_handshake_that_fails_leaves_nothing_behind(net: Net, tmp_path: Path) -> None:
    """On neither side. asyncio tells nobody of it. Red when a connection is kept from before its handshake on."""
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "other authority")
    members = members_of("n1", "n2")
    one = await net.start("n1", members, ours.security("n1"), TIMING)
    with captured_lines() as lines:
        two = await net.start("n2", members, theirs.security("n2"), TIMING)
        await lines.until(lambda: len(lines.of("cannot reach peer")) > 4)
    assert len(one.transport._all) == len(two.transport._all) == 0


async def test_a_handshake_that_never_ends_is_cut(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when asyncio's own patience of a minute is left to it."""
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT_S", 0.1)
    one = await net.start("n1", members_of("n1"), Authority(tmp_path).security("n1"))
    raw = await net.connect(one)
    assert await raw.was_cut()
    assert len(one.transport._all) == 0


async def test_strangers_behind_tls_do_not_use_up_the_connections(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound counts from the end of the handshake on. Red when it is applied before, with nobody to cut yet."""
    monkeypatch.setattr(transport_module, "UNPROVEN_CONNECTIONS_MAX", 4)
    authority = Authority(tmp_path)
    one = await net.start("n1", members_of("n1"), authority.security("n1"))
    strangers = [await net.connect(one, authority.security("n2")) for _ in range(8)]
    for stranger in strangers[:4]:
        assert await stranger.was_cut()
    assert len(one.transport._all) == 4


async def test_a_connection_that_comes_through_its_handshake_after_the_end_is_cut(net: Net) -> None:
    """Red when `made` does not ask whether the node has stopped: nothing would ever close it."""
    one = await net.start("n1", members_of("n1"))
    late = one.transport._connection(dialing=False, expected=None)
    await one.transport.stop()
    end, other = socket.socketpair()
    with other:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: late, end)
        async with asyncio.timeout(PATIENCE_S):
            await late.closed
    assert len(one.transport._all) == 0
