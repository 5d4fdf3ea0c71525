"""`commitd serve`: run one replica of a cluster until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.compose import run_replica
from coordinator.config import ClusterConfig, Node, load
from coordinator.errors import ConfigError
from participant import logs

__all__ = ["run", "serve"]


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


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # optional: not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
