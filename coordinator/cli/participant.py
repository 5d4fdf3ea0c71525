"""`commitd participant`: run the stock participant, a bank on any of the databases, until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from participant import logs
from participant.config import load
from participant.stock import run_stock

__all__ = ["participant"]


def participant(
    config: Annotated[Path, typer.Option(help="The participant's TOML file.")],
    log_level: Annotated[logs.Level, typer.Option(case_sensitive=False, help="How much is said.")] = logs.Level.INFO,
) -> None:
    """Run the stock participant until SIGTERM or SIGINT."""
    loaded = load(config)
    logs.setup(sys.stderr, level=log_level, node=loaded.name)
    run_stock(loaded)
