"""What theory says of a protocol in a scenario, and what we promise: one table, with the source of each claim.

A cell is *as claimed* if every claim that speaks of it holds. A failure that a textbook foretells is a claim, too: it
must appear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coordinator.failures.measures import Cell
from coordinator.failures.protocols import PROTOCOLS
from coordinator.failures.scenarios import OUTAGE_S, SCENARIOS

__all__ = ["CLAIMS", "Claim", "as_claimed", "broken_claims", "claims_about", "is_by_chance"]

HELD_MAX_MS = 5_000.0
"""Until another leads and has told everybody: a lease, and some elections."""

PULLED_MAX_MS = 15_000.0
"""Until a participant that nobody tells has asked: its grace, a question that is lost, and one that is answered."""

TERMINATED_MAX_MS = 22_000.0
"""Until participants that hear nothing have asked the coordinators in vain, and then each other: their grace (5 s), the
first round (1 s), three questions that are lost (3 s each), and the pauses between them."""

ANSWERED_MAX_MS = 10_000.0
"""Until a client knows: two attempts at replicas that do not answer, and one more."""

UNDISTURBED_MAX_MS = 1_000.0
"""Of a transaction that nothing delays."""

_OUTAGE_MS = OUTAGE_S * 1_000


@dataclass(frozen=True, slots=True)
class Claim:
    """`says` what, of which protocols in which scenarios, `source` who says so. `holds` is whether a cell shows it."""

    says: str
    protocols: frozenset[str]
    scenarios: frozenset[str]
    source: str
    holds: Callable[[Cell], bool]

    def speaks_of(self, cell: Cell) -> bool:
        return cell.protocol in self.protocols and cell.scenario in self.scenarios


_ALL = frozenset(protocol.key for protocol in PROTOCOLS)
_STEPWISE = frozenset(protocol.key for protocol in PROTOCOLS if protocol.is_stepwise)
_REPLICATED = frozenset(protocol.key for protocol in PROTOCOLS if protocol.replicas > 1)
_ALONE = _ALL - _REPLICATED
_TWO_PHASE = frozenset(protocol.key for protocol in PROTOCOLS if protocol.phases == 2) - _STEPWISE
_THREE_PHASE = _ALL - _TWO_PHASE - _STEPWISE
_TEXTBOOK = frozenset(("3pc-textbook-alone",))
_QUORUM = _THREE_PHASE - _TEXTBOOK
_OF_THREE = frozenset(protocol.key for protocol in PROTOCOLS if len(protocol.moves) > 2)
_WAITING = _ALL - _STEPWISE - _TEXTBOOK

_EVERYWHERE = frozenset(scenario.key for scenario in SCENARIOS)
_BEFORE_TOLD = frozenset(("dies-voted", "dies-voting", "dies-precommitted", "dies-decided", "refused"))
_IN_DOUBT = _BEFORE_TOLD | {"some-hear", "all-who-know-die"}
_SPEECHLESS = _BEFORE_TOLD | {"dies-before"}
_ONLY_CRASHES = _SPEECHLESS | {"nothing", "dies-telling", "dies-after", "all-who-know-die", "lost-answer", "clocks"}
_AT_ANY_MOMENT = frozenset(("split", "split-one-way", "pause"))
_MAJORITY_LIVES = _EVERYWHERE - {"power-cut"}
_REACHABLE = _MAJORITY_LIVES - {"some-hear", "cut-off"}

_PROMISE = "[our promise](README.md#what-is-promised)"

_OF_ATOMICITY = 3  # the first claims

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "all or nothing, once, and as the client was told",
        _ALL - _TEXTBOOK,
        _EVERYWHERE,
        "Gray, *Notes on Data Base Operating Systems*, 1978, section 5.8.3; for steps, Garcia-Molina & Salem, *Sagas*, "
        "SIGMOD 1987; " + _PROMISE,
        lambda cell: cell.atomic,
    ),
    Claim(
        "the same, as long as the network is whole",
        _TEXTBOOK,
        _ONLY_CRASHES,
        "Skeen, *Nonblocking Commit Protocols*, SIGMOD 1981",
        lambda cell: cell.atomic,
    ),
    Claim(
        "who takes silence for an end breaks it: one commits, the other aborts",
        _TEXTBOOK,
        frozenset(("some-hear", "cut-off")),
        "Skeen, *A Quorum-Based Commit Protocol*, 1982; Bernstein, Hadzilacos & Goodman 1987, section 7.5",
        lambda cell: cell.broken == cell.runs and cell.half_done_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        "what one participant refuses is committed by none",
        _ALL,
        frozenset(("refused",)),
        "Gray 1978, section 5.8.3",
        lambda cell: cell.committed == 0,
    ),
    Claim(
        "participants in doubt hold their rows until the coordinator is back",
        _ALONE & _TWO_PHASE,
        _IN_DOUBT,
        "Skeen 1981; Bernstein, Hadzilacos & Goodman, *Concurrency Control and "
        "Recovery in Database Systems*, 1987, section 7.4",
        lambda cell: cell.locks_held_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        f"participants end it by themselves within {TERMINATED_MAX_MS / 1_000:g} s, before the coordinator is back",
        _ALONE & _THREE_PHASE,
        _BEFORE_TOLD,
        "Skeen 1981; by a majority: Skeen 1982; Keidar & Dolev, *Increasing the Resilience of Distributed and "
        "Replicated Database Systems*, JCSS 57(3), 1998",
        lambda cell: cell.locks_held_ms.max <= TERMINATED_MAX_MS,
    ),
    Claim(
        f"those that are left end it by themselves within {TERMINATED_MAX_MS / 1_000:g} s, though the only one that "
        "heard is gone with the coordinator",
        _TEXTBOOK | _OF_THREE,
        frozenset(("all-who-know-die",)),
        "Skeen 1981; by a majority: Keidar & Dolev 1998: one that can talk goes on, whatever failed before",
        lambda cell: cell.locks_held_ms.max <= TERMINATED_MAX_MS,
    ),
    Claim(
        "of two, a majority is both: the one that is left holds its rows until another is back",
        (_QUORUM & _ALONE) - _OF_THREE,
        frozenset(("all-who-know-die",)),
        "Skeen 1982: without a quorum, whoever is in doubt waits",
        lambda cell: cell.locks_held_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        f"participants end it by themselves within {TERMINATED_MAX_MS / 1_000:g} s, if all can talk but to the "
        "coordinator",
        _QUORUM & _ALONE,
        frozenset(("some-hear",)),
        "Skeen 1982; Keidar & Dolev 1998",
        lambda cell: cell.locks_held_ms.max <= TERMINATED_MAX_MS,
    ),
    Claim(
        "the client knows nothing until the coordinator is back",
        _ALONE,
        _SPEECHLESS,
        "the same: the coordinator is a single point of failure",
        lambda cell: cell.unknown_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        f"rows are free again within {HELD_MAX_MS / 1_000:g} s, long before the coordinator is back",
        _REPLICATED - _STEPWISE,
        _REACHABLE - _AT_ANY_MOMENT,
        "Gray & Lamport, *Consensus on Transaction Commit*, 2006: with a majority of the coordinators, nobody is "
        "blocked; " + _PROMISE,
        lambda cell: cell.locks_held_ms.max <= HELD_MAX_MS,
    ),
    Claim(
        "both participants show the decision only when the coordinator reaches both",
        _STEPWISE | (_ALONE & _TWO_PHASE),
        frozenset(("some-hear", "cut-off")),
        "the third problem of the textbooks; of steps, the price of giving up isolation: Garcia-Molina & Salem 1987",
        lambda cell: cell.half_done_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        "a participant in doubt that reaches nobody holds its rows until it does",
        _WAITING,
        frozenset(("cut-off",)),
        "Skeen & Stonebraker, *A Formal Model of Crash Recovery in a Distributed System*, IEEE TSE 9(3), 1983: no "
        "protocol goes on in every part of a divided network",
        lambda cell: cell.locks_held_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        f"the client knows, and all but the one that is cut off are free, within {HELD_MAX_MS / 1_000:g} s",
        _TWO_PHASE | _OF_THREE,
        frozenset(("cut-off",)),
        "Gray 1978, section 5.8.3: what is decided waits for nobody; before it is, by a majority: Skeen 1982",
        lambda cell: max(cell.unknown_ms.max, cell.others_held_ms.max) <= HELD_MAX_MS,
    ),
    Claim(
        "of two, nobody goes on without the one that is cut off: the other holds its rows as long",
        _QUORUM - _OF_THREE,
        frozenset(("cut-off",)),
        "Skeen 1982: without a quorum, whoever is in doubt waits",
        lambda cell: cell.others_held_ms.p50 >= _OUTAGE_MS,
    ),
    Claim(
        f"a participant that nobody can tell asks another replica, and is done within {PULLED_MAX_MS / 1_000:g} s",
        _REPLICATED & _TWO_PHASE,
        frozenset(("some-hear",)),
        "Mohan, Lindsay & Obermarck, *Transaction Management in the R\\* Distributed Database Management System*, "
        "1986, section 3; " + _PROMISE,
        lambda cell: max(cell.locks_held_ms.max, cell.half_done_ms.max) <= PULLED_MAX_MS,
    ),
    Claim(
        "a replica that says *deciding* keeps waiting those that it cannot tell: rows are held until it can",
        _QUORUM & _REPLICATED,
        frozenset(("some-hear",)),
        "[decision 0026](../adr/0026-three-phases-are-one-register.md)",
        lambda cell: cell.locks_held_ms.p50 >= _OUTAGE_MS and cell.locks_held_ms.max <= _OUTAGE_MS + HELD_MAX_MS,
    ),
    Claim(
        f"rows are free within {PULLED_MAX_MS / 1_000:g} s: of what nobody has recorded, when a participant asks",
        _REPLICATED - _STEPWISE,
        _AT_ANY_MOMENT,
        _PROMISE,
        lambda cell: cell.locks_held_ms.max <= PULLED_MAX_MS,
    ),
    Claim(
        f"the client knows within {ANSWERED_MAX_MS / 1_000:g} s",
        _REPLICATED & _TWO_PHASE,
        _MAJORITY_LIVES,
        _PROMISE,
        lambda cell: cell.unknown_ms.max <= ANSWERED_MAX_MS,
    ),
    Claim(
        f"the client knows within {ANSWERED_MAX_MS / 1_000:g} s, if every participant can be reached",
        _REPLICATED - _TWO_PHASE,
        _REACHABLE - {"all-who-know-die"},
        _PROMISE,
        lambda cell: cell.unknown_ms.max <= ANSWERED_MAX_MS,
    ),
    Claim(
        "no row is held for anybody else, whatever happens",
        _STEPWISE,
        _EVERYWHERE,
        "Garcia-Molina & Salem 1987; Helland, *Life beyond Distributed Transactions*, CIDR 2007",
        lambda cell: cell.locks_held_ms.max == 0,
    ),
    Claim(
        "no change of the leader aborts what is recorded",
        _REPLICATED,
        _EVERYWHERE,
        _PROMISE,
        lambda cell: cell.dropped == 0,
    ),
    Claim(
        "an answer that is lost is given again",
        _ALL,
        frozenset(("lost-answer",)),
        _PROMISE,
        lambda cell: cell.committed == cell.runs,
    ),
    Claim(
        "no wall clock takes part in a decision",
        _ALL,
        frozenset(("nothing", "clocks")),
        "[decision 0002](../adr/0002-deadlines-are-durations.md)",
        lambda cell: (
            cell.committed == cell.runs and max(cell.locks_held_ms.max, cell.unknown_ms.max) <= UNDISTURBED_MAX_MS
        ),
    ),
)


def claims_about(cell: Cell) -> Iterable[Claim]:
    """Those that speak of this cell."""
    return (claim for claim in CLAIMS if claim.speaks_of(cell))


def broken_claims(cell: Cell) -> list[Claim]:
    """Those that the cell shows to be wrong."""
    return [claim for claim in claims_about(cell) if not claim.holds(cell)]


def is_by_chance(cell: Cell) -> bool:
    """Whether nobody claims that it is atomic, nor that it is not."""
    return not any(claim.speaks_of(cell) for claim in CLAIMS[:_OF_ATOMICITY])


def as_claimed(cell: Cell) -> bool:
    """Whether all of them hold."""
    return not broken_claims(cell)
