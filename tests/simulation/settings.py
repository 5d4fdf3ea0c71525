"""What the seed chooses for a system world, and the ways to make it harder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from random import Random

from coordinator.simulation.rpc import Flaws
from tests.simulation.bank import Kind, draw_kinds
from tests.simulation.faults import FaultPlan

__all__ = ["BANKS", "Only", "Settings", "coded", "declared", "pressed", "stepwise", "three_phased", "workless"]

BANKS = ("bank-a", "bank-b", "bank-c", "bank-d")


class Only(Enum):
    """All that is done in a world that is about one thing."""

    STEPS = auto()  # and workflows among them
    WORKFLOWS = auto()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the seed chose for one world. Of its transactions without steps, `three_percent` are in three phases."""

    kinds: dict[str, Kind]
    clients: int
    tellers: int  # at once, at each client
    think_s: float
    snapshot_entries: int
    flaws: Flaws
    faults: FaultPlan
    three_percent: int
    workers: int = 2
    only: Only | None = None

    @classmethod
    def draw(cls, rng: Random) -> Settings:
        flaws = Flaws(
            loss=rng.choice((0.0, 0.01, 0.05)),
            duplicate=rng.choice((0.0, 0.02, 0.1)),
            late=rng.choice((0.0, 0.02, 0.1)),
            late_mean_s=rng.choice((1.0, 5.0)),
        )
        faults = FaultPlan.draw(rng, ambushes=rng.choice((6, 15, 40)))
        return cls(
            kinds=draw_kinds(rng, list(BANKS)),
            clients=rng.randint(1, 3),
            tellers=rng.choice((1, 1, 2)),
            think_s=rng.choice((2.0, 5.0, 15.0)),
            snapshot_entries=rng.choice((30, 100, 400)),
            flaws=flaws,
            faults=faults,
            three_percent=0 if _takes_seconds(faults) else rng.choice((10, 30)),
        )


def _takes_seconds(faults: FaultPlan) -> bool:
    """Whether some disk is so much slower than all others that each of its jobs may take seconds: an operation in three
    phases has several, one after the other."""
    return faults.slowest_disk > 1.0


def pressed(settings: Settings) -> Settings:
    """Much work, messages that come late and twice, and ambushes above all: for what only takeovers can show. Nobody
    has work for a worker."""
    weights = (("ambush", 20), ("isolate", 2), ("kill_working", 1), ("pause", 1))
    faults = replace(settings.faults, every_s=4.0, lasts_s=4.0, weights=weights)
    flaws = Flaws(loss=0.02, duplicate=0.1, late=0.1, late_mean_s=2.0)
    return replace(settings, clients=3, tellers=4, think_s=1.0, flaws=flaws, faults=faults, workers=0)


def stepwise(settings: Settings) -> Settings:
    """As `pressed`, with transactions of steps only, of which some are workflows."""
    return replace(pressed(settings), workers=settings.workers, only=Only.STEPS)


def declared(settings: Settings) -> Settings:
    """As `stepwise`, without workflows and workers."""
    return stepwise(workless(settings))


def coded(settings: Settings) -> Settings:
    """As `pressed`, with workflows only."""
    return replace(pressed(settings), workers=settings.workers, only=Only.WORKFLOWS)


def workless(settings: Settings) -> Settings:
    """As it is, without workers: for what has nothing to do with workflows."""
    return replace(settings, workers=0)


def three_phased(settings: Settings) -> Settings:
    """Transactions in three phases only, and coordinators that are gone for longer than the banks wait. Nobody has
    work for a worker."""
    weights = (("ambush", 20), ("isolate", 4), ("split", 4), ("kill_all", 2), ("kill_working", 2), ("pause", 2))
    faults = replace(settings.faults, every_s=6.0, lasts_s=8.0, slowest_disk=1.0, weights=weights)
    flaws = Flaws(loss=0.02, duplicate=0.1, late=0.1, late_mean_s=2.0)
    return replace(
        settings, clients=3, tellers=2, think_s=1.0, flaws=flaws, faults=faults, three_percent=100, workers=0
    )
