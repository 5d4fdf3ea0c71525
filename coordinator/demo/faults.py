"""Which faults strike, and when: drawn from a seed before the work begins. Pure; chance is an argument.

The transfers are cut into as many stretches as there are faults, and one fault strikes in each. The clients do not go
beyond a stretch before its fault is healed, so that every fault strikes while they work, on a fast machine too,
and a majority of coordinators is alive again before the next one dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

__all__ = ["LEADER_KILLS", "Fault", "FaultKind", "schedule"]

LEADER_KILLS = 3
DOWN_S = (0.3, 1.0)  # how long a killed process stays away, before it is started again
HESITATION_S = (0.0, 0.05)  # between the transfer that is waited for and the blow: any moment of a commit


class FaultKind(StrEnum):
    """What is done to a process."""

    KILL_LEADER = "kill-leader"  # kill -9 of the leading coordinator
    KILL_BANK = "kill-bank"  # kill -9 of a participant
    KILL_DATABASE = "kill-database"  # kill -9 of a participant's database server, of all its processes
    PAUSE_LEADER = "pause-leader"  # SIGSTOP of the leading coordinator, SIGCONT after another one leads


@dataclass(frozen=True, slots=True)
class Fault:
    """It strikes `bank` for KILL_BANK, its server for KILL_DATABASE, else the leader of `shard`, `hesitation_s` after
    `after` transfers are answered; clients may begin the first `until` transfers before it is healed. What is killed is
    started again after `down_s`.
    """

    kind: FaultKind
    bank: str | None
    after: int
    until: int
    hesitation_s: float
    down_s: float
    shard: int = 0


def schedule(
    transfers: int, banks: Sequence[str], chance: Random, shards: int = 1, servers: Sequence[str] = ()
) -> tuple[Fault, ...]:
    """The leader of some shard killed three times and paused once, each bank killed once, and so the database server of
    each bank in `servers`: when and in which order by chance.
    """
    blows: list[tuple[FaultKind, str | None]] = [
        *((FaultKind.KILL_LEADER, None) for _ in range(LEADER_KILLS)),
        (FaultKind.PAUSE_LEADER, None),
        *((FaultKind.KILL_BANK, bank) for bank in banks),
        *((FaultKind.KILL_DATABASE, bank) for bank in servers),
    ]
    chance.shuffle(blows)
    faults = []
    for position, (kind, bank) in enumerate(blows):
        begin, end = position * transfers // len(blows), (position + 1) * transfers // len(blows)
        after = chance.randint(begin, (begin + end) // 2)
        hesitation_s, down_s = chance.uniform(*HESITATION_S), chance.uniform(*DOWN_S)
        faults.append(Fault(kind, bank, after, end, hesitation_s, down_s, chance.randrange(shards)))
    return tuple(faults)
