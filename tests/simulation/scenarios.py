"""One scenario that uses every part of the simulator at once; its trace stands for the simulator's determinism."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

from coordinator.simulation.disk import SimDisk
from coordinator.simulation.links import Latency, Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.network import Network
from coordinator.simulation.process import DiskSpeed, Process
from coordinator.simulation.rpc import CallRefused, CallTimeout, Flaws, Rpc
from coordinator.simulation.trace import Trace

__all__ = ["everything"]

_NAMES = ("a", "b", "c")
_PORT = 9_000


class _World:
    def __init__(self, seed: int) -> None:
        self.rng = Random(f"{seed}/scenario")
        self.loop = SimLoop(seed)
        self.links = Links(seed, Latency(mean_s=0.02, spike_probability=0.01))
        self.network = Network(self.loop, self.links)
        self.rpc = Rpc(self.loop, self.links, Flaws(loss=0.1, duplicate=0.1, late=0.1))
        self.trace = Trace(self.loop.time)
        self.disks = {name: SimDisk(Random(f"{seed}/{name}")) for name in _NAMES}
        self.processes: dict[str, Process] = {}

    def start(self, name: str) -> None:
        process = self.loop.process(name, DiskSpeed(mean_s=0.01))
        self.processes[name] = process
        process.spawn(self._server(name))
        process.spawn(self._client(name))

    async def _server(self, name: str) -> None:
        file = self.disks[name].open("log")

        def store(data: bytes) -> None:
            file.append(data)
            file.sync()

        async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await reader.read(1_000):
                    self.trace.note("bytes", name, len(data))
                    await asyncio.to_thread(store, data)
                    writer.write(data[:10])
            writer.close()

        async def answer(source: str, request: bytes) -> bytes:
            self.trace.note("call", source, name, request)
            return request

        self.rpc.serve("echo", answer)
        await asyncio.start_server(session, name, _PORT)

    async def _client(self, name: str) -> None:
        peer = _NAMES[(_NAMES.index(name) + 1) % len(_NAMES)]
        while True:
            try:
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection(peer, _PORT)
                for number in range(20):
                    writer.write(bytes(10 + number))
                    await writer.drain()
                    await self._ask(name, peer, number)
                writer.close()
                self.trace.note("echoed", name, len(await asyncio.wait_for(reader.read(), 5)))
            except OSError as error:
                self.trace.note("lost", name, type(error).__name__)
                await asyncio.sleep(0.5)

    async def _ask(self, name: str, peer: str, number: int) -> None:
        try:
            await self.rpc.call(peer, "echo", b"%d" % number, 0.5)
        except (CallTimeout, CallRefused) as error:
            self.trace.note("unanswered", name, type(error).__name__)

    async def run(self) -> None:
        for name in _NAMES:
            self.start(name)
        for _ in range(30):
            await asyncio.sleep(self.rng.expovariate(1.0))
            name, other = self.rng.sample(_NAMES, 2)
            match self.rng.randrange(4):
                case 0:
                    self.processes[name].kill()
                    self.disks[name] = self.disks[name].crash(self.rng)
                    self.trace.note("crash", name, *self.disks[name].names())
                    self.start(name)
                case 1:
                    self.links.cut(name, other)
                    await asyncio.sleep(self.rng.expovariate(0.5))
                    self.links.mend_all()
                case _:
                    self.processes[name].pause()
                    await asyncio.sleep(self.rng.expovariate(1.0))
                    self.processes[name].resume()


def everything(seed: int) -> str:
    """Run the scenario; returns the digest of its trace."""
    world = _World(seed)
    world.loop.run_until_complete(world.run())
    world.loop.close()
    if world.loop.failures:
        raise AssertionError(world.loop.failures)
    if world.trace.events < 100:
        raise AssertionError("the scenario hardly did anything")
    return f"{world.trace.digest()} {world.trace.events}"
