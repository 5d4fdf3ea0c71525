"""What of the MariaDB resource manager needs no server: names, and the statements that are not for an action."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from participant.errors import ActionError, ConfigError
from participant.ids import BranchKey
from participant.rm.mariadb import MariaDB
from participant.rm.mariadb.names import Names
from participant.rm.mariadb.transaction import check_statement
from participant.rm.server.statements import Statement

IDS = st.text("ABCabc019_.:-", min_size=1, max_size=64)


@given(IDS, IDS)
def test_an_identifier_says_which_branch_it_is(gid: str, branch: str) -> None:
    names = Names("shop")
    assert names.of(BranchKey(gid, branch)) == f"'{gid}','{branch}',{names.format_id}"
    assert 0 < names.format_id < 2**31
    assert names.read(names.format_id, len(gid), len(branch), gid + branch) == BranchKey(gid, branch)
    assert names.read(names.format_id, len(gid), len(branch), (gid + branch).encode()) == BranchKey(gid, branch)
    assert Names("bank").read(names.format_id, len(gid), len(branch), gid + branch) is None


@pytest.mark.parametrize("row", [(0, 1, "b"), (1, 0, "g"), (1, 1, b"g\xff"), (1, 1, "g'")])
def test_an_identifier_of_others_is_nobodys(row: tuple[int, int, str | bytes]) -> None:
    names = Names("shop")
    assert names.read(names.format_id, *row) is None
    assert names.read(1, 1, 1, "gb") is None


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "/* a comment */ -- and another\n # and one more\n xa end 'g','b'",
        "rollback to savepoint x",
        "BEGIN",
        "SET autocommit = 1",
        "CREATE TEMPORARY TABLE t (x INT)",
        "TRUNCATE t",
        "LOCK TABLES t WRITE",
        "USE other",
    ],
)
def test_what_ends_or_outlives_the_transaction_is_not_for_an_action(sql: str) -> None:
    with pytest.raises(ActionError, match="not for an action"):
        check_statement(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; COMMIT",
        "UPDATE t SET x = 'it''s'; XA END 'g','b'",
        "SELECT 'a\\'; b'; COMMIT",
        'SELECT "\\"; COMMIT',
        "SELECT 5--1; UPDATE t SET x = 1",
        "SELECT 1 /*! ; COMMIT */",
        "SELECT 1 /*M! , 2 */",
        "/*! COMMIT */",
    ],
)
def test_nothing_hides_behind_a_statement(sql: str) -> None:
    with pytest.raises(ActionError):
        check_statement(sql)


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("SELECT ';' FROM t WHERE x = \"a;b\" AND `y;z` = 'it''s; \\'ok\\''", Statement(writes=False, soils=False)),
        ("SELECT 1 -- ; COMMIT\n + 1;", Statement(writes=False, soils=False)),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Statement(writes=True, soils=False)),
        ("(SELECT 1)", Statement(writes=True, soils=False)),
        ("UPDATE commits SET x = 1", Statement(writes=True, soils=False)),
        ("SELECT GET_LOCK('x', 1)", Statement(writes=False, soils=True)),
        ("SELECT @x := 1", Statement(writes=False, soils=True)),
        ("CALL work()", Statement(writes=True, soils=True)),
    ],
)
def test_everything_else_is(sql: str, statement: Statement) -> None:
    assert check_statement(sql) == statement


@pytest.mark.parametrize(
    "dsn", ["postgresql://host/database", "mariadb://host", "mariadb://host/", "mariadb:///x", "mariadb://h/d?a=b"]
)
def test_what_is_no_dsn_is_said(dsn: str) -> None:
    with pytest.raises(ConfigError, match="dsn: must be mariadb://user:password@host:port/database"):
        MariaDB(dsn)


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(ConfigError, match="connections_max: must be at least 1, not 0"):
        MariaDB("mariadb://root@127.0.0.1/x", connections_max=0)
