"""Every cell of the table, played from its seeds: in this process, or in several."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from functools import partial
from multiprocessing import get_context

from coordinator.failures.measures import Cell, cell_of
from coordinator.failures.protocols import PROTOCOLS, Protocol
from coordinator.failures.scenarios import SCENARIOS, Scenario
from coordinator.failures.scene import Scene

__all__ = ["Place", "all_cells", "cell", "places"]

Place = tuple[str, str]
"""Of a cell: the keys of its protocol and its scenario."""

_PROTOCOLS = {protocol.key: protocol for protocol in PROTOCOLS}
_SCENARIOS = {scenario.key: scenario for scenario in SCENARIOS}


def places(protocols: Sequence[str], scenarios: Sequence[str]) -> list[Place]:
    """Every protocol in every scenario, in the order of the tables; of an empty list, all. Raises KeyError."""
    for key in protocols:
        _PROTOCOLS[key]
    for key in scenarios:
        _SCENARIOS[key]
    return [
        (protocol, scenario)
        for scenario in _SCENARIOS
        if scenario in scenarios or not scenarios
        for protocol in _PROTOCOLS
        if protocol in protocols or not protocols
    ]


def cell(place: Place, seeds: int) -> Cell:
    """Play the seeds 0, 1, … of one cell. The same seed always gives the same run."""
    protocol, scenario = _PROTOCOLS[place[0]], _SCENARIOS[place[1]]
    scenes = (_scene(protocol, scenario, seed) for seed in range(seeds))
    return cell_of(protocol.key, scenario.key, [scene.run() for scene in scenes])


def _scene(protocol: Protocol, scenario: Scenario, seed: int) -> Scene:
    scene = Scene(protocol, scenario.key, seed, refuses=scenario.refuses)
    scenario.plan(scene)
    return scene


def all_cells(wanted: Sequence[Place], seeds: int, processes: int) -> Generator[Cell]:
    """The cells in their order, as they are done. Processes that play end with the iterator."""
    play = partial(cell, seeds=seeds)
    if processes == 1:
        yield from map(play, wanted)
        return
    with get_context("spawn").Pool(processes, _heed_the_parent_only) as pool:
        yield from pool.imap(play, wanted)


def _heed_the_parent_only() -> None:
    """Ctrl-C reaches every process of a terminal; the parent ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
