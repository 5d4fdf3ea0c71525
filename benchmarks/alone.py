"""The floor of a staged commit: what nobody can do without, each part measured alone and as cheaply as it goes.

The branch list has to be durable at a majority: one forced write and one round trip, as `benchmarks/floor.py` does
them, without HTTP or consensus. Meanwhile the participants prepare: one request over HTTP to an idle participant,
measured alone, with nothing but an HTTP client before it. The floor is the longer of the two; there is no coordinator
in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import aiohttp
import msgpack

from benchmarks.clients import Generators
from benchmarks.floor import Floor

__all__ = ["Alone", "measure_alone", "prepares"]

SAMPLES = 200
ROWS = 64
_HEADERS = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}


@dataclass(frozen=True, slots=True)
class Alone:
    """Medians of one round, in ms: the forced write and the round trip together, and the prepare."""

    written_ms: float
    prepared_ms: float

    @property
    def floor_ms(self) -> float:
        """Both at the same time."""
        return max(self.written_ms, self.prepared_ms)


async def measure_alone(floor: Floor, generators: Generators, url: str, number: int) -> Alone:
    """One round, the `number`-th, at the `keys` participant at `url`."""
    written_s = [sum(sample) for sample in floor.measure(SAMPLES)]
    prepared_s: list[float] = await generators.call(prepares, url, f"alone-{number}", SAMPLES)
    return Alone(median(written_s) * 1e3, median(prepared_s) * 1e3)


async def prepares(url: str, name: str, count: int) -> list[float]:
    """Seconds of `count` prepares, one after the other, each committed before the next; by the clients' process."""
    samples = []
    async with aiohttp.ClientSession(headers=_HEADERS) as session:
        for number in range(count):
            branch = f"{url}/v1/branches/{name}-{number}/b1"
            body = msgpack.packb({"action": "put", "body": {"key": f"{name}-{number % ROWS}", "value": number}})
            begun = time.monotonic()
            state = await _post(session, f"{branch}/prepare", body)
            samples.append(time.monotonic() - begun)
            if state != "prepared" or await _post(session, f"{branch}/commit", msgpack.packb({})) != "committed":
                raise RuntimeError(f"{url} does not prepare and commit")
    return samples


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    async with session.post(url, data=body, raise_for_status=True) as response:
        return str(msgpack.unpackb(await response.read())["state"])
