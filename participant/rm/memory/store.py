"""A key-value store in memory, below the engine: what is true is in dicts, what is durable is in the journal.

A batch changes the dicts at once and is written at `commit`. That is safe because nobody sees the dicts but the one
thread that runs the batch, and no answer leaves before `commit`; if it fails, the dicts are thrown away with
the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from participant.branch import FINAL, Branch
from participant.errors import AlreadyOwned, ResourceFailed
from participant.ids import BranchKey
from participant.locks import Row
from participant.resource import Call, OpenBranch
from participant.rm.memory.journal import Entry, Journal, branch_entry, branch_of
from participant.rm.memory.transaction import Transaction, changes_of
from participant.rm.store import NOTHING, Effects, Ran, drive
from raftlog.disk import Disk

__all__ = ["MemoryStore"]


class _Note(NamedTuple):
    text: bytes
    changed_at_ms: int
    is_finished: bool


class MemoryStore:
    """`participant.rm.store.Store`, see there, over a journal."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._journal = Journal(disk)
        self._rows: dict[str, bytes] = {}
        self._branches: dict[BranchKey, Branch] = {}  # the one that changed longest ago first
        self._held: dict[BranchKey, Effects] = {}
        self._notes: dict[BranchKey, _Note] = {}  # the one that changed longest ago first
        self._batch: list[Entry] = []

    def open(self) -> list[tuple[BranchKey, frozenset[Row]]]:
        self._claim()
        try:
            self._rows, entries = self._journal.recover()
            for entry in entries:
                self._redo(entry)
        except BaseException:
            self.close()
            raise
        return [(key, effects.rows) for key, effects in self._held.items()]

    def close(self) -> None:
        self._journal.close()
        self._disk.release()

    def begin(self) -> None:
        self._batch = []

    def commit(self) -> None:
        if self._batch:
            self._journal.write(self._batch)
        if self._journal.is_long:
            branches = self._branches.values()
            entries = [branch_entry(branch, self._held.get(branch.key, NOTHING)) for branch in branches]
            entries += [["note", *key, *note] for key, note in self._notes.items()]
            self._journal.checkpoint(self._rows, entries)

    def load(self, key: BranchKey) -> Branch | None:
        return self._branches.get(key)

    def save(self, branch: Branch, effects: Effects = NOTHING) -> None:
        self._keep(branch, effects)
        self._batch.append(branch_entry(branch, effects))

    def note(self, key: BranchKey) -> bytes | None:
        note = self._notes.get(key)
        return None if note is None else note.text

    def save_note(self, key: BranchKey, note: bytes, *, changed_at_ms: int, is_finished: bool) -> None:
        self._write_down(key, _Note(note, changed_at_ms, is_finished))
        self._batch.append(["note", *key, note, changed_at_ms, is_finished])

    def intent(self, key: BranchKey) -> bytes:
        return self._held[key].intent

    def run(self, call: Call, base: bytes, branch: OpenBranch | None = None) -> Ran:
        tx = Transaction(self._rows, base, branch)
        try:
            result = drive(call.function(tx, call.body))
        finally:
            effects = tx.end()
        return Ran(result, effects)

    def apply(self, intent: bytes) -> None:
        if intent:
            self._change(intent)
            self._batch.append(["apply", intent])

    def forget(self, before_ms: int, branches_max: int) -> int:
        old: list[BranchKey] = []
        for key, branch in self._branches.items():
            if branch.changed_at_ms >= before_ms or len(old) == branches_max:
                break
            if branch.state in FINAL:
                old.append(key)
        if old:
            self._drop(old)
            self._batch.append(["forget", old])
        self._forget_notes(before_ms, branches_max)
        return len(old)

    def _forget_notes(self, before_ms: int, notes_max: int) -> None:
        old: list[BranchKey] = []
        for key, note in self._notes.items():
            if note.changed_at_ms >= before_ms or len(old) == notes_max:
                break
            if note.is_finished:
                old.append(key)
        if old:
            self._drop_notes(old)
            self._batch.append(["forget notes", old])

    def _claim(self) -> None:
        try:
            self._disk.claim()
        except BlockingIOError:
            raise AlreadyOwned(
                f"{self._disk!r} is in use by another process: stop it, or give this one another directory"
            ) from None
        except OSError as error:
            raise ResourceFailed(f"cannot open {self._disk!r}: {error}") from error

    # The only ways in which anything changes, in operation as in recovery.

    def _keep(self, branch: Branch, effects: Effects) -> None:
        key = branch.key
        self._branches.pop(key, None)
        self._branches[key] = branch
        if effects.intent:
            self._held[key] = effects
        else:
            self._held.pop(key, None)

    def _change(self, intent: bytes) -> None:
        for key, value in changes_of(intent):
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value

    def _drop(self, keys: Iterable[BranchKey]) -> None:
        for key in keys:
            del self._branches[key]

    def _write_down(self, key: BranchKey, note: _Note) -> None:
        self._notes.pop(key, None)
        self._notes[key] = note

    def _drop_notes(self, keys: Iterable[BranchKey]) -> None:
        for key in keys:
            del self._notes[key]

    def _redo(self, entry: Entry) -> None:
        match entry:
            case ["branch", *_]:
                self._keep(*branch_of(entry))
            case ["apply", intent]:
                self._change(intent)
            case ["forget", keys]:
                self._drop(BranchKey(gid, name) for gid, name in keys)
            case ["note", gid, name, *note]:
                self._write_down(BranchKey(gid, name), _Note(*note))
            case ["forget notes", keys]:
                self._drop_notes(BranchKey(gid, name) for gid, name in keys)
