"""What is true of a transaction: the replicated record. Small, immutable, made only by `table.Ledger`.

The record knows *what was decided*, never what a replica is doing about it: calls in flight, attempts and
last errors are facts of one driver (`coordinator/facts.py`) and may vanish with it.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = [
    "JITTER_DEFAULT_PERCENT",
    "Asked",
    "BranchRecord",
    "Decision",
    "Delivery",
    "Mode",
    "Notice",
    "Path",
    "Phase",
    "Report",
    "Reporting",
    "Retry",
    "StepRecord",
    "TransactionRecord",
    "WorkflowRecord",
    "shared_names",
    "telling",
]

JITTER_DEFAULT_PERCENT = 100
NAMES_SHARED_MAX = 1_024  # combinations; of others, each record has its own


class Path(StrEnum):
    """How the transaction commits (docs: commit path). Chosen once, at begin."""

    CLASSIC = "classic"  # votes first, then the decision through the log
    ONE_PHASE = "one-phase"  # a single branch: its participant decides
    STAGED = "staged"  # committed when this record and every vote are durable
    STEPS = "steps"  # some branches commit before the others have said anything
    THREE_PHASE = "three-phase"  # participants that hear nothing can end it among themselves, by a majority
    # The textbook's rule for those that hear nothing, instead of the majority: unsafe when the network is parted.
    UNSAFE_COMMIT_ON_SILENCE = "three-phase-unsafe-commit-on-silence"

    @property
    def is_implied(self) -> bool:
        """Whether the outcome can be true, and be told, before the record holds it."""
        return self is Path.STAGED or self is Path.ONE_PHASE

    @property
    def is_three_phase(self) -> bool:
        """Whether a phase lies between the votes and the decision, in which the coordinator alone may not abort."""
        return self is Path.THREE_PHASE or self is Path.UNSAFE_COMMIT_ON_SILENCE


class Mode(StrEnum):
    """How a branch takes part in a transaction that goes step by step (`protocols.modes`)."""

    TWO_PHASE = "two-phase"  # prepares before the decision, and obeys it
    TCC = "tcc"  # tries before the decision; then confirms, or cancels
    SAGA = "saga"  # commits before the decision; if that is to abort, it is undone by another action
    PIVOT = "pivot"  # commits last, and with it all is decided
    SOURCE = "source"  # commits by itself, whenever it likes, and is asked afterwards; with it all is decided
    FORWARD = "forward"  # begins once it is decided to commit, and is tried until it succeeds


class Phase(StrEnum):
    """Where the transaction stands. Only `transitions.TRANSITIONS` says what may follow what."""

    PREPARING = "preparing"  # begun, undecided
    PRECOMMITTING = "precommitting"  # in three phases: every vote is a yes, and participants may commit by themselves
    COMMITTING = "committing"  # decided, some branch has not confirmed yet
    ABORTING = "aborting"
    COMMITTED = "committed"  # decided, and every branch has confirmed
    ABORTED = "aborted"


class Decision(StrEnum):
    COMMIT = "commit"
    ABORT = "abort"


class Notice(StrEnum):
    """What an application is told that wants to be told of its transaction."""

    NONE = ""
    DECIDED = "decided"  # how it ends
    ENDED = "ended"  # and nothing is owed to any branch any more; who has heard that needs not hear the other


class Report(StrEnum):
    """What whoever did the work of a step has reported."""

    DONE = "done"
    REFUSED = "refused"


class Retry(NamedTuple):
    """How often a step is begun anew after a refusal, and after how long: the window doubles from base to cap, and so
    many hundredths of it are drawn by chance."""

    attempts_max: int
    base_ms: int
    cap_ms: int
    jitter_percent: int = JITTER_DEFAULT_PERCENT


class Reporting(NamedTuple):
    """Of a step whose action only begins the work: `field` of its body is a token, made with `secret`
    (`protocols.reports`), with which somebody reports how the work has ended.

    `begun`: the action of the attempt that counts now has committed. `heard`: what was reported of that attempt.
    """

    field: str
    secret: str
    begun: bool = False
    heard: Report | None = None

    @property
    def is_done(self) -> bool:
        """Whether the work is done, of which only one who had the token can know."""
        return self.begun and self.heard is Report.DONE


class Delivery(NamedTuple):
    """How a message is delivered. With a `key`, it stands in line with those of the same (`ledger.lines`): `joined` is
    the ledger's revision when it did, and before its `turn` it is not sent.

    After `attempts_max` refusals, or when it was not delivered for `age_max_ms` behind the decision, it is set aside as
    a `dead` letter; 0: never. Then a person has it `dropped`, or delivered again: `spared` refusals do not count any
    more, nor does its age. `word` says who did so, and why.
    """

    key: str = ""
    attempts_max: int = 0
    age_max_ms: int = 0
    joined: int = 0
    turn: bool = False
    dead: bool = False
    dropped: bool = False
    spared: int = 0
    word: str = ""


class StepRecord(NamedTuple):
    """What more there is to know of a branch on the path STEPS: what it does when, and how far it has come.

    `after`: the branches that must have succeeded before. `takes`: which results go into its body, as (field, branch);
    its own name stands for its own result, which its `confirm` and `undo` get.

    `attempt` counts from 1 how often it was begun before the decision, `settling` the same for what follows that. Each
    attempt is a branch of its own at the participant, and none is called before the refusal of the one before is
    recorded: so it is always known how many there may be. `done`: what comes before the decision has succeeded;
    `result` is what it gave, packed, if somebody takes it; or why it was reported as refused, or, of a message with a
    `delivery`, refused or set aside last.

    `not_before_ms` is a duration, as the deadline is: each leader counts it from when *it* saw the decision. So nothing
    begins earlier than that after the decision was recorded, whatever the clocks say, and after a takeover it is later.
    """

    mode: Mode
    after: tuple[str, ...]
    confirm: str | None
    undo: str | None
    takes: tuple[tuple[str, str], ...]
    retry: Retry
    attempt: int = 1
    settling: int = 1
    done: bool = False
    result: bytes = b""
    not_before_ms: int = 0
    reporting: Reporting | None = None
    delivery: Delivery | None = None

    @property
    def running(self) -> int:
        """Which attempt at its action counts now."""
        return self.settling if self.mode is Mode.FORWARD else self.attempt

    @property
    def is_refused_enough(self) -> bool:
        """Whether it is a message that was refused so often that it is set aside."""
        delivery = self.delivery
        return delivery is not None and 0 < delivery.attempts_max <= self.settling - 1 - delivery.spared


class BranchRecord(NamedTuple):
    """One participant's part. `body` is the msgpack encoding of what the caller posted, empty once it is not needed.

    `works`, of a branch without an action: how much work the caller has seen it do; None if it did not say. `step` on
    the path STEPS only.
    """

    branch: str
    participant: str
    action: str | None
    body: bytes
    ended: bool = False  # nothing more is owed to it: it confirmed the decision, or needs no phase two
    works: int | None = None
    step: StepRecord | None = None


class Asked(NamedTuple):
    """One call of a workflow's code, beside the branch that it became: what was asked, when it was recorded (wall-clock
    milliseconds of the leader), and why it was refused for good, if so: then it is not done, and nothing is owed."""

    digest: bytes
    at_ms: int
    refused: str | None = None


class WorkflowRecord(NamedTuple):
    """What more there is to know of a transaction whose steps come one by one, from code that some worker runs.

    `input` and `result` are packed values; `asked` stands beside the branches, one for each. `diverged` says why a run
    of the code did not fit what is recorded, "" if none was like that since the last step.
    """

    name: str
    input: bytes
    asked: tuple[Asked, ...] = ()
    result: bytes = b""
    diverged: str = ""


class TransactionRecord(NamedTuple):
    """One transaction, as every replica knows it.

    `digest` identifies the request, so that the same gid with another body can be refused. `deadline_ms` is a
    duration: each leader counts it from when *it* took the transaction up, so that no two machines' clocks are
    ever compared and a leader change aborts nothing. The `*_at_ms` are wall-clock milliseconds of the proposing
    leader, for people and for retention, never for a decision. `decided_by` is "votes", "deadline", "inquiry",
    "participants", "operator NAME", "deadline set by NAME" or "workflow"; `culprit` the branch that voted no.
    `revision` is the ledger's counter at the last change. `trace` is the caller's (`participant.traceparent`), ""
    without one; nothing depends on it.
    `key` is the application's own name for what it does, "" without one; several transactions may have the same.
    `notify` is the URL at which the application wants to be told, "" if it does not; `notified` what it took last;
    `notice_dropped` who gave up telling it more, and why, "" if nobody did.
    """

    gid: str
    digest: bytes
    path: Path
    phase: Phase
    branches: tuple[BranchRecord, ...]
    deadline_ms: int
    begun_at_ms: int
    decided_at_ms: int = 0
    decided_by: str = ""
    reason: str = ""
    culprit: str | None = None
    revision: int = 0
    trace: str = ""
    key: str = ""
    notify: str = ""
    notified: Notice = Notice.NONE
    workflow: WorkflowRecord | None = None
    notice_dropped: str = ""

    @property
    def tombstone(self) -> bool:
        """Whether it was made aborted before it was begun: it names no branches, whatever they would have been."""
        return not self.branches and self.workflow is None

    @property
    def ended(self) -> bool:
        """Whether nothing is owed to any branch any more."""
        return self.phase is Phase.COMMITTED or self.phase is Phase.ABORTED

    @property
    def finished(self) -> bool:
        """Whether nothing is owed to anybody any more, neither to a branch nor to the application."""
        return self.ended and not self.is_untold

    @property
    def is_untold(self) -> bool:
        """Whether the application is still to be told of something, now or later."""
        return bool(self.notify) and self.notified is not Notice.ENDED and not self.notice_dropped

    @property
    def notice_owed(self) -> Notice:
        """What the application is still to be told now."""
        if not self.is_untold or self.decision is None:
            return Notice.NONE
        now = Notice.ENDED if self.ended else Notice.DECIDED
        return Notice.NONE if self.notified is now else now

    @property
    def decision(self) -> Decision | None:
        """The decision, or None while there is none."""
        match self.phase:
            case Phase.PREPARING | Phase.PRECOMMITTING:
                return None
            case Phase.COMMITTING | Phase.COMMITTED:
                return Decision.COMMIT
            case Phase.ABORTING | Phase.ABORTED:
                return Decision.ABORT


@lru_cache(NAMES_SHARED_MAX)  # `sys.intern` would keep every name for ever, on some versions of Python
def shared_names(branch: str, participant: str, action: str | None) -> tuple[str, str, str | None]:
    """The same names; but equal ones are the same objects, because the same few stand in nearly every record."""
    return branch, participant, action


def telling(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """The fields, in the form in which they are written: without the last ones that say nothing."""
    while fields and not fields[-1]:
        fields = fields[:-1]
    return fields
