"""SQLite below the engine: branch rows and intents in two tables of our own, beside the user's.

SQLite has no prepared state, and an open write transaction keeps every other writer out. So an action runs inside a
savepoint while a *session* records its changes; the savepoint is rolled back, and the recorded changeset is stored
as the branch's intent in the same local transaction. Phase two applies the changeset and marks the row, again in one
transaction. Applying it verifies the old values, so a write from outside the protocol is found, not overwritten.

Durability: WAL with `synchronous=FULL`, which forces the log at each commit (https://sqlite.org/pragma.html). In
between, and with `NORMAL`, a power cut would lose commits that were answered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from participant.branch import FINAL, Branch
from participant.errors import (
    ActionError,
    AlreadyOwned,
    IntentConflict,
    ResourceBusy,
    ResourceError,
    ResourceFailed,
    SchemaError,
)
from participant.ids import BranchKey
from participant.locks import Row
from participant.resource import Call, OpenBranch
from participant.rm.sqlite.tables import Tables
from participant.rm.sqlite.transaction import Gate, Transaction
from participant.rm.store import NOTHING, Effects, Ran, drive, pack_rows, unpack_rows
from participant.wire import BranchState
from raftlog.disk import Claim

__all__ = ["BUSY_TIMEOUT_MS", "FORMAT_VERSION", "SqliteStore"]

FORMAT_VERSION = 2
BUSY_TIMEOUT_MS = 2_000  # how long a connection from outside may hold the database before we say so
_DIRECTORY_MODE = 0o700
_LOCK_MODE = 0o600

_OWN_SCHEMA = """
CREATE TABLE IF NOT EXISTS commitd_meta (key TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commitd_branch (
    gid           TEXT NOT NULL,
    branch        TEXT NOT NULL,
    state         TEXT NOT NULL,
    digest        BLOB NOT NULL,
    reason        TEXT NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    intent        BLOB,            -- a changeset, while prepared
    locks         BLOB,            -- the rows that it locks
    result        BLOB NOT NULL,   -- of a commit in one phase
    PRIMARY KEY (gid, branch)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commitd_branch_prepared ON commitd_branch (changed_at_ms) WHERE intent IS NOT NULL;
CREATE INDEX IF NOT EXISTS commitd_branch_finished ON commitd_branch (changed_at_ms) WHERE intent IS NULL;
CREATE TABLE IF NOT EXISTS commitd_note (
    gid           TEXT NOT NULL,
    branch        TEXT NOT NULL,
    note          BLOB NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    is_finished   INTEGER NOT NULL,
    PRIMARY KEY (gid, branch)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commitd_note_finished ON commitd_note (changed_at_ms) WHERE is_finished;
"""
_BEGIN = "BEGIN IMMEDIATE /* commitd */"
_COMMIT = "COMMIT /* commitd */"
_SAVE = "SAVEPOINT commitd_action /* commitd */"
_UNDO = "ROLLBACK TO commitd_action /* commitd */"
_DROP = "RELEASE commitd_action /* commitd */"
_LOAD = (
    "SELECT state, digest, reason, changed_at_ms, result FROM commitd_branch WHERE gid = ? AND branch = ? /* commitd */"
)
_INTENT = "SELECT intent FROM commitd_branch WHERE gid = ? AND branch = ? /* commitd */"
_STORE = "INSERT OR REPLACE INTO commitd_branch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) /* commitd */"
_PREPARED = (
    "SELECT gid, branch, locks FROM commitd_branch WHERE intent IS NOT NULL ORDER BY changed_at_ms /* commitd */"
)
_FORGET = """
DELETE FROM commitd_branch WHERE (gid, branch) IN (
    SELECT gid, branch FROM commitd_branch WHERE intent IS NULL AND changed_at_ms < ? LIMIT ?) /* commitd */
"""
_NOTE = "SELECT note FROM commitd_note WHERE gid = ? AND branch = ? /* commitd */"
_STORE_NOTE = "INSERT OR REPLACE INTO commitd_note VALUES (?, ?, ?, ?, ?) /* commitd */"
_FORGET_NOTES = """
DELETE FROM commitd_note WHERE (gid, branch) IN (
    SELECT gid, branch FROM commitd_note WHERE is_finished AND changed_at_ms < ? LIMIT ?) /* commitd */
"""


class SqliteStore:
    """`participant.rm.store.Store`, see there, over one file and one connection."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path.resolve()  # as SQLite does: a link has neither a lock nor a log of its own
        self._schema = schema
        # A file of its own: a directory may hold several databases, and SQLite has locks of its own on the database.
        self._lock = self._path.with_name(self._path.name + ".lock")
        self._claim = Claim(self._lock)
        self._gate = Gate()

    def open(self) -> list[tuple[BranchKey, frozenset[Row]]]:
        try:
            self._make_directory()
            self._own()
            self._db = apsw.Connection(str(self._path))
            self._configure()
            self._create()
            self._tables = Tables(self._db)
            self._db.authorizer = self._gate
            _sync_directory(self._path.parent)
            return [(BranchKey(gid, branch), unpack_rows(locks)) for gid, branch, locks in self._rows(_PREPARED)]
        except ResourceError:
            self.close()
            raise
        except (apsw.Error, OSError) as error:
            self.close()
            raise ResourceFailed(f"cannot open {self._path}: {error}") from error

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        self._claim.drop()

    def begin(self) -> None:
        try:
            self._db.execute(_BEGIN)
        except apsw.BusyError as error:
            raise ResourceBusy(f"{self._path} is locked by a connection outside this participant") from error

    def commit(self) -> None:
        try:
            self._db.execute(_COMMIT)
        except apsw.Error as error:
            raise ResourceFailed(f"cannot write {self._path}: {error}") from error

    def load(self, key: BranchKey) -> Branch | None:
        found = self._rows(_LOAD, key.gid, key.branch)
        if not found:
            return None
        state, *rest = found[0]
        return Branch(key, BranchState(state), *rest)

    def save(self, branch: Branch, effects: Effects = NOTHING) -> None:
        held = branch.state not in FINAL
        self._db.execute(
            _STORE,
            (
                branch.key.gid,
                branch.key.branch,
                branch.state.value,
                branch.digest,
                branch.reason,
                branch.changed_at_ms,
                effects.intent if held else None,
                pack_rows(effects.rows) if held else None,
                branch.result,
            ),
        )

    def note(self, key: BranchKey) -> bytes | None:
        found = self._rows(_NOTE, *key)
        return bytes(found[0][0]) if found else None

    def save_note(self, key: BranchKey, note: bytes, *, changed_at_ms: int, is_finished: bool) -> None:
        self._db.execute(_STORE_NOTE, (*key, note, changed_at_ms, is_finished))

    def intent(self, key: BranchKey) -> bytes:
        [[intent]] = self._rows(_INTENT, key.gid, key.branch)
        return bytes(intent)

    def run(self, call: Call, base: bytes, branch: OpenBranch | None = None) -> Ran:
        with self._savepoint():
            session = apsw.Session(self._db, "main")
            session.attach()
            try:
                if base:
                    self.apply(base)
                result = self._drive(call, branch)
                self._tables.check_keys()
                changeset = session.changeset()
                effects = Effects(self._tables.rows(changeset), changeset)
            finally:
                session.close()
        self._rehearse(changeset)
        return Ran(result, effects)

    def apply(self, intent: bytes) -> None:
        if intent and (misfit := self._apply(intent)):
            raise IntentConflict(
                "the promised change does not fit the rows any more, because somebody wrote outside the protocol: "
                + misfit
            )

    def _rehearse(self, changeset: bytes) -> None:
        """Raise ActionError if the changes cannot be applied; better a no now than a yes that cannot be kept.

        They are applied one by one, so they may be in each other's way, e.g. when unique values go round in a circle.
        One alone is in nobody's way.
        """
        if len(list(apsw.Changeset.iter(changeset))) < 2:
            return
        with self._savepoint():
            misfit = self._apply(changeset)
        if misfit:
            raise ActionError(f"its changes, made row by row, fit in no order; split them over transactions: {misfit}")

    def _apply(self, intent: bytes) -> str | None:
        """Make all changes, or none and say why."""
        misfit = self._tables.misfit(intent)
        conflicts: list[str] = []

        def conflict(reason: int, change: apsw.TableChange) -> int:
            kind = str(apsw.mapping_session_conflict[reason]).removeprefix("SQLITE_CHANGESET_").lower()
            known = change.old or change.new or ()
            key = [value for i, value in enumerate(known) if i in change.pk_columns]
            conflicts.append(f"{change.op} of {change.name}({', '.join(map(repr, key))}): {kind}")
            return apsw.SQLITE_CHANGESET_ABORT

        try:
            if misfit is None:
                with self._without_triggers():
                    apsw.Changeset.apply(intent, self._db, conflict=conflict)
        except (apsw.AbortError, apsw.SQLError) as error:
            misfit = "; ".join(conflicts) or str(error)
        return misfit

    def forget(self, before_ms: int, branches_max: int) -> int:
        before = self._db.total_changes()
        self._db.execute(_FORGET, (before_ms, branches_max))
        forgotten = self._db.total_changes() - before
        self._db.execute(_FORGET_NOTES, (before_ms, branches_max))
        return forgotten

    def _drive(self, call: Call, branch: OpenBranch | None) -> Any:
        tx = Transaction(self._db, self._gate, branch)
        self._gate.in_action = True
        try:
            return drive(call.function(tx, call.body))
        finally:
            self._gate.in_action = False
            tx.end()

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        """Undo whatever happens inside."""
        self._db.execute(_SAVE)
        try:
            yield
        finally:
            if not self._db.in_transaction:  # a full disk or an I/O error: the other branches of the batch are gone too
                raise ResourceFailed(f"{self._path} rolled the whole transaction back by itself")
            try:
                self._db.execute(_UNDO)
                self._db.execute(_DROP)
            except apsw.Error as error:
                raise ResourceFailed(f"{self._path} cannot undo what an action did: {error}") from error

    @contextmanager
    def _without_triggers(self) -> Iterator[None]:
        """What triggers did is in the changeset already."""
        if not self._tables.has_triggers:
            yield
            return
        self._db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        try:
            yield
        finally:
            self._db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)

    def _configure(self) -> None:
        self._db.set_busy_timeout(BUSY_TIMEOUT_MS)
        [[mode]] = self._rows("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise ResourceFailed(f"{self._path} cannot use a write-ahead log (mode {mode}): is it on a network disk?")
        self._db.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF")
        # What an earlier process wrote to the log without a sync, or with one that failed, reads back from the page
        # cache. A whole checkpoint writes it anew into the database, and syncs that.
        [[is_busy, *_]] = self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        if is_busy:
            raise ResourceBusy(f"{self._path} is read by a connection outside this participant; end that and try again")

    def _create(self) -> None:
        self._db.execute(_OWN_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO commitd_meta VALUES ('format', ?)", (FORMAT_VERSION,))
        [[version]] = self._rows("SELECT value FROM commitd_meta WHERE key = 'format'")
        if version != FORMAT_VERSION:
            raise SchemaError(f"{self._path} has format {version!r}; this release reads format {FORMAT_VERSION}")
        try:
            self._db.execute(self._schema)
        except apsw.Error as error:
            raise SchemaError(f"the schema for {self._path} does not run: {error}") from error
        if self._db.in_transaction:
            raise SchemaError("the schema leaves a transaction open; it must end what it begins")

    def _own(self) -> None:
        self._lock.touch(_LOCK_MODE)
        try:
            self._claim.take()
        except BlockingIOError:
            raise AlreadyOwned(
                f"{self._lock} is locked by another process: stop it, or give this one another file"
            ) from None

    def _make_directory(self) -> None:
        """Create the directory if it is not there, so that a power cut cannot take it away with all that is in it."""
        parent = self._path.parent
        for directory in reversed([path for path in (parent, *parent.parents) if not path.exists()]):
            directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            _sync_directory(directory.parent)

    def _rows(self, sql: str, *parameters: Any) -> list[Any]:
        return self._db.execute(sql, parameters).fetchall()


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
