"""`commitd`: the command tree. With `exits.py`, the only place that turns errors into lines and exit statuses."""

from __future__ import annotations

import gc
from functools import cache
from pkgutil import resolve_name
from typing import Any

import typer
from typer.core import TyperGroup

from coordinator.cli.exits import exit_of, lines_of
from coordinator.errors import CoordinatorError
from participant.errors import ParticipantError

__all__ = ["app", "main"]

EPILOG = (
    "Exit status: 0 done; 1 refused or failed; 2 wrong command line; 3 nobody could be reached; "
    "4 not known whether it was done; 5 no such transaction; 6 decided, but a participant had ended its part otherwise."
)
_COMMANDS = {
    "serve": "coordinator.cli.serve:serve",
    "participant": "coordinator.cli.participant:participant",
    "check-participant": "coordinator.cli.check_participant:check_participant",
    "demo": "coordinator.cli.demo:demo",
    "failures": "coordinator.cli.failures:failures",
    "sweep": "coordinator.cli.sweep:sweep",
    "openapi": "coordinator.cli.openapi:openapi",
    "txn": "coordinator.cli.txn:app",
    "cluster": "coordinator.cli.cluster:app",
    "config": "coordinator.cli.config:app",
}
"""Where each command is: a function, or a tree of its own."""


class _Commands(TyperGroup):
    """Imports a command when it is wanted: what all of them need takes half a second, and a replica that comes back is
    waited for. Says what went wrong in one line, instead of a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the same
        return _load(cmd_name) if cmd_name in _COMMANDS else None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CoordinatorError, ParticipantError) as error:
            for line in lines_of(error):
                typer.echo(f"commitd: {line}", err=True)
            raise typer.Exit(exit_of(error)) from error


@cache
def _load(name: str) -> Any:
    found = resolve_name(_COMMANDS[name])
    if not gc.isenabled():  # `main` has stopped it: the process is ours
        gc.freeze()  # what was imported is needed to the end
        gc.enable()
    tree = typer.Typer(add_completion=False)
    if isinstance(found, typer.Typer):
        tree.add_typer(found, name=name)
    else:
        tree.command(name)(found)
    return typer.main.get_group(tree).commands[name]


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Commit several services together, or none of them.",
    epilog=EPILOG,
)


@app.callback()
def _all() -> None:
    """Without options of its own; typer makes a tree only of what has one."""


def main() -> None:
    """The entry point of the `commitd` command."""
    gc.disable()  # nothing that an import makes is garbage, and looking for some takes a fifth of its time
    app()
