"""The processes that tests fork: none is left behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.house.tree import ROOT
from tests.integration.test_shards import is_alive

GONE_WITHIN_S = 10.0

_STARTER = """
import asyncio, sys
from pathlib import Path
from tests.support.forks import ForkedCluster

async def main():
    async with ForkedCluster(Path(sys.argv[1]), ["n1"], []) as cluster:
        print(cluster.processes["n1"].pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_they_die_with_who_has_started_them(tmp_path: Path) -> None:
    """By `kill -9`. Seen red: each kept the process alive that it was forked from, and that was its parent."""
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _STARTER, str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    pid = int(await starter.stdout.readline())
    assert is_alive(pid)
    starter.kill()
    await starter.wait()
    async with asyncio.timeout(GONE_WITHIN_S):
        while is_alive(pid):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
