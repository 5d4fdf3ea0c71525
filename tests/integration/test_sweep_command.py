"""`commitd sweep` as a process: what it prints, how it ends, and what it can be watched by."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process

import aiohttp
import asyncpg

from tests.house.tree import ROOT
from tests.support.orphans import NAME, remote
from tests.support.subjects import SUBJECTS

START_TIMEOUT_S = 30.0
NOBODY = "http://127.0.0.1:1"


async def _start(url: str, *arguments: str, databases: str = "") -> Process:
    words = (sys.executable, "-m", "coordinator", "sweep", *arguments)
    env = {**os.environ, "COMMITD_URL": url, "COMMITD_DATABASES": databases}
    return await asyncio.create_subprocess_exec(*words, cwd=ROOT, env=env, stdout=PIPE, stderr=PIPE)


async def _run(url: str, *arguments: str, databases: str = "") -> tuple[int | None, str, str]:
    child = await _start(url, *arguments, databases=databases)
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_it_ends_with_0_when_nothing_is_left_and_with_1_when_something_is(postgres_dsn: str) -> None:
    """The databases may come from the environment, where no list of processes shows a password."""
    async with remote("postgres", postgres_dsn) as (made, shop):
        await shop.prepare("lost", "lost", 3)
        await shop.kill()
        named = f"{NAME}={postgres_dsn}"
        status, shown, _ = await _run(NOBODY, named, "--grace", "0")
        words = shown.splitlines()[1].split()
        assert (status, words[:2], words[-1]) == (1, [NAME, "lost/b1"], "unanswered")
        status, shown, _ = await _run(made.urls["n1"], named, "--grace", "600")
        assert (status, shown.splitlines()[1].split()[-1]) == (0, "young")
        status, shown, _ = await _run(made.urls["n1"], "--grace", "0", "--json", databases=named)
        told = json.loads(shown)
        assert (status, told["ok"]) == (0, True)
        assert [(each["gid"], each["fate"]) for each in told["databases"][0]["branches"]] == [("lost", "aborted")]
        status, shown, _ = await _run(made.urls["n1"], named)
        assert (status, shown.splitlines()[1].split()) == (0, [NAME, "nothing"])


async def test_a_database_that_cannot_be_reached_is_a_line_and_status_1() -> None:
    status, shown, said = await _run(NOBODY, f"{NAME}=postgresql://u:secret@127.0.0.1:1/d")
    assert status == 1
    assert "not swept: cannot connect to the database" in shown
    assert "secret" not in shown + said
    assert "Traceback" not in said


async def test_a_command_line_that_cannot_work_is_refused() -> None:
    status, _, said = await _run(NOBODY, "postgresql://h/d")
    assert (status, said) == (
        1,
        "commitd: write each database as NAME=DATABASE, NAME as the coordinators call the participant\n",
    )
    status, _, said = await _run(NOBODY, f"{NAME}=x.db", "--metrics-port", "0")
    assert (status, "needs --every" in said) == (2, True)


async def _metrics(child: Process) -> str:
    """What it serves, once it has ended a round."""
    assert child.stderr is not None
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while True:
            line = json.loads(await child.stderr.readline())
            if line["event"] == "sweep.serving":
                break
        while True:
            async with session.get(line["url"]) as response:
                text = await response.text()
            if "commitd_sweep_rounds_total 0.0" not in text:
                return text
            await asyncio.sleep(0.05)


async def test_one_that_goes_on_serves_metrics_and_ends_when_it_is_told_to(postgres_dsn: str, mariadb_dsn: str) -> None:
    async with SUBJECTS["mariadb"](mariadb_dsn).open():
        pass
    async with remote("postgres", postgres_dsn) as (made, shop):
        await shop.prepare("lost", "lost", 3)
        await shop.kill()
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute("BEGIN; INSERT INTO numbers VALUES ('x', 1); PREPARE TRANSACTION 'other'")
        await connection.close()
        databases = f"{NAME}={postgres_dsn} hall={mariadb_dsn} gone=postgresql://127.0.0.1:1/d"
        child = await _start(
            made.urls["n1"],
            *("--grace", "0", "--foreign-max-age", "0", "--every", "60", "--metrics-port", "0"),
            databases=databases,
        )
        text = await _metrics(child)
        child.send_signal(signal.SIGTERM)
        _, said = await child.communicate()
        assert child.returncode == 0, said
    assert f'commitd_sweep_finished_total{{database="{NAME}",outcome="aborted"}} 1.0' in text
    assert f'commitd_prepared{{database="{NAME}",owner="ours"}} 0.0' in text
    assert f'commitd_prepared{{database="{NAME}",owner="foreign"}} 1.0' in text
    assert 'commitd_prepared_oldest_seconds{database="hall",owner="ours"} 0.0' in text
    assert re.search(rf'commitd_prepared_oldest_seconds{{database="{NAME}",owner="foreign"}} \d', text)
    assert 'commitd_sweep_errors_total{database="gone"} 1.0' in text
    assert 'commitd_prepared{database="gone"' not in text, "of what was not seen, nothing is said"
    events = [json.loads(line)["event"] for line in said.decode().splitlines()]
    assert {"sweep.unreachable", "sweep.foreign"} <= set(events)
