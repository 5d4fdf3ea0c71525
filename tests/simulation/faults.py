"""What goes wrong, when, and for how long: all of it drawn from the seed.

`Faults.reign` breaks things one after the other, several at a time, and repairs each after a while; `heal` repairs
everything at once. Nothing here knows what the machines run; but the world may tell of *moments* in which a fault
would hurt most (`Faults.moment`), and an ambush waits for the next one of its kind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from coordinator.simulation.links import Latency, Links
from coordinator.simulation.machines import Machine
from coordinator.simulation.process import DiskSpeed
from coordinator.simulation.trace import Trace

__all__ = ["FaultPlan", "Faults"]

Fault = Callable[[], Coroutine[Any, Any, None]]

_OPERATIONS_AHEAD_MAX = 8
_ACCOMPLICES = 0.12  # the part of the others that an ambush hits too


async def _at_once(strike: Callable[[], None]) -> None:
    strike()


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How much trouble. `every_s`: mean time between two faults; the weights say how often each kind is drawn."""

    every_s: float = 15.0
    lasts_s: float = 8.0
    latency: Latency = field(default_factory=Latency)
    disk: DiskSpeed = field(default_factory=DiskSpeed)
    slowest_disk: float = 1.0  # how many times slower the disk of one of the machines is, all the time
    weights: tuple[tuple[str, int], ...] = (
        ("kill", 4),
        ("kill_working", 3),
        ("power_cut", 3),
        ("power_cut_working", 3),
        ("kill_all", 1),
        ("power_cut_all", 1),
        ("blackout_working", 4),
        ("fail_sync", 1),
        ("pause", 3),
        ("split", 3),
        ("isolate", 3),
        ("cut_one_way", 3),
        ("deafen", 2),
        ("slow_disk", 2),
        ("slow_network", 2),
        ("flap", 2),
    )

    @classmethod
    def draw(cls, rng: Random, *, ambushes: int = 0) -> FaultPlan:
        """Each world has its own mixture: some faults often, some never; and ambushes, with this weight."""
        kinds = cls().weights
        weights = tuple((kind, weight * rng.choice((0, 1, 1, 3))) for kind, weight in kinds)
        if not any(weight for _, weight in weights):
            weights = kinds
        if ambushes:
            weights += (("ambush", ambushes),)
        latency = Latency(
            least_s=0.000_2,
            mean_s=rng.choice((0.000_5, 0.005, 0.05)),
            spike_probability=rng.choice((0.0, 0.001, 0.02)),
            spike_mean_s=rng.choice((0.5, 3.0)),
        )
        disk = DiskSpeed(mean_s=rng.choice((0.000_5, 0.005, 0.05)))
        return cls(
            every_s=rng.choice((5.0, 10.0, 20.0, 40.0)),
            lasts_s=rng.choice((2.0, 6.0, 15.0, 30.0)),
            latency=latency,
            disk=disk,
            slowest_disk=rng.choice((1.0, 1.0, 30.0)),
            weights=weights,
        )


class Faults:
    """The faults of one world, over `machines`. `favourite` names a machine worth hitting (the leader), or None.

    `moments`: the kinds of moments that the world tells of, each as often as it is to be waited for.
    """

    def __init__(
        self,
        rng: Random,
        plan: FaultPlan,
        links: Links,
        machines: Iterable[Machine],
        trace: Trace,
        favourite: Callable[[], str | None],
        moments: tuple[str, ...] = (),
    ) -> None:
        self.plan = plan
        self.done = 0
        self._moments = moments
        self._ambushes: dict[str, deque[asyncio.Future[str]]] = {moment: deque() for moment in moments}
        self._rng = rng
        self._links = links
        self._machines = list(machines)
        self._trace = trace
        self._favourite = favourite
        self._kinds = [kind for kind, _ in plan.weights]
        self._weights = [weight for _, weight in plan.weights]
        links.latency = plan.latency
        self._disk_mean_s = {machine.name: plan.disk.mean_s for machine in self._machines}
        self._disk_mean_s[rng.choice(self._machines).name] *= plan.slowest_disk
        for machine in self._machines:
            machine.disk_speed.mean_s = self._disk_mean_s[machine.name]

    async def reign(self, seconds: float) -> None:
        """Break things for so long, then stop; what is broken by then stays broken until `heal`."""
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(self._restart())
                while True:
                    await asyncio.sleep(self._rng.expovariate(1.0) * self.plan.every_s)
                    kind = self._rng.choices(self._kinds, self._weights)[0]
                    fault: Fault = getattr(self, f"_{kind}")
                    self._trace.note("fault", kind)
                    self.done += 1
                    group.create_task(fault())
        except TimeoutError:
            return

    def heal(self) -> None:
        """Repair everything: links, power, pauses, speed; start what is down."""
        self._trace.note("heal")
        for waiting in self._ambushes.values():
            waiting.clear()
        self._links.mend_all()
        self._links.latency = replace(self.plan.latency, spike_probability=0.0)
        for machine in self._machines:
            machine.disk_speed.mean_s = self._disk_mean_s[machine.name]
            machine.disk.relent()
            machine.resume()
            machine.start()

    def moment(self, kind: str, name: str) -> bool:
        """The machine `name` is at such a moment; whether somebody waited for it. What it meant to do next may wait."""
        waiting = self._ambushes[kind]
        while waiting:
            reached = waiting.popleft()
            if not reached.done():
                self._trace.note("ambush", kind, name)
                reached.set_result(name)
                return True
        return False

    # Choosing --------------------------------------------------------------------------------------------------

    def _victim(self) -> Machine:
        favourite = self._favourite() if self._rng.random() < 0.5 else None
        for machine in self._machines:
            if machine.name == favourite:
                return machine
        return self._rng.choice(self._machines)

    def _others(self, machine: Machine) -> list[str]:
        return [other.name for other in self._machines if other is not machine]

    async def _while(self) -> None:
        await asyncio.sleep(self._rng.expovariate(1.0) * self.plan.lasts_s)

    # Machines --------------------------------------------------------------------------------------------------

    async def _restart(self) -> None:
        """Whatever goes down comes back after a while."""
        while True:
            await self._while()
            down = [machine for machine in self._machines if not machine.up]
            if down:
                self._rng.choice(down).start()

    async def _kill(self) -> None:
        self._victim().kill()

    async def _power_cut(self) -> None:
        self._victim().cut_power()

    async def _kill_working(self) -> None:
        machine = self._victim()
        machine.die_at_operation(self._rng.randrange(_OPERATIONS_AHEAD_MAX), machine.kill)

    async def _power_cut_working(self) -> None:
        machine = self._victim()
        machine.die_at_operation(self._rng.randrange(_OPERATIONS_AHEAD_MAX), machine.cut_power)

    async def _blackout_working(self) -> None:
        """Several machines lose power at the moment when one of them is about to write or sync."""
        machine = self._rng.choice(self._machines)
        circle = [other for other in self._machines if other is machine or self._rng.random() < 0.7]

        def blackout() -> None:
            for other in circle:
                other.cut_power()

        machine.die_at_operation(self._rng.randrange(_OPERATIONS_AHEAD_MAX), blackout)

    async def _kill_all(self) -> None:
        for machine in self._machines:
            machine.kill()

    async def _power_cut_all(self) -> None:
        for machine in self._machines:
            machine.cut_power()

    async def _fail_sync(self) -> None:
        self._victim().fail_sync()

    async def _pause(self) -> None:
        machine = self._victim()
        machine.pause()
        await self._while()
        machine.resume()

    async def _slow_disk(self) -> None:
        machine = self._victim()
        machine.disk_speed.mean_s *= self._rng.choice((10.0, 100.0, 1_000.0))
        await self._while()
        machine.disk_speed.mean_s = self._disk_mean_s[machine.name]

    async def _ambush(self) -> None:
        """The next machine that reaches a drawn moment is hit at once or some milliseconds later; others with it."""
        reached: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ambushes[self._rng.choice(self._moments)].append(reached)
        name = await reached
        await asyncio.sleep(self._rng.choice((0.0, 0.002, 0.01, 0.05)) * self._rng.expovariate(1.0))
        others = [machine for machine in self._machines if machine.name != name]
        for machine in others:
            if self._rng.random() < _ACCOMPLICES:
                machine.kill()
        (victim,) = (machine for machine in self._machines if machine.name == name)
        strike: Fault = self._rng.choice(
            (partial(_at_once, victim.kill), partial(_at_once, victim.cut_power), partial(self._shut_in, victim))
        )
        await strike()

    async def _shut_in(self, victim: Machine) -> None:
        """Cut off from some others; it goes on with those that it still reaches."""
        lost = [name for name in self._others(victim) if self._rng.random() < 0.6]
        self._links.partition([victim.name], lost)
        await self._mended([victim.name, *lost])

    # Links -------------------------------------------------------------------------------------------------------

    async def _split(self) -> None:
        names = [machine.name for machine in self._machines]
        self._rng.shuffle(names)
        at = self._rng.randint(1, len(names) - 1)
        self._links.partition(names[:at], names[at:])
        await self._mended(names)

    async def _isolate(self) -> None:
        victim = self._victim()
        self._links.partition([victim.name], self._others(victim))
        await self._mended([machine.name for machine in self._machines])

    async def _deafen(self) -> None:
        """One machine is heard but hears nothing, or the other way round."""
        victim, mute = self._victim(), self._rng.random() < 0.5
        for other in self._others(victim):
            self._links.cut(*((victim.name, other) if mute else (other, victim.name)))
        await self._mended([machine.name for machine in self._machines])

    async def _cut_one_way(self) -> None:
        victim = self._victim()
        other = self._rng.choice(self._others(victim))
        way = [victim.name, other] if self._rng.random() < 0.5 else [other, victim.name]
        self._links.cut(*way)
        await self._while()
        self._links.mend(*way)

    async def _flap(self) -> None:
        """A link that comes and goes."""
        victim = self._victim()
        other = self._rng.choice(self._others(victim))
        for _ in range(self._rng.randint(2, 6)):
            self._links.partition([victim.name], [other])
            await asyncio.sleep(self._rng.expovariate(1.0))
            self._links.mend(victim.name, other)
            self._links.mend(other, victim.name)
            await asyncio.sleep(self._rng.expovariate(1.0))

    async def _slow_network(self) -> None:
        self._links.latency = replace(self.plan.latency, mean_s=self._rng.choice((0.1, 0.5, 2.0)))
        await self._while()
        self._links.latency = self.plan.latency

    async def _mended(self, names: list[str]) -> None:
        """After a while, mend everything between `names`: link by link, in a drawn order."""
        await self._while()
        pairs = [(one, two) for one in names for two in names if one != two]
        self._rng.shuffle(pairs)
        for one, two in pairs:
            self._links.mend(one, two)
            if self._rng.random() < 0.3:
                await asyncio.sleep(self._rng.expovariate(1.0))
