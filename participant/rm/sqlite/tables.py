"""Which rows a changeset locks, and which tables can be recorded at all.

A changeset (SQLite's session extension, https://sqlite.org/sessionintro.html) names rows by primary key. Between the
recording and the application of one, another branch must not write those rows, nor take a unique value that
this one is going to take; so both are locked. From the extension's rules, and from what its silence would
cost, it follows what is refused when the database is opened:

- a table without a primary key (its changes are not recorded), or with a nullable composite one (rows with NULL in
  the key are not recorded; a nullable key of one column is checked after each action);
- virtual tables (their content is elsewhere);
- conflict clauses and triggers that say ROLLBACK (they would roll back the branches of others).

Foreign keys are not enforced, which is SQLite's default: a reference checked at prepare could be gone at commit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from participant.errors import ActionError, SchemaError
from participant.locks import Row, Value

__all__ = ["OWN_PREFIX", "Table", "Tables"]

OWN_PREFIX = "commitd_"
_ROLLBACK = re.compile(r"\bROLLBACK\b", re.IGNORECASE)


def says_rollback(sql: str) -> bool:
    """Whether SQL could end the transaction that it runs in."""
    return _ROLLBACK.search(sql) is not None


@dataclass(frozen=True, slots=True)
class _Index:
    """A unique index. `columns` are positions; None: it cannot be told from a row what it holds, lock all of it."""

    name: str
    columns: tuple[int, ...] | None
    collations: tuple[str, ...] = ()

    def row(self, values: Sequence[Value]) -> Row:
        """The lock of one entry."""
        folded = [_folded(value, collation) for value, collation in zip(values, self.collations, strict=True)]
        return Row(self.name, tuple(folded))


@dataclass(frozen=True, slots=True)
class Table:
    """What must be known of a table."""

    name: str
    columns: tuple[str, ...]
    key: _Index
    uniques: tuple[_Index, ...]
    nullable_key: str | None


class Tables:
    """All user tables of a database, as they stood when it was opened."""

    def __init__(self, db: apsw.Connection) -> None:
        """Raises SchemaError."""
        self._db = db
        self.has_triggers = bool(_rows(db, "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' LIMIT 1"))
        for name, sql in _rows(db, "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"):
            if says_rollback(sql):
                raise SchemaError(f"{name} says ROLLBACK, which would undo the branches of others; say ABORT")
        self._tables: Mapping[str, Table] = {
            name: _table(db, name)
            for name, kind in _rows(db, "SELECT name, type FROM pragma_table_list WHERE schema = 'main'")
            if kind != "view" and not name.startswith((OWN_PREFIX, "sqlite_")) and _is_recordable(name, kind)
        }

    def check_keys(self) -> None:
        """Raises ActionError if a row without a key was written: it would not be in the changeset."""
        for table in self._tables.values():
            if table.nullable_key is None:
                continue
            key, name = _quoted(table.nullable_key), _quoted(table.name)
            if _rows(self._db, f"SELECT 1 FROM {name} WHERE {key} IS NULL LIMIT 1"):  # noqa: S608 - quoted names
                raise ActionError(f"table {table.name} has a row whose primary key is NULL; give it a key")

    def rows(self, changeset: bytes) -> frozenset[Row]:
        """The locks of a changeset; to be asked while its changes are still in the tables."""
        rows: set[Row] = set()
        for change in apsw.Changeset.iter(changeset):
            table = self._tables[change.name]
            known: Sequence[Any] = (change.new if change.old is None else change.old) or ()
            key = [known[i] for i in table.key.columns or ()]
            rows.add(table.key.row(key))
            if change.new is not None:
                rows.update(self._unique_rows(table, change.new, key, inserted=change.old is None))
        return frozenset(rows)

    def misfit(self, changeset: bytes) -> str | None:
        """Why a changeset cannot be applied to the tables as they are now; SQLite would skip such changes
        silently.
        """
        for change in apsw.Changeset.iter(changeset):
            table = self._tables.get(change.name)
            if table is None:
                return f"table {change.name} is gone"
            if change.pk_columns != set(table.key.columns or ()) or change.column_count > len(table.columns):
                return f"table {change.name} has other columns than when the branch was prepared"
        return None

    def _unique_rows(self, table: Table, new: Sequence[Any], key: list[Value], *, inserted: bool) -> list[Row]:
        """The entries of unique indexes that a written row takes."""
        rows = []
        for index in table.uniques:
            if index.columns is None:
                rows.append(Row(index.name))
            elif inserted or any(new[i] is not apsw.no_change for i in index.columns):
                values = [new[i] for i in index.columns]
                if any(value is apsw.no_change for value in values):
                    values = self._stored(table, key, index.columns)
                if None not in values:  # NULLs differ from each other in a unique index
                    rows.append(index.row(values))
        return rows

    def _stored(self, table: Table, key: list[Value], columns: tuple[int, ...]) -> list[Value]:
        what = ", ".join(_quoted(table.columns[i]) for i in columns)
        where = " AND ".join(f"{_quoted(table.columns[i])} = ?" for i in table.key.columns or ())
        found = _rows(self._db, f"SELECT {what} FROM {_quoted(table.name)} WHERE {where}", key)  # noqa: S608 - quoted
        return list(found[0])


def _is_recordable(name: str, kind: str) -> bool:
    if kind in ("virtual", "shadow"):
        raise SchemaError(f"{name} is a virtual table, or part of one: its changes cannot be recorded")
    return True


def _table(db: apsw.Connection, name: str) -> Table:
    info = _rows(db, 'SELECT name, "notnull", pk FROM pragma_table_info(?) ORDER BY cid', (name,))
    columns = tuple(column for column, _, _ in info)
    key = tuple(i for i, (_, _, pk) in enumerate(info) if pk)
    if not key:
        raise SchemaError(f"table {name} has no primary key: changes of its rows cannot be recorded; declare one")
    indexes = {
        index: (origin, partial)
        for index, unique, origin, partial in _rows(
            db, 'SELECT name, "unique", origin, partial FROM pragma_index_list(?)', (name,)
        )
        if unique
    }
    primary = next((index for index, (origin, _) in indexes.items() if origin == "pk"), None)
    nullable = [column for column, notnull, pk in info if pk and not notnull] if primary else []
    if nullable and len(key) > 1:
        raise SchemaError(f"table {name}: declare {', '.join(nullable)} NOT NULL, as parts of its primary key")
    uniques = tuple(
        _unique_index(db, name, index, columns, is_partial=bool(partial))
        for index, (origin, partial) in indexes.items()
        if origin != "pk"
    )
    key_index = _Index(name, key, _key_collations(db, primary, columns, key))
    return Table(name, columns, key_index, uniques, nullable[0] if nullable else None)


def _key_collations(
    db: apsw.Connection, primary: str | None, columns: tuple[str, ...], key: tuple[int, ...]
) -> tuple[str, ...]:
    if primary is None:
        return ("BINARY",) * len(key)  # the rowid
    by_column: dict[str | None, str] = dict(_index_columns(db, primary))
    return tuple(by_column[columns[i]] for i in key)


def _unique_index(db: apsw.Connection, table: str, index: str, columns: tuple[str, ...], *, is_partial: bool) -> _Index:
    parts = _index_columns(db, index)
    if is_partial or any(column not in columns for column, _ in parts):  # an expression, or a generated column
        return _Index(f"{table}.{index}", None)
    names = [str(column) for column, _ in parts]
    positions = tuple(columns.index(name) for name in names)
    return _Index(f"{table}.{'+'.join(names)}", positions, tuple(collation for _, collation in parts))


def _index_columns(db: apsw.Connection, index: str) -> list[tuple[str | None, str]]:
    return _rows(db, "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (index,))


def _folded(value: Value, collation: str) -> Value:
    """A value such that equal under the collation means equal; of an unknown collation, all values are one."""
    match collation.upper():
        case "BINARY":
            return value
        case "NOCASE":
            return value.translate(_LOWER) if isinstance(value, str) else value
        case "RTRIM":
            return value.rstrip(" ") if isinstance(value, str) else value
    return None


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}  # NOCASE folds ASCII only


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _rows(db: apsw.Connection, sql: str, parameters: Sequence[Value] = ()) -> list[Any]:
    return db.execute(sql, tuple(parameters)).fetchall()
