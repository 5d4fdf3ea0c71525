"""`commitd serve`: run one replica of a cluster until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from coordinator.compose import run_replica
from coordinator.config import ClusterConfig, Node, load
from coordinator.errors import ConfigError
from participant import logs
from participant.process import run

__all__ = ["serve"]


def serve(
    config: Annotated[Path, typer.Option(help="The cluster's TOML file.")],
    node: Annotated[str, typer.Option(help="The name of this replica in the file.")],
    log_level: Annotated[logs.Level, typer.Option(case_sensitive=False, help="How much is said.")] = logs.Level.INFO,
) -> None:
    """Run one replica until SIGTERM or SIGINT."""
    loaded = load(config, os.environ)
    chosen = loaded.node(node)
    logs.setup(sys.stderr, level=log_level, node=node)
    try:
        run(_serve(loaded, chosen))
    except ConfigError as error:
        raise ConfigError(str(config), error.mistakes) from error


async def _serve(config: ClusterConfig, node: Node) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_replica(config, node, stop)
