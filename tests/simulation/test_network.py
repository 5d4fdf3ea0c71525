"""The simulated network behaves as TCP does, and the simulated calls as badly as HTTP may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from random import Random

import pytest

from coordinator.simulation.links import Latency, Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.network import CONNECT_TIMEOUT_S, Network
from coordinator.simulation.process import Process
from coordinator.simulation.rpc import CallRefused, CallTimeout, Flaws, Rpc

_PORT = 7_000


class World:
    """Two machines: `a` listens and keeps what it hears, `b` connects."""

    def __init__(self, seed: int = 1, latency: Latency | None = None) -> None:
        self.loop = SimLoop(seed)
        self.links = Links(seed, latency)
        self.network = Network(self.loop, self.links)
        self.rpc = Rpc(self.loop, self.links)
        self.a = self.loop.process("a")
        self.b = self.loop.process("b")
        self.heard = bytearray()
        self.reads: list[int] = []
        self.ends: list[str] = []
        self.accepted: list[asyncio.StreamWriter] = []
        self.made: list[asyncio.StreamWriter] = []  # kept: asyncio closes a writer that nobody holds

    def listen(self) -> None:
        self.loop.run_until_complete(self.a.run(self._listen()))

    async def _listen(self) -> None:
        await asyncio.start_server(self._session, "a", _PORT)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(writer)
        try:
            while data := await reader.read(1 << 20):
                self.heard += data
                self.reads.append(len(data))
            self.ends.append("eof")
        except ConnectionResetError:
            self.ends.append("reset")
        writer.close()

    def run(self, process: Process, coroutine: Awaitable[object]) -> None:
        async def main() -> None:
            await coroutine

        self.loop.run_until_complete(process.run(main()))

    def let(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def connected(self) -> asyncio.StreamWriter:
        """A connection from `b`."""

        async def connect() -> None:
            self.made.append((await asyncio.open_connection("a", _PORT))[1])

        self.run(self.b, connect())
        return self.made[-1]

    def write(self, process: Process, writer: asyncio.StreamWriter, data: bytes) -> None:
        async def write() -> None:
            writer.write(data)

        self.run(process, write())


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.listen()
    yield world
    world.loop.close()
    assert world.loop.failures == []


def test_bytes_arrive_in_order_split_and_merged(world: World) -> None:
    """Broken on purpose by delivering the last piece of the queue first: red."""
    world.links.latency = Latency(mean_s=0.1)
    writer = world.connected()
    sent = Random(3).randbytes(20_000)

    async def send() -> None:
        for at in range(0, len(sent), 100):
            writer.write(sent[at : at + 100])
            await asyncio.sleep(0.01)
        writer.close()

    world.run(world.b, send())
    world.let(5)
    assert bytes(world.heard) == sent
    assert world.ends == ["eof"]
    assert any(size < 100 for size in world.reads), "nothing was split"
    assert any(size > 100 for size in world.reads), "nothing was merged"


def test_a_peer_that_does_not_read_stops_the_writer(world: World) -> None:
    writer = world.connected()
    world.let(1)
    world.accepted[0].transport.pause_reading()
    drained: list[float] = []

    async def send() -> None:
        for _ in range(20):
            writer.write(bytes(65_536))
            await writer.drain()
            drained.append(world.loop.time())

    task = world.b.spawn(send())
    world.let(10)
    assert not task.done()
    assert writer.transport.get_write_buffer_size() > 65_536
    world.accepted[0].transport.resume_reading()
    world.let(10)
    assert task.done()
    assert len(world.heard) == 20 * 65_536


def test_nobody_listening_refuses(world: World) -> None:
    async def connect() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("a", 1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("nowhere", _PORT)

    world.run(world.b, connect())


def test_an_abort_resets_the_peer(world: World) -> None:
    writer = world.connected()

    async def abort() -> None:
        writer.write(b"before")
        await asyncio.sleep(1)
        writer.transport.abort()

    world.run(world.b, abort())
    world.let(1)
    assert (bytes(world.heard), world.ends) == (b"before", ["reset"])


def test_a_killed_process_ends_its_connections(world: World) -> None:
    writer = world.connected()
    world.write(world.b, writer, b"taken by the kernel")
    world.b.kill()
    world.let(1)
    assert (bytes(world.heard), world.ends) == (b"taken by the kernel", ["eof"])
    assert world.network.connections(world.a) == 0


def test_what_is_sent_to_a_dead_process_resets_the_sender(world: World) -> None:
    writer = world.connected()
    world.let(1)
    world.a.kill()
    lost: list[bool] = []

    async def write() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"hello?")
                await writer.drain()
                await asyncio.sleep(1)
        lost.append(True)

    world.run(world.b, write())
    assert lost
    assert world.loop.time() < 10


def test_a_power_cut_says_nothing_until_the_machine_is_back(world: World) -> None:
    """Broken on purpose by sending the end of file of a killed process: red."""
    world.connected()
    world.let(1)
    world.links.power_off("b")
    world.b.kill()
    world.let(60)
    assert world.ends == []
    world.write(world.a, world.accepted[0], b"are you there?")
    world.let(60)
    assert world.ends == []
    world.links.power_on("b")
    world.let(1)
    assert world.ends == ["reset"]


def test_a_cut_link_holds_bytes_back_and_loses_none(world: World) -> None:
    writer = world.connected()
    world.links.partition(["a"], ["b"])
    world.write(world.b, writer, b"held")
    world.let(30)
    assert (bytes(world.heard), world.ends) == (b"", [])
    world.links.mend_all()
    world.let(1)
    assert (bytes(world.heard), world.ends) == (b"held", [])


def test_a_one_way_cut_lets_the_other_direction_pass(world: World) -> None:
    """Broken on purpose by cutting both directions in `Links.cut`: red."""
    received: list[bytes] = []
    world.let(0)

    async def connect() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("a", _PORT)

        async def listen() -> None:
            while data := await reader.read(100):
                received.append(data)

        world.b.spawn(listen())
        return writer

    writer = world.loop.run_until_complete(world.b.run(connect()))
    world.let(1)
    world.links.cut("b", "a")
    world.write(world.b, writer, b"from b")
    world.write(world.a, world.accepted[0], b"from a")
    world.let(30)
    assert (bytes(world.heard), received) == (b"", [b"from a"])
    world.links.mend("b", "a")
    world.let(1)
    assert bytes(world.heard) == b"from b"


def test_without_acknowledgements_the_window_closes(world: World) -> None:
    """In a one-way cut the data pass, the acknowledgements do not: the sender stops after one window."""
    writer = world.connected()
    world.let(1)
    world.links.cut("a", "b")

    async def send() -> None:
        for _ in range(20):
            writer.write(bytes(65_536))
            await writer.drain()

    task = world.b.spawn(send())
    world.let(60)
    assert not task.done()
    assert len(world.heard) == 256 * 1024
    world.links.mend_all()
    world.let(1)
    assert task.done()
    assert len(world.heard) == 20 * 65_536


def test_a_reset_that_is_lost_leaves_the_peer_half_open(world: World) -> None:
    writer = world.connected()
    world.let(1)
    world.links.partition(["a"], ["b"])

    async def abort() -> None:
        writer.transport.abort()

    world.run(world.b, abort())
    world.let(5)
    world.links.mend_all()
    world.let(60)
    assert world.ends == []
    world.write(world.a, world.accepted[0], b"still there?")
    world.let(1)
    assert world.ends == ["reset"]


def test_connecting_through_a_cut_waits_and_gives_up(world: World) -> None:
    outcome: list[tuple[str, float]] = []

    async def connect() -> None:
        started = world.loop.time()
        try:
            _, writer = await asyncio.open_connection("a", _PORT)
            writer.close()
            outcome.append(("connected", world.loop.time() - started))
        except TimeoutError:
            outcome.append(("timed out", world.loop.time() - started))

    world.links.cut("a", "b")  # the request passes, the answer does not
    task = world.b.spawn(connect())
    world.let(10)
    world.links.mend_all()
    world.let(10)
    assert task.done()
    world.links.cut("b", "a")
    world.run(world.b, connect())
    assert [what for what, _ in outcome] == ["connected", "timed out"]
    assert 10 < outcome[0][1] < 20
    assert 60 < outcome[1][1] <= CONNECT_TIMEOUT_S


def test_a_cancelled_attempt_leaves_no_connection_behind(world: World) -> None:
    async def connect() -> None:
        for delay in (0.000_1, 0.000_5, 0.001, 0.002):
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    _, writer = await asyncio.open_connection("a", _PORT)
                    writer.close()

    world.run(world.b, connect())
    world.let(1)
    assert world.network.connections(world.a) == 0


def test_a_paused_process_neither_reads_nor_closes(world: World) -> None:
    writer = world.connected()
    world.let(1)
    world.a.pause()
    world.write(world.b, writer, b"wait for it")
    world.let(30)
    assert bytes(world.heard) == b""
    world.a.resume()
    world.let(1)
    assert bytes(world.heard) == b"wait for it"


# Calls -------------------------------------------------------------------------------------------------------------


def _served(world: World, handler: Callable[[str, bytes], Awaitable[bytes]]) -> None:
    async def serve() -> None:
        world.rpc.serve("echo", handler)

    world.run(world.a, serve())


async def _echo(source: str, request: bytes) -> bytes:
    return source.encode() + b":" + request


def test_a_call_is_answered(world: World) -> None:
    _served(world, _echo)
    answer = world.loop.run_until_complete(world.b.run(world.rpc.call("a", "echo", b"x", 1)))
    assert answer == b"b:x"


def test_calls_are_lost_doubled_and_late_as_the_seed_says(world: World) -> None:
    executed: list[bytes] = []

    async def handler(source: str, request: bytes) -> bytes:
        executed.append(request)
        return request

    _served(world, handler)
    world.rpc.flaws = Flaws(loss=0.2, duplicate=0.2, late=0.2, late_mean_s=5)
    outcomes: list[bool] = []

    async def main() -> None:
        for number in range(300):
            try:
                await world.rpc.call("a", "echo", b"%d" % number, 0.5)
                outcomes.append(True)
            except CallTimeout:
                outcomes.append(False)
        await asyncio.sleep(100)

    world.run(world.b, main())
    counts = [executed.count(b"%d" % number) for number in range(300)]
    assert counts.count(0) > 10
    assert counts.count(2) > 10
    assert any(not heard and count for heard, count in zip(outcomes, counts, strict=True)), "no answer was lost"
    assert all(count for heard, count in zip(outcomes, counts, strict=True) if heard)


def test_a_call_to_nobody_is_refused_and_one_into_a_cut_times_out(world: World) -> None:
    _served(world, _echo)

    async def main() -> None:
        with pytest.raises(CallRefused):
            await world.rpc.call("a", "other", b"", 1)
        world.links.cut("a", "b")
        with pytest.raises(CallTimeout):
            await world.rpc.call("a", "echo", b"", 1)
        world.links.mend_all()
        world.a.kill()
        with pytest.raises(CallRefused):
            await world.rpc.call("a", "echo", b"", 1)
        world.links.power_off("a")
        with pytest.raises(CallTimeout):
            await world.rpc.call("a", "echo", b"", 1)

    world.run(world.b, main())
