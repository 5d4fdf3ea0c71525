"""`commitd config`: look at a configuration before a process stumbles over it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.compose import notifier_of, security_of
from coordinator.config import is_participant, load
from coordinator.errors import ConfigError
from participant.config import load as load_participant

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at a configuration.")


@app.callback()
def config() -> None:
    """Look at a configuration."""


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The TOML file of a cluster or of a participant.")]) -> None:
    """Check a configuration with its `COMMITD_…` variables and files, and name each mistake with its key."""
    if is_participant(file):
        said = f"participant {load_participant(file).name}"
    else:
        checked = load(file, os.environ)
        try:
            security_of(checked.cluster)
            notifier_of(checked)
        except ConfigError as error:
            raise ConfigError(str(file), error.mistakes) from error
        shards = f"{checked.cluster.shards} shards, " if checked.cluster.shards > 1 else ""
        nodes, participants = len(checked.nodes), len(checked.participants)
        said = f"cluster {checked.cluster.id}, {shards}{nodes} nodes, {participants} participants"
    Console(soft_wrap=True, highlight=False, markup=False).print(f"{file}: ok: {said}")
