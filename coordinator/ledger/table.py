"""The ledger: the record of every transaction, and the one place where a record changes.

It is the state machine of the replicated log. `apply` is total and deterministic: the same commands give the same
records, results and revisions on every replica; it looks at no clock, and what the rules forbid is a value. It asks
`transitions.find` before it changes anything.

Commands are proposed without a command id: each may be repeated, and after an unknown proposal the record tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from sortedcontainers import SortedList  # type: ignore[import-untyped]

from coordinator.ledger import snapshot, workflows
from coordinator.ledger.by_key import ByKey
from coordinator.ledger.changes import decided, emptied, ended, moved, tombstone
from coordinator.ledger.commands import (
    Begin,
    Command,
    Decide,
    Diverge,
    DropNotice,
    End,
    Extend,
    Forget,
    Heard,
    Notified,
    Precommit,
    Progress,
    Return,
    decode,
)
from coordinator.ledger.lines import Lines, with_turn
from coordinator.ledger.progress import advanced
from coordinator.ledger.records import BranchRecord, Decision, Notice, Path, Phase, TransactionRecord
from coordinator.ledger.transitions import Event, Why, find
from coordinator.ledger.untold import Untold
from coordinator.ledger.workflows import Growth

__all__ = [
    "PAGE_MAX",
    "SCAN_MAX",
    "Accepted",
    "Cursor",
    "Ledger",
    "Listener",
    "Page",
    "PageQuery",
    "Rejected",
    "Result",
]

PAGE_MAX = 500  # records of one page
SCAN_MAX = 5_000  # records that are looked at for one page; a few milliseconds

_GROWTH = {Extend: Event.EXTEND, Return: Event.RETURN, Diverge: Event.DIVERGE}

Cursor: TypeAlias = tuple[int, str]  # (begun_at_ms, gid)
Listener: TypeAlias = Callable[[TransactionRecord], None]


class Accepted(NamedTuple):
    """What the command asks for is so; `record` is the transaction now, None after a Forget.

    Also the answer to a repeated command, which changes nothing.
    """

    record: TransactionRecord | None


class Rejected(NamedTuple):
    """The rules forbid the command: it changed nothing. `record` is the transaction as it is, None if unknown."""

    reason: Why
    record: TransactionRecord | None


Result: TypeAlias = Accepted | Rejected


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which records, at most `limit` and PAGE_MAX of them. Those after the cursor `after` only, if there is one.

    `key`, `phases`, `participant` (of any branch) and `also` select; `begun_from_ms` <= begun_at_ms <
    `begun_before_ms`. None: any.
    """

    limit: int
    after: Cursor | None = None
    phases: frozenset[Phase] | None = None
    participant: str | None = None
    begun_from_ms: int | None = None
    begun_before_ms: int | None = None
    also: Callable[[TransactionRecord], bool] | None = None
    key: str | None = None

    @property
    def lowest(self) -> Cursor | None:
        """The first key that may be on the page."""
        return None if self.begun_from_ms is None else _before(self.begun_from_ms)

    @property
    def highest(self) -> Cursor | None:
        """The first key behind all that may be on the page."""
        before = None if self.begun_before_ms is None else _before(self.begun_before_ms)
        return min((key for key in (before, self.after) if key is not None), default=None)

    def selects(self, record: TransactionRecord) -> bool:
        """Whether the record is one of those asked for, if its key is."""
        return (
            (self.phases is None or record.phase in self.phases)
            and (self.participant is None or any(branch.participant == self.participant for branch in record.branches))
            and (self.also is None or self.also(record))
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, newest first. `cursor` continues after them; None: there are no more.

    A page may be short, even empty, and have a cursor all the same, because the work for one is bounded.
    """

    records: tuple[TransactionRecord, ...]
    cursor: Cursor | None


class Ledger:
    """Every transaction that was begun or asked for, until it is forgotten. `revision` counts changes. `untold`: those
    that have ended, and only their applications have not been told."""

    def __init__(self) -> None:
        self.revision = 0
        self.untold = Untold()
        self._records: dict[str, TransactionRecord] = {}
        self._unfinished: dict[str, TransactionRecord] = {}
        self._lines = Lines()
        self._by_begin: SortedList[Cursor] = SortedList()
        self._finished: SortedList[Cursor] = SortedList()  # (decided_at_ms, gid)
        self._by_key = ByKey()
        self._listeners: dict[object, Listener] = {}

    # The state machine (`raftlog.port.StateMachine`)

    def apply(self, index: int, command: bytes) -> Result:  # noqa: ARG002 (the log's index is not part of a record)
        """Apply one command from the log. Raises CommandError, fatal for the node, if it cannot be read."""
        return self.execute(decode(command))

    def execute(self, command: Command) -> Result:
        """Apply one command."""
        match command:
            case Begin():
                return self._begin(command)
            case Precommit():
                return self._precommit(command)
            case Decide():
                return self._decide(command)
            case End():
                return self._end(command)
            case Progress():
                return self._progress(command)
            case Extend() | Return() | Diverge():
                return self._grow(command)
            case Notified():
                return self._notified(command)
            case DropNotice():
                return self._drop_notice(command)
            case Forget():
                return self._forget(command)

    def snapshot(self) -> Iterable[bytes]:
        """The state now, as chunks (`ledger.snapshot`); they are made as they are consumed, in any thread."""
        return snapshot.encode(self.revision, list(self._records.values()))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state, then tell the listeners of every record that is newer than the old state.

        Raises SnapshotError; the state is then as before.
        """
        seen = self.revision
        self.revision, records = snapshot.decode(chunks)
        self._records = {record.gid: record for record in records}
        self._unfinished = {record.gid: record for record in records if not record.finished}
        self._lines = Lines(self._unfinished.values())
        self._by_begin = SortedList((record.begun_at_ms, record.gid) for record in records)
        self._finished = SortedList((record.decided_at_ms, record.gid) for record in records if record.finished)
        self._by_key = ByKey(records)
        self.untold = Untold(records)
        for record in records:
            if record.revision > seen:
                self._tell(record)

    # Reading

    def get(self, gid: str) -> TransactionRecord | None:
        """The record of one transaction, None if the ledger holds none."""
        return self._records.get(gid)

    def __len__(self) -> int:
        return len(self._records)

    def unfinished(self) -> tuple[TransactionRecord, ...]:
        """Every transaction that is undecided, or that still owes something to somebody; in no set order."""
        return tuple(self._unfinished.values())

    def page(self, query: PageQuery) -> Page:
        """Records by descending (begun_at_ms, gid)."""
        found: list[TransactionRecord] = []
        if query.key is None:
            keys = self._by_begin.irange(query.lowest, query.highest, inclusive=(True, False), reverse=True)
        else:
            keys = self._by_key.newest_first(query.key, query.lowest, query.highest)
        for scanned, key in enumerate(keys, start=1):
            record = self._records[key[1]]
            if query.selects(record):
                found.append(record)
            if len(found) == min(query.limit, PAGE_MAX) or scanned == SCAN_MAX:
                return Page(tuple(found), key)
        return Page(tuple(found), None)

    def finished_before(self, ms: int, limit: int) -> tuple[str, ...]:
        """Up to `limit` finished transactions decided before `ms` (wall clock), oldest first: what to forget."""
        keys = self._finished.irange(None, _before(ms), inclusive=(True, False))
        return tuple(gid for (_, gid), _ in zip(keys, range(limit), strict=False))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(record)` after each change on this replica; the returned function ends that.

        It is called in the middle of `apply`: it must be quick, must not raise and must not use the log. A
        transaction that is forgotten is not announced.
        """
        token = object()
        self._listeners[token] = listener

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    # Changing

    def _begin(self, command: Begin) -> Result:
        record = self._records.get(command.gid)
        row = find(record, Event.BEGIN, command)
        if isinstance(row, Why):
            return Rejected(row, record)
        if record is not None:
            return Accepted(record)
        begun = (command.gid, command.digest, command.path, Phase.PREPARING, command.branches)
        record = TransactionRecord(*begun, command.deadline_ms, command.at_ms, trace=command.trace, key=command.key)
        record = record._replace(notify=command.notify) if command.notify else record
        record = record._replace(workflow=command.workflow) if command.workflow else record
        if command.path is Path.STEPS:
            record = record._replace(branches=self._lines.join(record, self.revision + 1))
        return self._become(row.becomes, record, record.branches)

    def _precommit(self, command: Precommit) -> Result:
        record = self._records.get(command.gid)
        row = find(record, Event.PRECOMMIT, command)
        if isinstance(row, Why):
            return Rejected(row, record)
        if record is None or row.becomes is record.phase:
            return Accepted(record)
        return self._become(row.becomes, record, record.branches)

    def _decide(self, command: Decide) -> Result:
        record = self._records.get(command.gid)
        row = find(record, Event.COMMIT if command.decision is Decision.COMMIT else Event.ABORT, command)
        if isinstance(row, Why):
            return Rejected(row, record)
        if record is None:
            record = tombstone(command)
        elif row.becomes is record.phase:
            return Accepted(record)
        branches = tuple([decided(branch, command.done) for branch in record.branches])
        return self._become(row.becomes, record, branches, command)

    def _end(self, command: End) -> Result:
        record = self._records.get(command.gid)
        row = find(record, Event.END, command)
        if record is None or isinstance(row, Why):
            return Rejected(Why.UNKNOWN_GID if record is None else Why.UNDECIDED, record)
        if row.becomes is record.phase and not any(
            branch.branch in command.branches and not branch.ended for branch in record.branches
        ):
            return Accepted(record)
        return self._become(row.becomes, record, tuple([ended(branch, command.branches) for branch in record.branches]))

    def _progress(self, command: Progress) -> Result:
        record = self._records.get(command.gid)
        row = find(record, Event.PROGRESS, command)
        if record is None or isinstance(row, Why):
            return Rejected(Why.UNKNOWN_GID if record is None else Why.NO_STEP, record)
        branches = tuple([advanced(branch, command) for branch in record.branches])
        if branches == record.branches:
            return Accepted(record)
        if command.heard is Heard.REDELIVERED:
            branches = self._lines.join(record._replace(branches=branches), self.revision + 1)
        return self._become(row.becomes, workflows.noted(record, command), branches)

    def _grow(self, command: Growth) -> Result:
        record = self._records.get(command.gid)
        row = find(record, _GROWTH[type(command)], command)
        if record is None or isinstance(row, Why):
            return Rejected(row if isinstance(row, Why) else Why.UNKNOWN_GID, record)
        grown, decide = workflows.grown(record, command)
        if grown is record:
            return Accepted(record)
        branches = grown.branches if decide is None else tuple([decided(b, decide.done) for b in grown.branches])
        return self._become(row.becomes, grown, branches, decide)

    def _notified(self, command: Notified) -> Result:
        record = self._records.get(command.gid)
        if record is None:
            return Rejected(Why.UNKNOWN_GID, None)
        row = find(record, Event.NOTIFIED, command)
        if isinstance(row, Why):
            return Rejected(row, record)
        if record.notified in (command.notice, Notice.ENDED) or record.notice_dropped:
            return Accepted(record)
        return self._become(row.becomes, record._replace(notified=command.notice), record.branches)

    def _drop_notice(self, command: DropNotice) -> Result:
        record = self._records.get(command.gid)
        row = find(record, Event.DROP_NOTICE, command)
        if record is None or isinstance(row, Why):
            return Rejected(row if isinstance(row, Why) else Why.UNKNOWN_GID, record)
        if record.notice_dropped:
            return Accepted(record)
        return self._become(row.becomes, record._replace(notice_dropped=command.word), record.branches)

    def _forget(self, command: Forget) -> Result:
        for gid in command.gids:
            record = self._records.get(gid)
            row = find(record, Event.FORGET, command)
            if record is not None and not isinstance(row, Why):
                self._become(row.becomes, record, ())
        return Accepted(None)

    def _become(
        self,
        phase: Phase | None,
        record: TransactionRecord,
        branches: tuple[BranchRecord, ...],
        decide: Decide | None = None,
    ) -> Accepted:
        """Store `record` with its new `phase`; None drops it. Whatever changes passes here."""
        self.revision += 1
        if phase is None:
            del self._records[record.gid]
            self._by_begin.remove((record.begun_at_ms, record.gid))
            self._finished.remove((record.decided_at_ms, record.gid))
            self._by_key.remove(record)
            return Accepted(None)
        if record.gid not in self._records:
            self._by_begin.add((record.begun_at_ms, record.gid))
            self._by_key.add(record)
        if record.path is Path.STEPS and phase in (Phase.COMMITTED, Phase.ABORTED):
            branches = tuple([emptied(branch) for branch in branches])
            record = workflows.emptied(record)
        record = moved(record, phase, branches, self.revision, decide)
        self._records[record.gid] = record
        if record.finished:
            self._unfinished.pop(record.gid, None)
            self._finished.add((record.decided_at_ms, record.gid))
        else:
            self._unfinished[record.gid] = record
        self.untold.note(record)
        self._tell(record)
        return self._give_turns(record) if record.path is Path.STEPS else Accepted(record)

    def _give_turns(self, record: TransactionRecord) -> Accepted:
        """Where messages of a record have left their lines, it is the turn of others, perhaps of the same record."""
        for gid, name in self._lines.leave(record):
            heir = self._records[gid]
            self._become(heir.phase, heir, with_turn(heir.branches, name))
        return Accepted(self._records[record.gid])

    def _tell(self, record: TransactionRecord) -> None:
        for listener in tuple(self._listeners.values()):
            listener(record)


def _before(ms: int) -> Cursor:
    """Sorts before every key of this millisecond."""
    return (ms, "")
