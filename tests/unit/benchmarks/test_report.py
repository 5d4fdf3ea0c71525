"""What the benchmarks promise to whoever reads their output: a table, and one JSON object on the last line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bank import Heard
from benchmarks.harness import Options, Report, options
from benchmarks.timed import Step
from benchmarks.waterfall import BAR_WIDTH, bar, whole
from coordinator.demo.accounts import BANKS
from coordinator.wire import Outcome

CALLS = [(verb, bank) for verb in ("prepare", "commit") for bank in BANKS]
STEPS = [("begin", ""), ("decide", ""), ("end", ""), *CALLS]
IN_MEMORY = Path("/dev/shm")  # a tmpfs wherever Linux has it


def test_the_last_line_is_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the report says before. Red when `end` prints nothing, or a table follows it."""
    report = Report("A question", Options(quick=True, json=True, directory=Path("/")))
    report.table(["what", "ms"], [["one", "1"]])
    report.end({"answer": 42})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"answer": 42}


def test_a_table_is_aligned_for_people_and_for_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    """Text to the left, numbers to the right. Red when the widths come from the headers alone."""
    report = Report("A question", Options(quick=True, json=False, directory=Path("/")))
    report.table(["operation", "ms"], [["a", "1,000.00"], ["a longer one", "2"]])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| operation    |       ms |",
        "| ------------ | -------: |",
        "| a            | 1,000.00 |",
        "| a longer one |        2 |",
        "",
    ]


@pytest.mark.skipif(not IN_MEMORY.is_dir(), reason="this machine has no directory that is surely in memory")
def test_a_directory_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sync costs nothing there, so every ratio would be wrong. Red when the kind of file system is not asked for."""
    monkeypatch.setattr("sys.argv", ["log", "--directory", str(IN_MEMORY)])
    with pytest.raises(SystemExit) as end:
        options("a benchmark")
    assert end.value.code == 2
    assert "choose another with --directory" in capsys.readouterr().err


def test_only_transactions_seen_whole_are_taken_apart() -> None:
    """One whose end never came has no place in a median. Red when `whole` lets the second one through."""
    heard = [Heard(gid, 0.0, 1.0, Outcome.COMMITTED, "") for gid in ("whole", "endless")]
    steps = [Step(what, "whole", branch, 0.1, 0.2) for what, branch in STEPS]
    steps += [Step(what, "endless", branch, 0.1, 0.2) for what, branch in STEPS if what != "end"]
    assert [taken.heard.gid for taken in whole(heard, steps)] == ["whole"]


@pytest.mark.parametrize(
    ("begun", "ended", "drawn"),
    [
        (0.0, 10.0, "#" * BAR_WIDTH),
        (5.0, 10.0, "." * (BAR_WIDTH // 2) + "#" * (BAR_WIDTH // 2)),
        (5.0, 5.0, "." * (BAR_WIDTH // 2) + "#" + "." * (BAR_WIDTH // 2 - 1)),
        (9.0, 25.0, "." * (BAR_WIDTH - BAR_WIDTH // 10) + "#" * (BAR_WIDTH // 10)),
        (11.0, 12.0, "later"),
    ],
)
def test_a_bar_ends_where_the_client_hears_the_answer(begun: float, ended: float, drawn: str) -> None:
    """On a scale of 10 ms. Red when the bar is not cut at the scale's end."""
    assert bar(begun, ended, 10.0) == drawn
