"""The parent of a machine's shards: one child process for each, `commitd serve --shard K`.

Owns: starting a child, starting it again when it has died, ending all of them. The failure of one never touches the
others. Must never do: open the log, or answer anybody.

However this process ends, its children do: each has the reading end of a pipe as its standard input, and ends with it
(`--until-eof`). They stay in this process's group, so that a signal to the group, such as Ctrl-C, reaches all at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress

import structlog

__all__ = ["RESTART_MAX_S", "RESTART_MIN_S", "STEADY_S", "Groups", "pause_s"]

RESTART_MIN_S = 0.25  # the pause before a child is started again; it doubles with each death ...
RESTART_MAX_S = 10.0  # ... up to here
STEADY_S = 30.0  # a child that lived so long begins anew with the shortest pause

_log = structlog.get_logger(__name__)


def pause_s(deaths: int) -> float:
    """The pause after so many deaths (from 1) that followed each other closely."""
    return min(RESTART_MAX_S, RESTART_MIN_S * 2.0 ** min(deaths - 1, 32))


class Groups:
    """`shards` children, each with `options` of `commitd serve`. Who does not stop in `stop_timeout_s` is killed."""

    def __init__(self, shards: int, options: Sequence[str], *, stop_timeout_s: float) -> None:
        self._shards = shards
        self._options = tuple(options)
        self._stop_timeout_s = stop_timeout_s

    async def run(self, stop: asyncio.Event) -> None:
        """Keep every child alive until `stop` is set, then stop them all."""
        async with asyncio.TaskGroup() as group:
            for shard in range(self._shards):
                group.create_task(self._keep(shard, stop), name=f"shard {shard}")

    async def _keep(self, shard: int, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while not stop.is_set():
            began_at_s = loop.time()
            try:
                why = f"it ended with status {await self._live(shard, stop)}"
            except OSError as error:
                why = f"it cannot be started: {error}"
            if stop.is_set():
                _log.info("group.stopped", shard=shard, why=why)
                return
            deaths = 1 if loop.time() - began_at_s >= STEADY_S else deaths + 1
            _log.error("group.died", shard=shard, why=why, again_in_s=pause_s(deaths))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s(deaths)):
                    await stop.wait()

    async def _live(self, shard: int, stop: asyncio.Event) -> int:
        """One life of a child, to its end or to that of this process; its exit status."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # also where a directory of our user's is called as one of our packages
            "-m",
            "coordinator",
            "serve",
            *self._options,
            "--shard",
            str(shard),
            "--until-eof",
            stdin=asyncio.subprocess.PIPE,
        )
        _log.info("group.starts", shard=shard, pid=child.pid)
        ended, asked = asyncio.ensure_future(child.wait()), asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                child.terminate()
                await asyncio.wait((ended,), timeout=self._stop_timeout_s)
            return await ended if ended.done() else await self._kill(child)
        finally:
            asked.cancel()
            ended.cancel()
            if child.returncode is None:
                child.kill()

    async def _kill(self, child: asyncio.subprocess.Process) -> int:
        child.kill()
        return await child.wait()
