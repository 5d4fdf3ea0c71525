"""How participants end a transaction in three phases among themselves, when no coordinator speaks. Pure.

A participant that has voted yes waits for the decision. If nobody can say it, a *majority of the participants* may
make it: Skeen, "A Quorum-Based Commit Protocol", Berkeley Workshop, 1982. Each of them keeps a *register*: which way it
leans (*prepared*, *precommitted*, *pre-aborted*), in which ballot it came to lean so, and the highest ballot in which
it has promised to take part. That a termination can be begun anew by another one, and ends whenever a majority can
talk, is Keidar & Dolev, "Increasing the Resilience of Distributed and Replicated Database Systems" (E3PC), JCSS 57(3),
1998, whose "last elected" and "last attempt" are `promised` and `accepted` here. Seen from farther away, the registers
are the acceptors of one instance of Paxos (Lamport, "The Part-Time Parliament", 1998), and the coordinators' log is the
proposer of its lowest ballot.

1. *Canvass*: take a ballot higher than any that was heard of, and ask everybody to promise it. A promise names how its
   giver leans. A branch that has not voted is prevented from voting yes, and so the transaction is aborted.
2. With the promises of a majority, propose: the way that the one leans which came to lean so in the highest ballot; if
   none leans, abort.
3. Ask everybody to lean that way in this ballot. Who has promised a higher one refuses.
4. What a majority leans to in the same ballot is the decision.

Two ends cannot differ, because:

- Only the coordinators propose to commit what nobody leans to, in `COORDINATORS`, the ballot below all others, and only
  once their log says *precommitting*: then every vote is a yes, and the log does not abort by itself any more.
- Any two majorities share a participant. So whoever proposes after a decision finds somebody who leans that way, in a
  ballot at least as high as the decision's; and all who lean in such a ballot lean that way.

`tests/exhaustive/test_three_phase.py` searches small worlds completely for two ends that differ.

The *textbook's* rule needs no majority: who hears nothing commits if it has precommitted, and aborts if not (Bernstein,
Hadzilacos & Goodman, "Concurrency Control and Recovery in Database Systems", 1987, section 7.5, where it is for a
network that never parts). Where a network can part, or a participant can pause, it ends in both ways at once:
`Policy.UNSAFE_COMMIT_ON_SILENCE`.

A ballot is numbered by who takes it: its number, then the place of the participant in the list of peers (from 1), so
that no two participants take the same one. Who takes one promises it to itself first, and leans itself first to what it
proposes, both durably; and nobody leans two ways in one ballot. So a participant may go on with its ballot, also after
a restart, or in two processes at once: it proposes one thing in it. It takes a higher one when it has heard of a higher
one. If it took a higher one each time, peers that are slower than its patience would never be in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

__all__ = [
    "BALLOT_JUMP_MAX",
    "BALLOT_NUMBER_MAX",
    "COORDINATORS",
    "DEFERENCE_DOUBLINGS_MAX",
    "RULES",
    "Ask",
    "Ballot",
    "Ending",
    "Heard",
    "Leaning",
    "Peer",
    "Policy",
    "Register",
    "Rule",
    "Silence",
    "after_canvass",
    "after_leaning",
    "draw",
    "majority",
    "moved",
    "next_ballot",
    "on_silence",
]

DEFERENCE_DOUBLINGS_MAX = 4
BALLOT_NUMBER_MAX = 1_000_000_000  # terminations of one transaction; one a second would take thirty years
BALLOT_JUMP_MAX = 1_000  # above the one that is promised; who takes a ballot takes the next one that it knows of


class Ending(StrEnum):
    """How a transaction ends."""

    COMMIT = "commit"
    ABORT = "abort"


class Policy(StrEnum):
    """What participants do that hear nothing. The same for all of a transaction."""

    QUORUM = "quorum"
    UNSAFE_COMMIT_ON_SILENCE = "unsafe-commit-on-silence"


class Leaning(StrEnum):
    """Which way a participant leans that has voted yes."""

    PREPARED = "prepared"
    PRECOMMITTED = "precommitted"
    PREABORTED = "pre-aborted"

    @property
    def ending(self) -> Ending:
        """What it leads to. Nobody leans to a commit that has only voted."""
        return Ending.COMMIT if self is Leaning.PRECOMMITTED else Ending.ABORT


class Ask(StrEnum):
    """What a register is asked, in a ballot."""

    CANVASS = "canvass"
    PRECOMMIT = "precommit"
    PREABORT = "preabort"


class Ballot(NamedTuple):
    """Compared by number, then place."""

    number: int
    place: int


COORDINATORS = Ballot(0, 0)


class Peer(NamedTuple):
    """One participant of the transaction, and where the others find it."""

    branch: str
    participant: str
    url: str


class Register(NamedTuple):
    """What one participant keeps, durably. `accepted`: the ballot in which it came to lean; None: it only voted."""

    leaning: Leaning = Leaning.PREPARED
    promised: Ballot = COORDINATORS
    accepted: Ballot | None = None


Heard: TypeAlias = Register | Ending
"""What a participant has said of itself: its register, or that it knows the end."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: a register that leans so, asked this in a ballot that is not below the promised one, leans so then."""

    leaning: Leaning
    ask: Ask
    becomes: Leaning


RULES: tuple[Rule, ...] = (
    *(Rule(leaning, Ask.CANVASS, leaning) for leaning in Leaning),
    *(Rule(leaning, Ask.PRECOMMIT, Leaning.PRECOMMITTED) for leaning in Leaning),
    *(Rule(leaning, Ask.PREABORT, Leaning.PREABORTED) for leaning in Leaning),
)
_BECOMES = {(rule.leaning, rule.ask): rule.becomes for rule in RULES}


def moved(register: Register, ask: Ask, ballot: Ballot) -> Register | None:
    """The register afterwards; None: it has promised not to. The one way in which a register changes."""
    leaning = _BECOMES[register.leaning, ask]
    if ballot < register.promised or (ballot == COORDINATORS and ask is not Ask.PRECOMMIT):
        return None
    if ballot == register.accepted and leaning is not register.leaning:
        return None
    accepted = register.accepted if ask is Ask.CANVASS else ballot
    return Register(leaning, ballot, accepted)


def draw() -> str:
    """The rules as a Mermaid state diagram and as a Markdown table, with the ends that follow."""
    arrows = [
        f"    {rule.leaning} --> {rule.becomes}: {rule.ask}" for rule in RULES if rule.leaning is not rule.becomes
    ]
    arrows = ["    [*] --> prepared: a yes", *arrows]
    arrows += [f"    {leaning} --> [*]: a majority in the same ballot" for leaning in Leaning if leaning != "prepared"]
    arrows = [arrow.replace("pre-aborted", "preaborted") for arrow in arrows]  # Mermaid takes no hyphen in a name
    rows = [f"| {rule.leaning} | {rule.ask} | {rule.becomes} |" for rule in RULES]
    header = ("| leans | is asked | leans then |", "|---|---|---|")
    return "\n".join(("```mermaid", "stateDiagram-v2", *arrows, "```", "", *header, *rows, ""))


def majority(count: int) -> int:
    """How many of `count` participants no other so many can avoid."""
    return count // 2 + 1


def next_ballot(register: Register, place: int) -> Ballot:
    """What the participant at this `place` takes: its own one again, unless it has promised somebody else's."""
    if register.promised.place == place:
        return register.promised
    return Ballot(register.promised.number + 1, place)


def after_canvass(ballot: Ballot, count: int, heard: Iterable[Heard]) -> Ending | Leaning | None:
    """What follows from what the `count` participants said, each once: the end, if one knows it; else what to propose;
    None if too few have promised."""
    promises: list[Register] = []
    for said in heard:
        if isinstance(said, Ending):
            return said
        if said.promised == ballot:
            promises.append(said)
    if len(promises) < majority(count):
        return None
    latest = max(promises, key=lambda register: register.accepted or Ballot(-1, 0))
    return Leaning.PREABORTED if latest.accepted is None else latest.leaning


def after_leaning(ballot: Ballot, leaning: Leaning, count: int, heard: Iterable[Heard]) -> Ending | None:
    """The end, if one knows it or a majority leans that way in this ballot; None if it is not known."""
    agreed = 0
    for said in heard:
        if isinstance(said, Ending):
            return said
        agreed += said.accepted == ballot and said.leaning is leaning
    return leaning.ending if agreed >= majority(count) else None


class Silence(StrEnum):
    """What a prepared participant does that does not hear how its transaction ended."""

    WAIT = "wait"
    TERMINATE = "terminate"
    COMMIT = "commit"
    ABORT = "abort"


_UNSAFE: Mapping[Leaning, Silence] = {
    Leaning.PREPARED: Silence.ABORT,
    Leaning.PRECOMMITTED: Silence.COMMIT,
    Leaning.PREABORTED: Silence.ABORT,
}


def on_silence(
    policy: Policy,
    register: Register,
    place: int,
    *,
    is_deciding: bool,
    silent_s: float,
    promised_s: float,
    patience_s: float,
) -> Silence:
    """What the participant at this `place` does. `is_deciding`: a replica has answered, that nothing is decided.
    `silent_s`: for how long none has answered; `promised_s`: for how long the register has promised what it does.

    A termination that has begun is brought to its end, whatever the coordinators say: who has promised a ballot refuses
    theirs. But whose ballot it is gets time for it, the more the higher it is: otherwise two that are slower than their
    patience would outbid each other for ever.
    """
    promised = register.promised
    if policy is Policy.QUORUM and promised != COORDINATORS:
        deference_s = patience_s * (1 << min(promised.number - 1, DEFERENCE_DOUBLINGS_MAX))
        is_free = promised.place == place or promised_s >= deference_s
        return Silence.TERMINATE if is_free else Silence.WAIT
    if is_deciding or silent_s < patience_s:
        return Silence.WAIT
    return Silence.TERMINATE if policy is Policy.QUORUM else _UNSAFE[register.leaning]
