"""`commitd failures`: what each protocol survives, played in the simulator."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from coordinator.cli.exits import Exit
from coordinator.cli.render import print_table
from coordinator.cli.stopping import stoppable
from coordinator.failures import report
from coordinator.failures.measures import Cell
from coordinator.failures.play import all_cells, places
from coordinator.failures.protocols import PROTOCOLS
from coordinator.failures.scenarios import SCENARIOS

__all__ = ["SEEDS_MAX", "failures"]

SEEDS_MAX = 10_000
PROCESSES_MAX = 64


def failures(
    seeds: Annotated[int, typer.Option(min=1, max=SEEDS_MAX, help="Runs of each cell; another one draws others.")] = 10,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this one, or these: {', '.join(row.key for row in PROTOCOLS)}."),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this one, or these: {', '.join(row.key for row in SCENARIOS)}."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=PROCESSES_MAX, help="Play in so many processes at once; by default, one a core.")
    ] = min(os.cpu_count() or 1, PROCESSES_MAX),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print it as the documentation shows it, with every claim.")
    ] = False,
) -> None:
    """Play every failure of the textbooks on every protocol, in the simulator, and say what came of it.

    Coordinators, participants and clients are those of production; time, network and disks are simulated. The same
    seeds give the same table. Exit status 1 if something is not as theory says, or as we promise.
    """
    _check(protocol or [], [row.key for row in PROTOCOLS], "--protocol")
    _check(scenario or [], [row.key for row in SCENARIOS], "--scenario")
    cells = _played(protocol or [], scenario or [], seeds, processes)
    if as_json:
        typer.echo(json.dumps(report.document(cells)))
    elif as_markdown:
        typer.echo(report.page(cells), nl=False)
    else:
        print_table(report.table(cells))
    wrong = list(report.failed(cells))
    for line in wrong:
        typer.echo(f"commitd: {line}", err=True)
    if wrong:
        raise typer.Exit(Exit.FAILED)


def _check(named: list[str], known: list[str], option: str) -> None:
    """Raises BadParameter."""
    for key in named:
        if key not in known:
            raise typer.BadParameter(f"{key!r} is none of {', '.join(known)}", param_hint=option)


def _played(protocols: list[str], scenarios: list[str], seeds: int, processes: int) -> list[Cell]:
    wanted = places(protocols, scenarios)
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as shown:
        task = shown.add_task(f"{seeds} seeds for each cell", total=len(wanted))
        cells = []
        with stoppable(), closing(all_cells(wanted, seeds, min(processes, len(wanted)))) as played:
            for cell in played:
                cells.append(cell)
                shown.advance(task)
    return cells
