"""`commitd sweep`: what is prepared in databases, whether or not their participants live, and its end."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Annotated, NoReturn

import typer
from pydantic import BaseModel
from rich.table import Table
from structlog import get_logger

from coordinator.cli import render
from coordinator.cli.asking import JsonOption, UrlOption, urls_of
from coordinator.cli.exits import Exit
from coordinator.cli.stopping import run_stoppable
from coordinator.cli.sweep_metrics import Tally, serving_metrics
from participant import logs
from participant.foreign import FOREIGN_MAX_AGE_S
from participant.outcomes import HttpOutcomeSource
from participant.sweep import GRACE_S, Database, Fate, Sweep, SweepSettings, Swept, databases_of

__all__ = ["sweep"]

EVERY_MIN_S = 1.0

_STYLES = {
    Fate.COMMITTED: "green",
    Fate.ABORTED: "green",
    Fate.YOUNG: "dim",
    Fate.DECIDING: "yellow",
    Fate.WOULD_COMMIT: "yellow",
    Fate.WOULD_ABORT: "yellow",
}
_log = get_logger(__name__)


class FoundView(BaseModel):
    """A prepared branch. `age_s`: for how long it had been prepared. `fate`: what became of it."""

    gid: str
    branch: str
    age_s: float
    fate: Fate
    why: str | None


class ForeignView(BaseModel):
    """A prepared transaction of somebody else. `at_least`: `age_s` counts from the first sight of it."""

    name: str
    age_s: float
    at_least: bool
    too_old: bool


class SweptView(BaseModel):
    """One database. `error`: why it could not be swept."""

    database: str
    error: str | None
    branches: list[FoundView]
    foreign: list[ForeignView]


class SweepView(BaseModel):
    """One round. `ok`: nothing is left that a person must look at."""

    ok: bool
    databases: list[SweptView]


def sweep(
    databases: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=DATABASE",
            envvar="COMMITD_DATABASES",
            help="A participant's name and its database: postgresql://…, mariadb://…, or the path of a SQLite file.",
        ),
    ],
    url: UrlOption,
    grace: Annotated[
        float, typer.Option(min=0, help="Leave branches alone that have been prepared for less than so many seconds.")
    ] = GRACE_S,
    foreign_max_age: Annotated[
        float, typer.Option(min=0, help="Alarm when a prepared transaction of somebody else is so many seconds old.")
    ] = FOREIGN_MAX_AGE_S,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, and say what would be done.")] = False,
    every: Annotated[
        float | None, typer.Option(min=EVERY_MIN_S, help="Go on, with a round every so many seconds.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="With --every: serve /metrics for Prometheus on this port.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Where to serve it.")] = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """End the prepared branches that their participants have left behind, as the coordinators say.

    Exit status 1 if a branch is left in doubt, a foreign transaction is too old, or a database could not be swept.
    """
    replicas = urls_of(url)
    if metrics_port is not None and every is None:
        raise typer.BadParameter("needs --every", param_hint="--metrics-port")
    logs.setup(sys.stderr, level=logs.Level.WARNING if every is None else logs.Level.INFO)
    settings = SweepSettings(grace, foreign_max_age, dry_run)
    sweeping = _Sweeping(databases_of(databases), replicas, settings)
    if every is not None:
        try:
            run_stoppable(sweeping.go_on(every, metrics_host, metrics_port, as_json))
        except KeyboardInterrupt:
            return
    swept = run_stoppable(sweeping.once())
    if as_json:
        render.print_json(_view(swept))
    else:
        _print(swept)
    if not all(each.is_well for each in swept):
        raise typer.Exit(Exit.FAILED)


class _Sweeping:
    """The sweep over its databases, on an event loop."""

    def __init__(self, databases: dict[str, Database], replicas: list[str], settings: SweepSettings) -> None:
        self._databases = databases
        self._sources = {name: HttpOutcomeSource(name, replicas) for name in databases}
        self._settings = settings

    async def once(self) -> list[Swept]:
        async with AsyncExitStack() as stack:
            return await (await self._start(stack)).round()

    async def go_on(self, every_s: float, host: str, port: int | None, as_json: bool) -> NoReturn:
        """Round after round, until it is cancelled."""
        tally = Tally()
        async with AsyncExitStack() as stack:
            swept_by = await self._start(stack)
            if port is not None:
                bound = await stack.enter_async_context(serving_metrics(tally, host, port))
                _log.info("sweep.serving", url=f"http://{host}:{bound}/metrics")
            while True:
                swept = await swept_by.round()
                tally.note(swept)
                _log_round(swept)
                if as_json:
                    render.print_json(_view(swept))
                await asyncio.sleep(every_s)

    async def _start(self, stack: AsyncExitStack) -> Sweep:
        for source in self._sources.values():
            await source.start()
            stack.push_async_callback(source.stop)
        return Sweep(self._databases, self._sources, self._settings, asyncio.get_running_loop().time)


def _log_round(swept: list[Swept]) -> None:
    """One line for each thing that a person must look at. (What was ended has a line already.)"""
    for each in swept:
        if each.error:
            _log.error("sweep.unreachable", database=each.database, why=each.error)
        left = [found for found in each.found if found.is_left]
        for found in left[:1]:
            _log.warning(
                "sweep.left",
                database=each.database,
                branches=len(left),
                oldest_s=round(found.age_s, 1),
                gid=found.key.gid,
                branch=found.key.branch,
                fate=found.fate,
                why=found.why,
            )
        for foreign in each.foreign_old:
            _log.warning("sweep.foreign", database=each.database, name=foreign.name, age_s=round(foreign.age_s, 1))


def _view(swept: list[Swept]) -> SweepView:
    return SweepView(
        ok=all(each.is_well for each in swept),
        databases=[
            SweptView(
                database=each.database,
                error=each.error or None,
                branches=[
                    FoundView(gid=f.key.gid, branch=f.key.branch, age_s=f.age_s, fate=f.fate, why=f.why or None)
                    for f in each.found
                ],
                foreign=[
                    ForeignView(name=f.name, age_s=f.age_s, at_least=f.is_least, too_old=f in each.foreign_old)
                    for f in each.foreign
                ],
            )
            for each in swept
        ],
    )


def _print(swept: list[Swept]) -> None:
    table = Table("database", "prepared", "age", "fate", box=None, pad_edge=False)
    for each in swept:
        if each.error:
            table.add_row(each.database, "-", "-", f"[bold red]not swept:[/] {render.plain(each.error)}")
        for found in each.found:
            why = f": {render.plain(found.why)}" if found.why else ""
            style = _STYLES.get(found.fate, "bold red")
            table.add_row(each.database, str(found.key), _age(found.age_s), f"[{style}]{found.fate}[/]{why}")
        for foreign in each.foreign:
            age = ("at least " if foreign.is_least else "") + _age(foreign.age_s)
            fate = "[bold red]foreign, and too old[/]" if foreign in each.foreign_old else "foreign"
            table.add_row(each.database, render.plain(foreign.name), age, fate)
        if not (each.error or each.found or each.foreign):
            table.add_row(each.database, "nothing", "", "")
    render.print_table(table)


def _age(age_s: float) -> str:
    return f"{age_s:.0f} s"
