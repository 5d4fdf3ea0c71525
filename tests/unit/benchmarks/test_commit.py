"""What the commit path's benchmark concludes from what it saw: verdicts, windows, counts and sums."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from math import inf
from pathlib import Path
from random import Random

import apsw
import pytest

from benchmarks.cases import ALONE, CLASSIC, MANY, NO_OP, TRANSFER, Case, Maker, over, questions
from benchmarks.clients import Answers, Script, Style, Work
from benchmarks.goals import GOALS, Goal
from benchmarks.measuring import Measured
from benchmarks.services import CHECKPOINT_PAGES, CHECKPOINT_SYNCS, Syncs
from benchmarks.spending import cpu_s, resident_bytes

KEYS_IN_JSON = {
    "staged_over_floor",
    "staged_over_classic",
    "noop_per_s",
    "sqlite_transfers_per_s",
    "over_handwritten",
    "syncs_per_transaction",
    "bytes_per_open_transaction",
}


@pytest.mark.parametrize(
    ("at_most", "measured", "verdict"),
    [
        (True, 2.0, "met"),
        (True, 3.0, "not met: 1.50 times the goal"),
        (False, 2.0, "met"),
        (False, 1.0, "not met: 50% of the goal"),
        (True, inf, "not met"),
    ],
)
def test_a_verdict_says_by_how_much_a_goal_is_missed(at_most: bool, measured: float, verdict: str) -> None:
    """The bound itself is met, from either side. Red when the comparison is strict, or the wrong way round."""
    assert Goal("key", "a figure", 2.0, at_most, "{:.1f}").verdict(measured) == verdict


def test_every_figure_that_readers_of_the_json_rely_on_has_a_goal() -> None:
    """Red when a key is renamed."""
    assert {goal.key for goal in GOALS} >= KEYS_IN_JSON


@pytest.mark.parametrize("quick", [True, False])
def test_every_run_measures_what_the_goals_are_about(quick: bool) -> None:
    """A quick run leaves cases out, but none of these. Red when the quick list drops the classic path."""
    asked = {case for question in questions(quick) for case in question.rows.values()}
    by_hand = Case(TRANSFER, MANY, Maker.BY_HAND)
    assert asked >= {Case(NO_OP, ALONE), Case(CLASSIC, ALONE), Case(NO_OP, MANY), Case(TRANSFER, MANY), by_hand}


def test_only_answers_within_the_window_count() -> None:
    """Warming up and running out are not measured. Red when `between` takes the answer at 3 s in."""
    answers = Answers()
    for ended in (0.9, 1.0, 2.0, 3.0):
        answers.ended_at_s.append(ended)
        answers.latencies_s.append(ended / 10)
    assert answers.between(1.0, 3.0) == [0.1, 0.2]


def _measured(per_s: float) -> Measured:
    return Measured(per_s, 1.0, 1.0, 1.0, {}, 0.1, 0.0, 0)


def test_a_ratio_is_taken_within_each_round() -> None:
    """So that a slow minute slows both down. Red when the medians are divided: 20 / 2 would be 10."""
    ours, theirs = Case(TRANSFER, MANY), Case(TRANSFER, MANY, Maker.BY_HAND)
    rounds = {ours: [_measured(n) for n in (8, 20, 40)], theirs: [_measured(n) for n in (1, 2, 10)]}
    assert over(rounds, ours, theirs, lambda seen: seen.per_s) == 8


def test_a_client_writes_a_row_again_only_when_it_has_written_all_of_its_own() -> None:
    """A row of the transaction before may still be locked. Red when the serial number is left out of the key."""
    script = Script(Work(Style.PUT, ("a", "b"), branches=4, rows=3), Random(1))
    transactions = script.transactions(client=7)
    keys = [[branch.body["key"] for branch in next(transactions)] for _ in range(4)]
    assert len({key for transaction in keys[:3] for key in transaction}) == 3 * 4
    assert keys[3] == keys[0]


def test_sqlite_syncs_are_counted_as_its_log_makes_them(tmp_path: Path) -> None:
    """One for each commit, and those of the checkpoint that the hook makes in the place of SQLite's own.

    Red when the hook makes no checkpoint: the log then grows without end.
    """
    syncs, in_log, db = Syncs(), [0], apsw.Connection(str(tmp_path / "data.db"))

    def hook(db: apsw.Connection, name: str, pages: int) -> int:
        in_log.append(pages)
        return syncs.committed(db, name, pages)

    db.execute(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
    ).fetchall()
    db.set_wal_hook(hook)
    for _ in range(10):
        db.execute("INSERT INTO t (b) VALUES (?)", ("small",))
    assert syncs.count == 10
    db.execute("INSERT INTO t (b) VALUES (?)", ("x" * 4_096 * CHECKPOINT_PAGES,))
    assert syncs.count == 11 + CHECKPOINT_SYNCS
    db.execute("INSERT INTO t (b) VALUES (?)", ("small",))
    assert in_log[-2] >= CHECKPOINT_PAGES > in_log[-1]
    db.close()


def test_syncs_of_python_code_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And still made: a bad descriptor is noticed. Red when the counter forgets to call what it stands for."""
    syncs = Syncs()
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, getattr(os, name))  # put back at the end
    syncs.count_python()
    with (tmp_path / "file").open("wb") as file:
        force: Callable[[int], None]
        for force in (os.fdatasync, os.fsync):
            force(file.fileno())
    assert syncs.count == 2
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(9_999)


def test_what_a_process_spends_is_read_from_the_kernel() -> None:
    """CPU of all its threads, and memory. Red when the fields are counted from the wrong side of the name."""
    busy = subprocess.Popen(["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read wait"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        spent_s, resident = cpu_s([busy.pid]), resident_bytes(busy.pid)
        busy.communicate(b"go\n", timeout=10)
    assert 0.01 <= spent_s < 60
    assert 100_000 < resident < 100_000_000
