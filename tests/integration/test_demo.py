"""The demo as a newcomer meets it: one command, real processes, `kill -9`, and books that are right afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

DEMO_TIMEOUT_S = 150.0
GONE_TIMEOUT_S = 10.0
POLL_S = 0.02
LINES = 240


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its directory. Every process of the demo can be told by it.

    It is started in a directory of a user who calls a package as one of ours. Seen red without `-P` for its processes.
    """
    theirs = tmp_path / "theirs"
    (theirs / "participant").mkdir(parents=True)
    (theirs / "participant" / "__init__.py").write_text("raise SystemExit('not ours')\n", encoding="utf-8")
    monkeypatch.chdir(theirs)
    with tempfile.TemporaryDirectory(prefix="commitd-test-") as folder:
        Path(folder).chmod(
            0o711
        )  # root runs the databases' servers as other users, whom pytest's own does not let pass
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A file of one's own: mostly good lines, one of each kind of bad."""
    file = tmp_path / "few.csv"
    names = [f"bob-{number}" for number in range(2, 21)]
    lines = [f"{names[i % 19]}@bank-a,smith@bank-b,0.{1 + i % 99:02}" for i in range(LINES - 3)]
    lines[100:100] = ["bob@bank-a,nobody@bank-b,1", "bob@bank-a,smith@bank-b,5000", "bob@bank-a,smith@bank-b,much"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def heed_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so would the demo when the tests run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def demo(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "coordinator",
        "demo",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process, words: bytes) -> None:
    """Wait until the demo has told that."""
    assert process.stderr is not None
    async with asyncio.timeout(DEMO_TIMEOUT_S):
        while words not in (line := await process.stderr.readline()):
            assert line, "the demo ended before that"


def processes_of(place: Path) -> list[int]:
    """The processes whose command line names a file of a demo below `place`, or which work there."""
    found = []
    theirs = f"{place}/commitd-demo-"
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                said = (entry / "cmdline").read_bytes().decode(errors="replace")
                if theirs in said or str((entry / "cwd").readlink()).startswith(theirs):
                    found.append(int(entry.name))
            except OSError:  # it ended meanwhile
                continue
    return found


def left_in(place: Path, file: str = "") -> list[Path]:
    """What there is of `file` in directories that demos have made, or those directories."""
    return list(place.glob(f"commitd-demo-*/{file}"))


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - other processes set no events of ours
            await asyncio.sleep(POLL_S)


@pytest.mark.timeout(180)
async def test_the_shipped_transfers_end_right_under_all_faults(place: Path) -> None:
    """Goal: every line accounted for, nothing undecided, books right, nothing left behind."""
    async with demo("--json") as process:
        out, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 0, err.decode()
    result = json.loads(out.decode().splitlines()[-1])
    assert result["ok"] is True
    assert result["audit"] == {"conserved": True, "answers_match": True, "in_doubt": 0}
    assert result["deciding"] == 0
    assert result["transfers"] == result["committed"] + result["aborted"] + result["rejected"] == 2_400
    kinds = sorted(fault["kind"] for fault in result["faults"])
    assert kinds == ["kill-bank"] * 2 + ["kill-leader"] * 3 + ["pause-leader"]
    assert b"--seed" in err
    assert processes_of(place) == []
    assert left_in(place) == []


@pytest.mark.timeout(180)
async def test_so_they_do_with_two_shards(place: Path, few: Path) -> None:
    """Goal: the same, with a process for each shard on each node; every fault that strikes a leader says of which."""
    async with demo("--json", "--shards", "2", "--transfers", str(few)) as process:
        out, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 0, err.decode()
    result = json.loads(out.decode().splitlines()[-1])
    assert result["audit"] == {"conserved": True, "answers_match": True, "in_doubt": 0}
    assert result["transfers"] == result["committed"] + result["aborted"] + result["rejected"] == LINES
    assert {fault["shard"] for fault in result["faults"] if "leader" in fault["kind"]} <= {0, 1}
    assert b"the leaders of 2 shards: " in err
    assert processes_of(place) == []
    assert left_in(place) == []


@pytest.mark.timeout(180)
async def test_so_they_do_on_database_servers_that_are_killed(place: Path, few: Path) -> None:
    """Goal: the same, with a PostgreSQL and a MariaDB below the banks; each is killed once, and comes back."""
    async with demo("--json", "--banks", "postgres,mariadb", "--transfers", str(few)) as process:
        out, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 0, err.decode()
    result = json.loads(out.decode().splitlines()[-1])
    assert result["audit"] == {"conserved": True, "answers_match": True, "in_doubt": 0}
    assert result["transfers"] == result["committed"] + result["aborted"] + result["rejected"] == LINES
    assert result["faults_by_kind"] == {"kill-leader": 3, "kill-bank": 2, "kill-database": 2, "pause-leader": 1}
    assert {fault["target"] for fault in result["faults"] if fault["kind"] == "kill-database"} == {"bank-a", "bank-b"}
    assert b"kill -9 of bank-a's postgres" in err
    assert b"kill -9 of bank-b's mariadb" in err
    assert processes_of(place) == []
    assert left_in(place) == []


@pytest.mark.timeout(180)
async def test_what_a_server_still_holds_prepared_is_found(place: Path, few: Path) -> None:
    """Goal: the audit asks the server itself: what no bank lists is found as well.

    Method: another hand prepares a transaction that is nobody's branch, while the demo runs.
    """
    async with demo("--banks", "sqlite,postgres", "--transfers", str(few)) as process:
        await said(process, b"accounts are open")
        (config,) = left_in(place, "bank-b.toml")
        url = tomllib.loads(config.read_text(encoding="utf-8"))["database"]
        stranger = await asyncpg.connect(url)
        await stranger.execute("BEGIN; CREATE TABLE strange (x int); PREPARE TRANSACTION 'stranger'")
        await stranger.close()
        out, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 1, err.decode()
    assert "still prepared: stranger in the postgres of bank-b" in " ".join(out.decode().split())
    assert processes_of(place) == []


@pytest.mark.parametrize(
    ("kinds", "complaint"),
    [
        ("postgres", "one for each of the 2 banks"),
        ("sqlite,sqlite,sqlite", "one for each of the 2 banks"),
        ("sqlite,oracle", "'sqlite,oracle': of sqlite, postgres, mariadb"),
    ],
)
async def test_banks_that_there_are_not_are_a_wrong_command_line(place: Path, kinds: str, complaint: str) -> None:
    async with demo("--banks", kinds) as process:
        _, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 2
    assert complaint in " ".join(err.decode().replace("│", " ").split())
    assert left_in(place) == []


@pytest.mark.timeout(180)
async def test_books_that_somebody_falsified_are_found(place: Path, few: Path) -> None:
    """Goal: the audit can fail, says what is wrong, ends with status 1, and keeps the evidence.

    Method: a file of the user's own; another hand takes a cent from an account that no transfer names, while the
    demo runs.
    """
    async with demo("--transfers", str(few)) as process:
        await said(process, b"accounts are open")
        (book,) = left_in(place, "bank-a.db")
        with sqlite3.connect(book, timeout=20.0) as thief:
            thief.execute("UPDATE accounts SET balance = balance - 1 WHERE account = 'judy'")
        thief.close()
        out, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 1
    shown = " ".join(out.decode().split())
    assert "judy@bank-a holds 19999 cents; its transfers make 20000" in shown
    assert "money is not conserved" in shown
    assert "unknown account" in shown
    assert "insufficient funds" in shown
    assert "line 103: amount: 'much' is no amount" in shown
    assert b"is kept in" in err
    assert len(left_in(place, "n1.log")) == 1
    assert processes_of(place) == []


@pytest.mark.parametrize(
    ("number", "kinds", "processes"),
    [
        (signal.SIGKILL, "sqlite,sqlite", 5),
        (signal.SIGINT, "sqlite,sqlite", 5),
        (signal.SIGTERM, "sqlite,sqlite", 5),
        (signal.SIGKILL, "postgres,mariadb", 7),
        (signal.SIGINT, "postgres,mariadb", 7),
    ],
)
@pytest.mark.timeout(120)
async def test_no_process_outlives_the_demo(place: Path, number: signal.Signals, kinds: str, processes: int) -> None:
    """Goal: however the demo ends, its processes end. Seen red for SIGKILL without the parent-death signal."""
    async with demo("--banks", kinds) as process:
        await until(lambda: len(processes_of(place)) >= processes, DEMO_TIMEOUT_S)
        await said(process, b"accounts are open")
        process.send_signal(number)
        await asyncio.wait_for(process.communicate(), GONE_TIMEOUT_S)
        await until(lambda: processes_of(place) == [], GONE_TIMEOUT_S)
    assert process.returncode != 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        (b"bob@bank-a,smith@bank-b,1\n\xff\n", "line 2 is not UTF-8"),
        (b"bob@bank-a;smith@bank-b;1\n", "no line is a transfer"),
        (b"", "no line is a transfer"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_before_anything_starts(
    place: Path, content: bytes | None, complaint: str
) -> None:
    """Goal: one line that says what is wrong with which file; no directory, no process."""
    file = place / "mine.csv"
    if content is not None:
        file.write_bytes(content)
    async with demo("--transfers", str(file)) as process:
        _, err = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)
    assert process.returncode == 1
    assert complaint in err.decode()
    assert str(file) in err.decode()
    assert left_in(place) == []
