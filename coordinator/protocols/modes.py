"""What a branch is asked before the decision and behind it, for each mode: every protocol of steps is a row here. Pure.

What runs, runs as a commit in one phase: its answer is durable, a repeat gives it again with its result, and a run that
has not come yet can be *prevented*. So nothing has to be known of a step that its participant could not be asked, and
the anomalies of compensation (the undo that overtakes its action, the action that comes after it, everything twice) are
those of `participant.branch`, with the same cure.

| mode | before the decision | if it is to commit | if it is to abort |
|---|---|---|---|
| two-phase | prepare | commit | abort |
| tcc | run | confirm | undo, if it has run |
| saga | run | | undo, if it has run |
| pivot | run, as the last one | | |
| source | find out, once its time has come | | |
| forward | | run | |

A *source* is run by the service that sends a message, in its own process and whenever it likes: its row at the
participant is the record of that commit. To find out is to prevent: it has committed, or never will. So the sender may
die between its commit and the word that it has committed, and nobody waits for it.

- *Saga*: Garcia-Molina & Salem, "Sagas", SIGMOD 1987; compensatable, pivot and retriable steps: Mehrotra, Rastogi,
  Silberschatz & Korth, "A Transaction Model for Multidatabase Systems", ICDCS 1992.
- *TCC* (try, confirm, cancel): Pardon & Pautasso, "Atomic Distributed Transactions: a RESTful Design", WWW 2014
  companion; Helland, "Life beyond Distributed Transactions", CIDR 2007, section 4 (tentative operations).

What a participant refuses may be begun anew. Each *attempt* is a branch of its own at the participant, because a branch
that has refused once does so for ever; `attempt_name` says how it is called there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from coordinator.ledger.records import BranchRecord, Decision, Mode, StepRecord

__all__ = [
    "DECIDING",
    "MODES",
    "NAME_CHARS_MAX",
    "SEPARATOR",
    "Does",
    "Rules",
    "attempt_name",
    "draw",
    "is_behind",
    "name_of",
    "rules_of",
    "step_of",
]

SEPARATOR = ":"  # between a branch and what of it is called; no name of a branch has it
NAME_CHARS_MAX = 40  # of a branch, so that every attempt of it has a name


class Does(StrEnum):
    """What a branch is asked to do."""

    PREPARE = "prepare"
    COMMIT = "commit"
    ABORT = "abort"
    RUN = "run"  # its action
    CONFIRM = "confirm"
    UNDO = "undo"
    FIND = "find out"  # whether its action has run by itself; if it has not, it never will


@dataclass(frozen=True, slots=True)
class Rules:
    """One row. None: nothing is asked then."""

    before: Does | None
    on_commit: Does | None
    on_abort: Does | None

    @property
    def asked(self) -> tuple[Does, ...]:
        """All that is asked, in this order."""
        return tuple(does for does in (self.before, self.on_commit, self.on_abort) if does is not None)


MODES: Mapping[Mode, Rules] = MappingProxyType(
    {
        Mode.TWO_PHASE: Rules(Does.PREPARE, Does.COMMIT, Does.ABORT),
        Mode.TCC: Rules(Does.RUN, Does.CONFIRM, Does.UNDO),
        Mode.SAGA: Rules(Does.RUN, None, Does.UNDO),
        Mode.PIVOT: Rules(Does.RUN, None, None),
        Mode.SOURCE: Rules(Does.FIND, None, None),
        Mode.FORWARD: Rules(None, Does.RUN, None),
    }
)

DECIDING = frozenset((Mode.PIVOT, Mode.SOURCE))  # one of these at most; what it has done cannot be undone


def draw() -> str:
    """The table as Markdown, and each of its rows as a Mermaid state diagram."""
    header = ("| mode | before the decision | if it is to commit | if it is to abort |", "|---|---|---|---|")
    rows = (
        f"| {mode} | {' | '.join(does or '' for does in (rules.before, rules.on_commit, rules.on_abort))} |"
        for mode, rules in MODES.items()
    )
    pictures = (line for mode, rules in MODES.items() for line in _picture(mode, rules))
    return "\n".join((*header, *rows, "", "```mermaid", "stateDiagram-v2", *pictures, "```", ""))


def _picture(mode: Mode, rules: Rules) -> Iterator[str]:
    """One branch of this mode. What it is asked is a state; an arrow without a word is its answer."""
    names = {does: f"{mode.name.lower()}_{does.name.lower()}" for does in rules.asked}
    yield f'    state "{mode}" as {mode.name.lower()} {{'
    yield from (f'        state "{does}" as {name}' for does, name in names.items())
    if rules.before is not None:
        yield f"        [*] --> {names[rules.before]}"
    undecided = "[*]" if rules.before is None else names[rules.before]
    for decision, does in ((Decision.COMMIT, rules.on_commit), (Decision.ABORT, rules.on_abort)):
        if does is not None:
            yield f"        {undecided} --> {names[does]}: {decision}"
            yield f"        {names[does]} --> [*]"
        elif rules.before is not None:
            yield f"        {undecided} --> [*]: {decision}"
    yield "    }"


def step_of(branch: BranchRecord) -> StepRecord:
    """Its step. Raises ValueError if it has none, which no record on the path STEPS holds."""
    if branch.step is None:
        raise ValueError(f"branch {branch.branch} has no step")
    return branch.step


def rules_of(branch: BranchRecord) -> Rules:
    """The row of its mode."""
    return MODES[step_of(branch).mode]


def is_behind(step: StepRecord) -> bool:
    """Whether its action runs behind the decision."""
    return MODES[step.mode].before is None


def attempt_name(branch: str, does: Does, attempt: int) -> str:
    """What an attempt is called at the participant: `b`, `b:2`; `b:undo`, `b:undo:2`."""
    parts = [branch]
    if does in (Does.CONFIRM, Does.UNDO):
        parts.append(does.value)
    if attempt > 1:
        parts.append(str(attempt))
    return SEPARATOR.join(parts)


def name_of(attempt: str) -> str:
    """The branch that an attempt belongs to."""
    return attempt.partition(SEPARATOR)[0]
