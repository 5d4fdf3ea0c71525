"""`commitd txn`: look at transactions, and decide one by hand."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from coordinator.cli import render
from coordinator.cli.asking import JsonOption, UrlOption, ask
from coordinator.client import Client
from coordinator.ledger.records import Decision, Phase
from coordinator.wire import LIST_LIMIT_MAX, TransactionPage, TransactionView

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at transactions, and decide one by hand.")

GidArgument = Annotated[str, typer.Argument(help="The transaction's gid.")]


@app.command("list")
def list_(
    url: UrlOption,
    phase: Annotated[list[Phase] | None, typer.Option(help="Only in this phase; may be repeated.")] = None,
    participant: Annotated[str | None, typer.Option(help="Only with a branch at this participant.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List transactions, newest first."""

    async def question(client: Client) -> list[TransactionView]:
        found: list[TransactionView] = []
        async for view in client.transactions(
            phases=phase or (), participant=participant, page_size=min(limit, LIST_LIMIT_MAX)
        ):
            found.append(view)
            if len(found) == limit:
                break
        return found

    found = ask(url, question)
    if as_json:
        render.print_json(TransactionPage(transactions=found, cursor=None))
    else:
        render.print_table(render.transactions_table(found))


@app.command()
def show(gid: GidArgument, url: UrlOption, as_json: JsonOption = False) -> None:
    """Show the record of one transaction."""
    _print(ask(url, lambda client: client.record(gid)), as_json)


@app.command()
def resolve(
    gid: GidArgument,
    decision: Annotated[Decision, typer.Argument(help="What to decide, if it is undecided.")],
    url: UrlOption,
    reason: Annotated[str, typer.Option(help="Why; it stays in the record.")],
    operator: Annotated[str | None, typer.Option(help="Who decides; the login name if absent.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Decide an undecided transaction by hand. What contradicts its record is refused."""
    who = operator or getpass.getuser()
    _print(ask(url, lambda client: client.resolve(gid, decision, operator=who, reason=reason)), as_json)


def _print(view: TransactionView, as_json: bool) -> None:
    if as_json:
        render.print_json(view)
    else:
        render.print_table(render.transaction_table(view))
