"""The state machine of one branch and its barrier, as one table of data. Sans-IO.

Two rules. One: whatever may happen to a branch stands in `RULES`, and nothing changes a branch but
`Branch.move`, which asks the table first. Two: this file does not know how a change is made durable; it only
says what is true and legal.

The barrier. Messages of a coordinator arrive late, twice and in any order, so every participant meets three
anomalies: a *repeat* (the answer was lost), an *empty rollback* (the abort overtakes the prepare) and a *hanging
prepare* (the prepare arrives after that abort, and would lock rows that nobody will ever release). One row for each
branch, written in the same local transaction as the business rows, cures all three:

- repeat: the row says what was answered, so the same is answered again (verdict REPEAT);
- empty rollback: `abort` or `prevent` of an unknown branch writes the row in state ABORTED (verdict EMPTY);
- hanging prepare: it finds that row, and is refused (verdict REFUSE).

Presumed abort (Mohan, Lindsay & Obermarck, "Transaction Management in the R* Distributed Database Management
System", ACM TODS 11(4), 1986, section 3): a branch that is not PREPARED may be aborted by anybody at any time, a
PREPARED one only by the decision. Here an abort is nevertheless recorded: not for its own sake, but as the barrier.
READ_ONLY is that paper's read-only vote, recorded too, so that a repeated prepare gives the same answer.

    UNKNOWN or WORKING ── prepare ──────────▶ PREPARED ── commit ──▶ COMMITTED
                       ── prepare ──────────▶ READ_ONLY     (nothing was written)
                       ── prepare ──────────▶ ABORTED       (the action refused, or work is missing: a no)
                       ── commit, one phase ▶ COMMITTED or ABORTED
                       ── abort, prevent ───▶ ABORTED       (as PREPARED ── abort ──▶ ABORTED)

A commit in one phase finds a branch PREPARED when an earlier leader, before it died, asked it for a vote on the classic
path. The branch has promised to wait for the decision, and may have asked for it; so it answers PREPARED, which is a
yes, and the decision goes through the coordinators' log.

CONTRADICTION is the verdict on what cannot happen while every party is right: commit of a branch that never
voted yes, abort of a committed one. It is refused like REFUSE, and somebody must be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from participant.errors import InvariantError
from participant.ids import BranchKey
from participant.values import packed, unpacked
from participant.wire import Answer, BranchState

__all__ = ["FINAL", "REASON_CHARS_MAX", "RULES", "Ask", "Branch", "Rule", "Verdict", "draw", "judge"]

REASON_CHARS_MAX = 500


class Ask(StrEnum):
    """What can happen to a branch: the verbs of the wire (commit is two), and the participant's own clock."""

    WORK = "work"
    PREPARE = "prepare"
    COMMIT = "commit"
    COMMIT_ONE_PHASE = "commit in one phase"
    ABORT = "abort"
    PREVENT = "prevent"
    OUTCOME = "outcome"
    EXPIRE = "expire"  # a working branch was not prepared in time


class Verdict(StrEnum):
    """What to do about it."""

    RUN = "run"  # do it; the branch then has one of the rule's next states
    REPEAT = "repeat"  # it was done before, or there is nothing to do: say what is true
    EMPTY = "empty"  # nothing to undo: leave the tombstone that keeps a late prepare out
    REFUSE = "refuse"  # it came too late; say what is true, and why
    CONTRADICTION = "contradiction"  # refuse, and tell a person: somebody broke the protocol


@dataclass(frozen=True, slots=True)
class Rule:
    """One cell of the table. `next`: every state the branch may have afterwards. `why`: for refusals."""

    verdict: Verdict
    next: tuple[BranchState, ...]
    why: str = ""


_CHANGING = frozenset((Verdict.RUN, Verdict.EMPTY))  # all others leave the branch as it is
_UNKNOWN, _WORKING = BranchState.UNKNOWN, BranchState.WORKING
_PREPARED, _READ_ONLY = BranchState.PREPARED, BranchState.READ_ONLY
_COMMITTED, _ABORTED = BranchState.COMMITTED, BranchState.ABORTED

FINAL = frozenset({_READ_ONLY, _COMMITTED, _ABORTED})  # nothing is held any more; the row may be forgotten in time


def _run(*states: BranchState) -> Rule:
    return Rule(Verdict.RUN, states)


def _repeat(state: BranchState) -> Rule:
    return Rule(Verdict.REPEAT, (state,))


def _refuse(state: BranchState, why: str) -> Rule:
    return Rule(Verdict.REFUSE, (state,), why)


def _contradiction(state: BranchState, why: str) -> Rule:
    return Rule(Verdict.CONTRADICTION, (state,), why)


_EMPTY = Rule(Verdict.EMPTY, (_ABORTED,))
_NEVER_PREPARED = "commit of a branch that was never prepared here, or was forgotten after the retention"

RULES: Mapping[tuple[BranchState, Ask], Rule] = MappingProxyType(
    {
        (_UNKNOWN, Ask.WORK): _run(_WORKING, _ABORTED),
        (_UNKNOWN, Ask.PREPARE): _run(_PREPARED, _READ_ONLY, _ABORTED),
        (_UNKNOWN, Ask.COMMIT): _contradiction(_UNKNOWN, _NEVER_PREPARED),
        (_UNKNOWN, Ask.COMMIT_ONE_PHASE): _run(_COMMITTED, _ABORTED),
        (_UNKNOWN, Ask.ABORT): _EMPTY,
        (_UNKNOWN, Ask.PREVENT): _EMPTY,
        (_UNKNOWN, Ask.OUTCOME): _repeat(_UNKNOWN),
        (_UNKNOWN, Ask.EXPIRE): _repeat(_UNKNOWN),
        #
        (_WORKING, Ask.WORK): _run(_WORKING, _ABORTED),
        (_WORKING, Ask.PREPARE): _run(_PREPARED, _READ_ONLY, _ABORTED),
        (_WORKING, Ask.COMMIT): _contradiction(_WORKING, "commit of a branch that is not prepared"),
        (_WORKING, Ask.COMMIT_ONE_PHASE): _run(_COMMITTED, _ABORTED),
        (_WORKING, Ask.ABORT): _run(_ABORTED),
        (_WORKING, Ask.PREVENT): _run(_ABORTED),
        (_WORKING, Ask.OUTCOME): _repeat(_WORKING),
        (_WORKING, Ask.EXPIRE): _run(_ABORTED),
        #
        (_PREPARED, Ask.WORK): _refuse(_PREPARED, "the branch is prepared and takes no more work"),
        (_PREPARED, Ask.PREPARE): _repeat(_PREPARED),
        (_PREPARED, Ask.COMMIT): _run(_COMMITTED),
        (_PREPARED, Ask.COMMIT_ONE_PHASE): _repeat(_PREPARED),
        (_PREPARED, Ask.ABORT): _run(_ABORTED),
        (_PREPARED, Ask.PREVENT): _repeat(_PREPARED),
        (_PREPARED, Ask.OUTCOME): _repeat(_PREPARED),
        (_PREPARED, Ask.EXPIRE): _repeat(_PREPARED),
        #
        (_READ_ONLY, Ask.WORK): _refuse(_READ_ONLY, "the branch voted read-only and takes no more work"),
        (_READ_ONLY, Ask.PREPARE): _repeat(_READ_ONLY),
        (_READ_ONLY, Ask.COMMIT): _repeat(_READ_ONLY),
        (_READ_ONLY, Ask.COMMIT_ONE_PHASE): _repeat(_READ_ONLY),
        (_READ_ONLY, Ask.ABORT): _EMPTY,
        (_READ_ONLY, Ask.PREVENT): _repeat(_READ_ONLY),
        (_READ_ONLY, Ask.OUTCOME): _repeat(_READ_ONLY),
        (_READ_ONLY, Ask.EXPIRE): _repeat(_READ_ONLY),
        #
        (_COMMITTED, Ask.WORK): _refuse(_COMMITTED, "the branch is committed and takes no more work"),
        (_COMMITTED, Ask.PREPARE): _repeat(_COMMITTED),
        (_COMMITTED, Ask.COMMIT): _repeat(_COMMITTED),
        (_COMMITTED, Ask.COMMIT_ONE_PHASE): _repeat(_COMMITTED),
        (_COMMITTED, Ask.ABORT): _contradiction(_COMMITTED, "abort of a branch that is committed"),
        (_COMMITTED, Ask.PREVENT): _repeat(_COMMITTED),
        (_COMMITTED, Ask.OUTCOME): _repeat(_COMMITTED),
        (_COMMITTED, Ask.EXPIRE): _repeat(_COMMITTED),
        #
        (_ABORTED, Ask.WORK): _refuse(_ABORTED, "the branch is aborted and takes no more work"),
        (_ABORTED, Ask.PREPARE): _refuse(_ABORTED, "prepared too late: the branch is aborted"),
        (_ABORTED, Ask.COMMIT): _contradiction(_ABORTED, "commit of a branch that is aborted"),
        (_ABORTED, Ask.COMMIT_ONE_PHASE): _refuse(_ABORTED, "committed too late: the branch is aborted"),
        (_ABORTED, Ask.ABORT): _repeat(_ABORTED),
        (_ABORTED, Ask.PREVENT): _repeat(_ABORTED),
        (_ABORTED, Ask.OUTCOME): _repeat(_ABORTED),
        (_ABORTED, Ask.EXPIRE): _repeat(_ABORTED),
    }
)


def judge(state: BranchState, ask: Ask) -> Rule:
    """What the table says."""
    return RULES[state, ask]


def draw() -> str:
    """The table as a Mermaid state diagram of all that changes a branch, and as a Markdown table of all verdicts."""
    labels: dict[tuple[BranchState, BranchState], list[str]] = {}
    for (state, ask), rule in RULES.items():
        for after in rule.next if rule.verdict in _CHANGING else ():
            if after is not state:
                labels.setdefault((state, after), []).append(ask)
    arrows = [
        f"    {_shown(before)} --> {_shown(after)}: {', '.join(asks)}" for (before, after), asks in labels.items()
    ]
    ends = [f"    {_shown(state)} --> [*]" for state in BranchState if state in FINAL]
    rows = [
        f"| {state} | {' | '.join(RULES[state, ask].verdict for ask in Ask)} |"  # in the order of the columns
        for state in BranchState
    ]
    header = (f"| the branch is | {' | '.join(Ask)} |", f"|---|{'---|' * len(Ask)}")
    return "\n".join(("```mermaid", "stateDiagram-v2", *arrows, *ends, "```", "", *header, *rows, ""))


def _shown(state: BranchState) -> str:
    return "[*]" if state is BranchState.UNKNOWN else state.replace("-", "_")


class Branch(NamedTuple):
    """What is true of one branch; the barrier row.

    `digest` identifies the request that it is bound to (empty: none, e.g. a tombstone). `reason` says why it is
    ABORTED. `changed_at_ms` is wall-clock time, for people and for the retention, never for a decision. `result` is
    what the action of a commit in one phase gave, packed (empty: nothing), so that a repeat gives it again.
    """

    key: BranchKey
    state: BranchState = BranchState.UNKNOWN
    digest: bytes = b""
    reason: str = ""
    changed_at_ms: int = 0
    result: bytes = b""

    def move(self, ask: Ask, to: BranchState, *, at_ms: int, digest: bytes = b"", reason: str = "") -> Branch:
        """The branch after `ask` was done and ended in `to`. Raises InvariantError if the table forbids it."""
        rule = judge(self.state, ask)
        if to not in rule.next or rule.verdict not in _CHANGING:
            raise InvariantError(f"branch {self.key}: {ask} must not lead from {self.state} to {to}")
        if reason:  # a database keeps no lone surrogates
            reason = reason[:REASON_CHARS_MAX].encode("utf-8", "replace").decode()
        return Branch(self.key, to, digest or self.digest, reason, at_ms)

    def giving(self, result: Any) -> Branch:
        """With what its action gave, if it commits with it: nobody asks for that of a prepare again."""
        return self._replace(result=packed(result, "result")) if self.state is BranchState.COMMITTED else self

    def is_bound_to_another(self, digest: bytes) -> bool:
        """Whether the branch belongs to a request other than that of `digest`."""
        return bool(self.digest and digest and self.digest != digest)

    def answer(self, why: str = "") -> Answer:
        """What to say of the branch as it stands. Its own reason goes before that of a refusal."""
        return Answer(self.state, self.reason or why, unpacked(self.result))
