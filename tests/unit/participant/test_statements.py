"""What is remembered of the statements that actions run."""

from __future__ import annotations

import pytest

from participant.errors import ActionError
from participant.rm.server.statements import REMEMBERED_CHARS_MAX, Statement, not_for_an_action, remembered


class Looks:
    """Counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, sql: str) -> Statement:
        self.count += 1
        if sql.startswith("COMMIT"):
            raise not_for_an_action("commit", "do not")
        return Statement(writes=sql.startswith("UPDATE"), soils=False)


def test_a_statement_is_looked_at_once() -> None:
    looks = Looks()
    check = remembered(looks)
    assert [check(sql).writes for sql in ("UPDATE a", "SELECT 1", "UPDATE a", "SELECT 1")] == [True, False] * 2
    assert looks.count == 2


def test_what_is_refused_is_refused_again() -> None:
    check = remembered(Looks())
    for _ in range(2):
        with pytest.raises(ActionError, match="not for an action"):
            check("COMMIT")


def test_a_long_one_is_not_kept() -> None:
    looks = Looks()
    check = remembered(looks)
    for _ in range(2):
        assert check("UPDATE " + "a" * REMEMBERED_CHARS_MAX).writes
    assert looks.count == 2
