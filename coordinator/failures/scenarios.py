"""The scenarios of the table: what breaks, when, and for how long. The next one is one more row.

`problem` is which of the four that textbooks list of two-phase commit: (1) it blocks, (2) the coordinator is a single
point of failure, (3) the decision reaches only some, (4) nobody is left who knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.failures.moments import Moment
from coordinator.failures.participants import GIVER, TAKER
from coordinator.failures.scene import CLIENT, Scene

__all__ = ["OUTAGE_S", "PAUSE_S", "SCENARIOS", "Scenario"]

OUTAGE_S = 30.0
"""How long what broke stays broken."""

PAUSE_S = 40.0
"""Longer than every time limit: lease, call, deadline, and how long a client's call tries."""

ANSWERS_LOST_S = 5.0
CLOCK_JUMP_MAX_MS = 1_800_000  # within every retention
WITHIN_S = 0.001  # a crash comes up to so long after its moment; a message takes about as long
ANY_MOMENT_WITHIN_S = 0.005

Plan: TypeAlias = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. `problem`: which of the four, or 0. `refuses`: the taker does not want to."""

    key: str
    title: str
    plan: Plan
    problem: int = 0
    refuses: bool = False


def _leader_dies(moment: Moment, within_s: float = WITHIN_S) -> Plan:
    def strike(scene: Scene) -> None:
        scene.leader.kill()
        scene.repair_in(OUTAGE_S)

    return lambda scene: scene.when(moment, strike, within_s=within_s)


def _at_any_moment(strike: Plan) -> Plan:
    def plan(scene: Scene) -> None:
        moment = scene.rng.choice([moment for moment in Moment if moment is not Moment.LAST_TOLD])
        scene.when(moment, strike, within_s=ANY_MOMENT_WITHIN_S)

    return plan


def _nothing_breaks(scene: Scene) -> None:
    scene.when(Moment.ASKED, lambda scene: scene.repair_in(0.0))


def _cut_off_the_takers(scene: Scene) -> None:
    scene.links.partition([scene.leader.name], scene.takers)


def _only_some_hear(scene: Scene) -> None:
    def strike(scene: Scene) -> None:
        _cut_off_the_takers(scene)
        scene.repair_in(OUTAGE_S)

    scene.when(scene.protocol.halfway, strike)


def _cut_off(scene: Scene) -> None:
    def strike(scene: Scene) -> None:
        taker = scene.machines[TAKER]
        scene.links.partition([TAKER], scene.others(taker))
        scene.repair_in(OUTAGE_S)

    scene.when(scene.protocol.halfway, strike)


def _all_who_know_die(scene: Scene) -> None:
    """The coordinator, and the giver as soon as it has done its part; nothing of it had reached a taker."""

    def strike(scene: Scene) -> None:
        leader, giver = scene.leader, scene.machines[GIVER]
        leader.kill()
        giver.kill()
        scene.links.mend_all()
        scene.repair_in(OUTAGE_S)

    decides_first = scene.protocol.heard is Moment.FIRST_TOLD
    scene.when(Moment.DECIDED if decides_first else scene.protocol.halfway, _cut_off_the_takers)
    scene.when(scene.protocol.heard, strike)


def _split(scene: Scene) -> None:
    leader = scene.leader
    scene.links.partition([leader.name], scene.others(leader))
    scene.repair_in(OUTAGE_S)


def _split_one_way(scene: Scene) -> None:
    leader, is_mute = scene.leader, scene.rng.random() < 0.5
    for other in scene.others(leader):
        scene.links.cut(*((leader.name, other) if is_mute else (other, leader.name)))
    scene.repair_in(OUTAGE_S)


def _pause(scene: Scene) -> None:
    scene.leader.pause()
    scene.repair_in(PAUSE_S, whatever_happens=True)


def _power_cut(scene: Scene) -> None:
    for name, machine in scene.machines.items():
        if name != CLIENT:
            machine.cut_power()
    scene.repair_in(OUTAGE_S)


def _answers_are_lost(scene: Scene) -> None:
    def strike(scene: Scene) -> None:
        for name in scene.replicas:
            scene.links.cut(name, CLIENT)
        scene.repair_in(ANSWERS_LOST_S)

    scene.when(Moment.ASKED, strike)


def _clocks_jump(scene: Scene) -> None:
    for name in scene.machines:
        scene.ahead_ms[name] += scene.rng.randint(-CLOCK_JUMP_MAX_MS, CLOCK_JUMP_MAX_MS)
    scene.repair_in(0.0)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("nothing", "nothing breaks", _nothing_breaks),
    Scenario("dies-voted", "the coordinator dies when all have voted", _leader_dies(Moment.LAST_VOTE, 0.0), 1),
    Scenario("dies-before", "the coordinator dies before it asks anybody", _leader_dies(Moment.ASKED), 2),
    Scenario("dies-voting", "the coordinator dies while votes are given", _leader_dies(Moment.FIRST_VOTE), 2),
    Scenario("dies-precommitted", "the coordinator dies between the phases", _leader_dies(Moment.PRECOMMITTED, 0.0), 2),
    Scenario("dies-decided", "the coordinator dies when it has decided", _leader_dies(Moment.DECIDED, 0.0), 2),
    Scenario("dies-telling", "the coordinator dies while it tells", _leader_dies(Moment.FIRST_TOLD), 2),
    Scenario("dies-after", "the coordinator dies when all are told", _leader_dies(Moment.LAST_TOLD), 2),
    Scenario("some-hear", "what is decided reaches only one participant", _only_some_hear, 3),
    Scenario("cut-off", "a participant that has not heard is cut off from everybody", _cut_off, 3),
    Scenario("all-who-know-die", "the coordinator and the only one that heard die", _all_who_know_die, 4),
    Scenario("refused", "one refuses, and the coordinator dies", _leader_dies(Moment.DECIDED, 0.0), refuses=True),
    Scenario("split", "the coordinator is cut off", _at_any_moment(_split)),
    Scenario("split-one-way", "the coordinator only hears, or is only heard", _at_any_moment(_split_one_way)),
    Scenario("pause", "the coordinator stands still", _at_any_moment(_pause)),
    Scenario("power-cut", "everything loses power", _at_any_moment(_power_cut)),
    Scenario("lost-answer", "the client hears no answer", _answers_are_lost),
    Scenario("clocks", "all clocks jump", _at_any_moment(_clocks_jump)),
)
