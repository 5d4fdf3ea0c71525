"""`commitd serve`: run a machine's replicas of a cluster until they are told to stop.

With several shards, one child process for each (`groups.py`); else, or for one shard by itself, in this very process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import structlog
import typer

from coordinator.cli.groups import Groups
from coordinator.compose import refuse_resharded, run_replica, security_of
from coordinator.config import ClusterConfig, Node, load
from coordinator.errors import ConfigError
from participant import logs
from participant.process import run

__all__ = ["serve"]

ORPHANED = 70  # the exit status of who outlives its parent
LAST_WORD_S = 1.0  # for an orphan to log that it is one; nobody may be left to read it
CHILD_GRACE_S = 5.0  # beyond `timing.shutdown_s`, before a child that was told to stop is killed

_log = structlog.get_logger(__name__)


def serve(
    config: Annotated[Path, typer.Option(help="The cluster's TOML file.")],
    node: Annotated[str, typer.Option(help="The name of this machine's node in the file.")],
    shard: Annotated[
        int | None, typer.Option(min=0, help="Only this shard, in this process; else all, a process for each.")
    ] = None,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="End at once, as by kill -9, when standard input ends.")
    ] = False,
    log_level: Annotated[logs.Level, typer.Option(case_sensitive=False, help="How much is said.")] = logs.Level.INFO,
) -> None:
    """Run this machine's replicas until SIGTERM or SIGINT."""
    loaded = load(config, os.environ)
    chosen = loaded.node(node)
    if shard is not None:
        loaded.of_shard(shard)
    alone = loaded.cluster.shards == 1
    logs.setup(sys.stderr, level=log_level, node=node, shard=None if alone else shard)
    if until_eof:
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        if shard is None and not alone:
            refuse_resharded(loaded, chosen)
            security_of(loaded.cluster)  # or every child would stumble over it, again and again
            run(_serve_all(loaded, ("--config", str(config), "--node", node, "--log-level", log_level.value)))
        else:
            run(_serve(loaded, chosen, shard or 0))
    except ConfigError as error:
        raise ConfigError(str(config), error.mistakes) from error


async def _serve(config: ClusterConfig, node: Node, shard: int) -> None:
    await run_replica(config, node, _told_to_stop(), shard)


async def _serve_all(config: ClusterConfig, options: tuple[str, ...]) -> None:
    groups = Groups(config.cluster.shards, options, stop_timeout_s=config.timing.shutdown_s + CHILD_GRACE_S)
    await groups.run(_told_to_stop())


def _told_to_stop() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _end_with_input() -> None:
    """Wait for the end of standard input in a thread, which works also while the event loop does not, and end.

    A replica may be killed at any moment, so nothing is tidied up.
    """
    while os.read(sys.stdin.fileno(), 4_096):
        pass
    end = threading.Timer(LAST_WORD_S, os._exit, (ORPHANED,))
    end.daemon = True
    end.start()
    _log.error("replica.orphaned", why="standard input has ended")
    os._exit(ORPHANED)
