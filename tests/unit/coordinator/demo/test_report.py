"""What the demo says at the end."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from coordinator.demo.audit import Verdict
from coordinator.demo.faults import FaultKind
from coordinator.demo.report import LISTED_MAX, ok, summary, table
from coordinator.demo.run import Result
from coordinator.demo.strike import Struck
from coordinator.demo.transfers import Account, Rejection, Transfer, TransferFile
from coordinator.demo.workload import Heard
from coordinator.wire import Outcome

PAID = Transfer(2, Account("bank-a", "bob"), Account("bank-b", "smith"), 30_00)
REFUSED = replace(PAID, line=3)
RESULT = Result(
    file=TransferFile((PAID, REFUSED), (Rejection(4, "[red]?", "from: '[red]?' is no account"),)),
    heard=(
        Heard(PAID, Outcome.COMMITTED, "", begun_at_s=10.0, ended_at_s=10.02),
        Heard(REFUSED, Outcome.ABORTED, "unknown account '[x]'", begun_at_s=10.0, ended_at_s=12.0),
    ),
    struck=(Struck(FaultKind.KILL_LEADER, "n2", at_s=9.5, healed_at_s=10.01),),
    verdict=Verdict(conserved=True, answers_match=True, in_doubt=0, findings=()),
    took_s=30.0,
)


def printed(result: Result) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_json_object_has_exactly_these_keys() -> None:
    """Goal: programs that read it need no second look; every line of the file is in one of the four counts."""
    assert summary(RESULT) == {
        "transfers": 3,
        "committed": 1,
        "aborted": 1,
        "rejected": 1,
        "deciding": 0,
        "faults": [{"kind": "kill-leader", "target": "n2", "gap_ms": 520.0}],
        "faults_by_kind": {"kill-leader": 1},
        "latency_ms": {"p50": 20.0, "p99": 2000.0},
        "audit": {"conserved": True, "answers_match": True, "in_doubt": 0},
        "ok": True,
    }


def test_faults_are_counted_by_kind() -> None:
    """Goal: one line says what the books have survived."""
    database = Struck(FaultKind.KILL_DATABASE, "bank-a", at_s=11.0, healed_at_s=11.5)
    result = replace(RESULT, struck=(*RESULT.struck, database, replace(database, target="bank-b")))
    assert summary(result)["faults_by_kind"] == {"kill-leader": 1, "kill-database": 2}
    assert "1 kill-leader, 2 kill-database" in printed(result)
    assert "without a commit after kill-database bank-b" in printed(result)


def test_a_finding_or_an_open_question_is_not_ok() -> None:
    """Goal: the exit status follows the books, and nothing may stay undecided."""
    assert ok(RESULT)
    assert not ok(replace(RESULT, verdict=replace(RESULT.verdict, findings=("a cent is gone",))))
    deciding = replace(RESULT.heard[0], outcome=Outcome.DECIDING)
    assert not ok(replace(RESULT, heard=(deciding,)))


def test_the_table_counts_reasons_and_names_lines() -> None:
    """Goal: text of the user's file is shown as it stands, never taken for markup."""
    shown = printed(RESULT)
    assert "unknown account …" in shown
    assert "line 4: from: '[red]?' is no account" in shown
    assert "without a commit after kill-leader n2" in shown


def test_conflicts_are_one_reason_whoever_they_were_with() -> None:
    """On a slow machine there are so many that no other reason had a line left."""
    conflicts = tuple(
        replace(
            RESULT.heard[0], outcome=Outcome.ABORTED, reason=f"conflict: accounts(…) stayed locked by line-{number}"
        )
        for number in range(2 * LISTED_MAX)
    )
    shown = " ".join(printed(replace(RESULT, heard=(*RESULT.heard, *conflicts))).split())
    assert f"{len(conflicts)} conflict: with other transfers" in shown
    assert "unknown account …" in shown


def test_a_long_list_is_cut_and_counted() -> None:
    """Goal: a file full of mistakes does not flood the terminal."""
    rejections = tuple(Rejection(number, "?", "is nothing") for number in range(100))
    shown = printed(replace(RESULT, file=TransferFile((), rejections)))
    assert shown.count("is nothing") == LISTED_MAX
    assert f"and {100 - LISTED_MAX} more" in shown
