"""`commitd`: the command tree. With `exits.py`, the only place that turns errors into lines and exit statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from coordinator.cli import check_participant, cluster, config, demo, failures, participant, serve, sweep, txn
from coordinator.cli.exits import exit_of, lines_of
from coordinator.errors import CoordinatorError
from coordinator.http import openapi
from participant.errors import ParticipantError

__all__ = ["app", "main"]

EPILOG = (
    "Exit status: 0 done; 1 refused or failed; 2 wrong command line; 3 nobody could be reached; "
    "4 not known whether it was done; 5 no such transaction; 6 decided, but a participant had ended its part otherwise."
)


class _Commands(TyperGroup):
    """Says what went wrong in one line, instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CoordinatorError, ParticipantError) as error:
            stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
            for line in lines_of(error):
                stderr.print(f"commitd: {line}")
            raise typer.Exit(exit_of(error)) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Commit several services together, or none of them.",
    epilog=EPILOG,
)
app.command("serve")(serve.serve)
app.command("participant")(participant.participant)
app.command("check-participant")(check_participant.check_participant)
app.command("demo")(demo.demo)
app.command("failures")(failures.failures)
app.command("sweep")(sweep.sweep)
app.add_typer(txn.app, name="txn")
app.add_typer(cluster.app, name="cluster")
app.add_typer(config.app, name="config")


@app.command("openapi")
def openapi_(
    output: Annotated[Path | None, typer.Option(help="Write it to this file instead of standard output.")] = None,
) -> None:
    """Print the OpenAPI document of the HTTP API."""
    if output is None:
        typer.echo(openapi.text(), nl=False)
    else:
        output.write_text(openapi.text(), encoding="utf-8")


def main() -> None:
    """The entry point of the `commitd` command."""
    app()
