"""`commitd txn`: look at transactions, and decide one by hand."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import Annotated

import typer
from pydantic import Field

from coordinator.cli import render
from coordinator.cli.asking import JsonOption, UrlOption, ask
from coordinator.cli.exits import Exit
from coordinator.client import Client
from coordinator.client.workflow import worker_of
from coordinator.examined import HeldView
from coordinator.ledger.records import Decision, Phase
from coordinator.wire import TransactionPage, TransactionView
from coordinator.wire_queries import LIST_LIMIT_MAX

__all__ = ["app"]

REPORT_LOOKS_MAX = 20
REPORT_PAUSE_S = 0.25

_FINISHED = frozenset((Phase.COMMITTED, Phase.ABORTED))


class ShownView(TransactionView):
    """A record, and what its participants hold, while it is open; of an undecided workflow, which worker runs it."""

    held: list[HeldView] | None = Field(default=None)
    worker: str | None = Field(default=None)


app = typer.Typer(no_args_is_help=True, help="Look at transactions, and decide one by hand.")

GidArgument = Annotated[str, typer.Argument(help="The transaction's gid.")]


@app.command("list")
def list_(
    url: UrlOption,
    key: Annotated[str | None, typer.Option(help="Only those begun under this key.")] = None,
    phase: Annotated[list[Phase] | None, typer.Option(help="Only in this phase; may be repeated.")] = None,
    participant: Annotated[str | None, typer.Option(help="Only with a branch at this participant.")] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that a person should look at, with why.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="Only those with messages that were set aside.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List transactions, newest first."""

    async def question(client: Client) -> list[TransactionView]:
        found: list[TransactionView] = []
        async for view in client.transactions(
            key=key,
            phases=phase or (),
            participant=participant,
            stuck=stuck,
            dead=dead,
            page_size=min(limit, LIST_LIMIT_MAX),
        ):
            found.append(view)
            if len(found) == limit:
                break
        return found

    found = ask(url, question)
    if as_json:
        render.print_json(TransactionPage(transactions=found, cursor=None))
    else:
        render.print_table(render.transactions_table(found, stuck=stuck or dead))


@app.command()
def show(gid: GidArgument, url: UrlOption, as_json: JsonOption = False) -> None:
    """Show the record of one transaction; while it is open, also what its participants hold."""
    _print(ask(url, lambda client: _shown(client, gid)), as_json)


@app.command()
def watch(gid: GidArgument, url: UrlOption, as_json: JsonOption = False) -> None:
    """Say what becomes of one transaction, a line for each change, until it has ended."""

    async def question(client: Client) -> None:
        async for view in client.events(gid):
            if as_json:
                render.print_json(view)
            else:
                typer.echo(render.change_line(view))

    ask(url, question)


@app.command()
def resolve(
    gid: GidArgument,
    url: UrlOption,
    reason: Annotated[str, typer.Option(help="Why; it stays in the record.")],
    commit: Annotated[bool, typer.Option("--commit", help="Confirm that it is committed.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Abort it, if it is undecided.")] = False,
    operator: Annotated[str | None, typer.Option(help="Who decides; the login name if absent.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Decide an undecided transaction by hand. What contradicts its record is refused.

    What each participant holds is shown before; what came of it, after. Exit status 6 if a participant had ended its
    branch otherwise.
    """
    decision, who = _decision(commit, abort), operator or _login_name()
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("is needed where nobody can be asked", param_hint="--yes")
    render.print_table(render.examination_table(ask(url, lambda client: client.examine(gid))), aside=True)
    if not yes and not typer.confirm(f"{decision.value} {gid}?", err=True):
        raise typer.Exit(Exit.FAILED)
    shown = ask(url, lambda client: _resolved(client, gid, decision, who, reason))
    _print(shown, as_json)
    if any(each.damage is not None for each in shown.held or ()):
        raise typer.Exit(Exit.DAMAGED)


BranchOption = Annotated[list[str] | None, typer.Option(help="Only this message; may be repeated.")]
OperatorOption = Annotated[str | None, typer.Option(help="Who decides; the login name if absent.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it stays in the record.")]


@app.command()
def redeliver(
    gid: GidArgument,
    url: UrlOption,
    reason: ReasonOption,
    branch: BranchOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have messages that were set aside delivered once more."""
    who = operator or _login_name()
    ask(url, lambda client: client.redeliver(gid, operator=who, reason=reason, branches=branch or ()))
    _print(ask(url, lambda client: _shown(client, gid)), as_json)


@app.command()
def drop(
    gid: GidArgument,
    url: UrlOption,
    reason: ReasonOption,
    branch: BranchOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up messages that were set aside: they are never delivered."""
    who = operator or _login_name()
    ask(url, lambda client: client.drop(gid, operator=who, reason=reason, branches=branch or ()))
    _print(ask(url, lambda client: _shown(client, gid)), as_json)


@app.command()
def drop_notice(
    gid: GidArgument, url: UrlOption, reason: ReasonOption, operator: OperatorOption = None, as_json: JsonOption = False
) -> None:
    """Give up telling an application of a decided transaction: it is sent no more notices."""
    who = operator or _login_name()
    view = ask(url, lambda client: client.drop_notice(gid, operator=who, reason=reason))
    _print(ShownView.model_validate(view.model_dump()), as_json)  # not asked for again: it may be forgotten at once


def _decision(commit: bool, abort: bool) -> Decision:
    """Raises BadParameter unless it is exactly one."""
    if commit is abort:
        raise typer.BadParameter("say which of both", param_hint="--commit or --abort")
    return Decision.COMMIT if commit else Decision.ABORT


def _login_name() -> str:
    """Raises BadParameter for a user whom the system has no name for, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise typer.BadParameter("is needed: this user has no name here", param_hint="--operator") from None


async def _resolved(client: Client, gid: str, decision: Decision, operator: str, reason: str) -> ShownView:
    """Decide, and wait a little until each participant has confirmed, cannot be reached, or contradicts."""
    await client.resolve(gid, decision, operator=operator, reason=reason)
    for _ in range(REPORT_LOOKS_MAX):
        examined = await client.examine(gid)
        if all(each.ended or each.damage or each.error for each in examined.branches):
            break
        await asyncio.sleep(REPORT_PAUSE_S)
    return await _shown(client, gid)


async def _shown(client: Client, gid: str) -> ShownView:
    view = await client.record(gid)
    held = None if view.phase in _FINISHED else (await client.examine(gid)).branches
    is_run = view.workflow is not None and view.phase is Phase.PREPARING
    worker = await worker_of(client, gid) if is_run else None
    return ShownView.model_validate({**view.model_dump(), "held": held, "worker": worker})


def _print(shown: ShownView, as_json: bool) -> None:
    if as_json:
        render.print_json(shown)
    else:
        render.print_table(render.transaction_table(shown, shown.held, shown.worker))
