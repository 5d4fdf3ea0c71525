"""The audit finds every kind of wrong. Each test starts from right books and breaks one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from coordinator.demo.audit import Entry, Evidence, audit
from coordinator.demo.transfers import Account, Transfer
from coordinator.wire import Outcome
from participant.wire import BranchState

BOB, SMITH = Account("bank-a", "bob"), Account("bank-b", "smith")
PAID = Transfer(2, BOB, SMITH, 30_00)
REFUSED = Transfer(3, SMITH, BOB, 999_00)
YES, NO = Entry(Outcome.COMMITTED, finished=True), Entry(Outcome.ABORTED, finished=True)
LEDGER = {PAID.gid: YES, REFUSED.gid: NO}
ROWS_A = {PAID.debit: BranchState.COMMITTED, REFUSED.credit: BranchState.ABORTED}
ROWS_B = {PAID.credit: BranchState.COMMITTED, REFUSED.debit: BranchState.UNKNOWN}
RIGHT = Evidence(
    opening={BOB: 100_00, SMITH: 100_00},
    answers={PAID: Outcome.COMMITTED, REFUSED: Outcome.ABORTED},
    ledgers={"n1": LEDGER, "n2": LEDGER},
    branches={"bank-a": ROWS_A, "bank-b": ROWS_B},
    balances={BOB: 70_00, SMITH: 130_00},
    in_doubt=(),
)


def test_right_books_are_found_right() -> None:
    """Goal: no false alarm. A branch that the prepare never reached is unknown to its bank, which is right."""
    verdict = audit(RIGHT)
    assert verdict.findings == ()
    assert (verdict.ok, verdict.conserved, verdict.answers_match, verdict.in_doubt) == (True, True, True, 0)


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        ({"balances": {BOB: 70_00, SMITH: 130_01}}, "money is not conserved: 20000 cents became 20001"),
        ({"balances": {BOB: 100_00, SMITH: 100_00}}, "bob@bank-a holds 10000 cents; its transfers make 7000"),
        ({"balances": {BOB: 200_00}}, "smith@bank-b holds None cents"),
    ],
)
def test_money_that_is_not_where_it_belongs_is_found(broken: Mapping[str, Any], finding: str) -> None:
    """Goal: a cent too much, a transfer that was answered and not booked, an account that is gone."""
    verdict = audit(replace(RIGHT, **broken))
    assert not verdict.conserved
    assert any(finding in line for line in verdict.findings)


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        ({"ledgers": {"n1": LEDGER, "n2": LEDGER | {PAID.gid: NO}}}, "in the ledger of n2 it is aborted"),
        ({"ledgers": {"n1": {PAID.gid: YES}, "n2": LEDGER}}, "in the ledger of n1 it is not recorded"),
        (
            {"branches": {"bank-a": ROWS_A, "bank-b": ROWS_B | {PAID.credit: BranchState.ABORTED}}},
            "line-2/to: its client heard committed, bank-b says aborted",
        ),
        (
            {"branches": {"bank-a": ROWS_A | {REFUSED.credit: BranchState.COMMITTED}, "bank-b": ROWS_B}},
            "line-3/to: its client heard aborted, bank-a says committed",
        ),
        ({"branches": {"bank-a": ROWS_A}}, "line-2/to: its client heard committed, bank-b says nothing"),
        ({"answers": {PAID: Outcome.COMMITTED, REFUSED: Outcome.DECIDING}}, "line-3: its client heard deciding"),
    ],
)
def test_an_answer_that_is_not_true_everywhere_is_found(broken: Mapping[str, Any], finding: str) -> None:
    """Goal: one replica or one bank that says something else than the client heard."""
    verdict = audit(replace(RIGHT, **broken))
    assert not verdict.answers_match
    assert any(finding in line for line in verdict.findings)


@pytest.mark.parametrize(
    "broken",
    [
        {"in_doubt": ("line-2/to at bank-b",)},
        {"ledgers": {"n1": LEDGER, "n2": LEDGER | {PAID.gid: Entry(Outcome.COMMITTED, finished=False)}}},
    ],
)
def test_what_is_left_in_doubt_is_counted(broken: Mapping[str, Any]) -> None:
    """Goal: a branch that is still prepared, a record whose branches have not all confirmed."""
    verdict = audit(replace(RIGHT, **broken))
    assert verdict.in_doubt == 1
    assert not verdict.ok
