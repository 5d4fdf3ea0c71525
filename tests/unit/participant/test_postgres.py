"""What of the PostgreSQL resource manager needs no server: names, and the statements that are not for an action."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from participant.branch import Branch
from participant.errors import ActionError, ConfigError
from participant.ids import BranchKey
from participant.rm.postgres import PostgreSQL
from participant.rm.postgres.names import Names
from participant.rm.postgres.transaction import check_statement
from participant.rm.server.statements import Statement
from participant.values import DIGEST_BYTES
from participant.wire import BranchState

IDS = st.text("ABCabc019_.:-", min_size=1, max_size=64)
NAME_BYTES_MAX = 199  # PostgreSQL, PREPARE TRANSACTION


@given(IDS, IDS, st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), st.integers(0, 2**32 - 1))
def test_a_name_says_which_branch_it_is(gid: str, branch: str, digest: bytes, oid: int) -> None:
    names = Names(f"{oid}.{oid}")
    name = names.of(Branch(BranchKey(gid, branch), BranchState.PREPARED, digest))
    assert names.read(name) == (BranchKey(gid, branch), digest)
    assert name.startswith(names.of_key(BranchKey(gid, branch)))
    assert len(name.encode()) <= NAME_BYTES_MAX
    assert "'" not in name
    assert "\\" not in name


@pytest.mark.parametrize("name", ["", "commitd/8/g/b/00", "commitd/7/g/b", "commitd/7/g/b/zz", "commitd/7/a b/b/00"])
def test_a_name_of_others_is_nobodys(name: str) -> None:
    assert Names("7").read(name) is None


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "  /* a comment */ -- and another\n commit work",
        "rollback to savepoint x",
        "BEGIN",
        "start transaction",
        "PREPARE TRANSACTION 'x'",
        "savepoint x",
        "SET search_path = other",
        "SET SESSION search_path = other",
        "set transaction isolation level read committed",
        "RESET ALL",
        "SET LOCAL ROLE other",
        "SET LOCAL /**/ role other",
        'SET LOCAL "role" other',
        "SET LOCAL synchronous_commit = off",
        "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "set local session authorization other",
        "LISTEN x",
        "DISCARD ALL",
    ],
)
def test_what_ends_or_outlives_the_transaction_is_not_for_an_action(sql: str) -> None:
    with pytest.raises(ActionError, match="not for an action"):
        check_statement(sql)


@pytest.mark.parametrize(
    ("sql", "statement"),
    [
        ("SELECT 1", Statement(writes=False, soils=False)),
        ("UPDATE commits SET x = 1", Statement(writes=True, soils=False)),
        ("SET LOCAL statement_timeout = 5", Statement(writes=False, soils=False)),
        ("set constraints all immediate", Statement(writes=False, soils=False)),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Statement(writes=False, soils=False)),
        ("/* COMMIT */ SELECT 1", Statement(writes=False, soils=False)),
        ("(SELECT 1)", Statement(writes=False, soils=False)),
        ("", Statement(writes=False, soils=False)),
        ("SELECT set_config('x.y', '1', false)", Statement(writes=False, soils=True)),
        ("select pg_advisory_lock(1)", Statement(writes=False, soils=True)),
        ("CALL work()", Statement(writes=False, soils=True)),
    ],
)
def test_everything_else_is(sql: str, statement: Statement) -> None:
    assert check_statement(sql) == statement


def test_a_comment_in_a_comment_hides_nothing() -> None:
    with pytest.raises(ActionError, match="begins with"):
        check_statement("/* /* */ */ COMMIT")


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(ConfigError, match="isolation: must be"):
        PostgreSQL("postgresql://", isolation="read committed")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="connections_max: must be at least 1, not 0"):
        PostgreSQL("postgresql://", connections_max=0)
