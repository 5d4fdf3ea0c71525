"""What reading commands print: tables for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from coordinator.shards import ReplicaView
from coordinator.wire import ClusterView, Outcome, TransactionView

__all__ = ["cluster_table", "plain", "print_json", "print_table", "transaction_table", "transactions_table"]

PIPE_WIDTH = 240  # columns

_STYLES = {Outcome.COMMITTED: "green", Outcome.ABORTED: "red", Outcome.DECIDING: "yellow"}


def print_table(table: Table) -> None:
    """The table on standard output; as wide as it needs to be where no terminal limits it."""
    stdout = Console(highlight=False)
    if not stdout.is_terminal:
        stdout.width = PIPE_WIDTH
    stdout.print(table)


def print_json(message: BaseModel) -> None:
    """One line of JSON on standard output."""
    Console(soft_wrap=True, highlight=False, markup=False).print(message.model_dump_json())


def transactions_table(transactions: Iterable[TransactionView]) -> Table:
    """One row for each transaction."""
    table = Table("gid", "begun", "phase", "participants", "decided by", "reason", box=None, pad_edge=False)
    for view in transactions:
        table.add_row(
            view.gid,
            _when(view.begun_at_ms),
            f"[{_STYLES[view.outcome]}]{view.phase.value}",
            ", ".join(branch.participant for branch in view.branches) or "-",
            view.decided_by or "-",
            plain(view.reason),
        )
    return table


def transaction_table(view: TransactionView) -> Table:
    """Everything about one transaction."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("gid", view.gid)
    table.add_row("outcome", f"[{_STYLES[view.outcome]}]{view.outcome.value}[/] ({view.phase.value})")
    table.add_row("path", view.path.value)
    table.add_row("begun", _when(view.begun_at_ms))
    table.add_row("deadline", f"{view.deadline_ms} ms")
    if view.decided_at_ms is not None:
        table.add_row("decided", f"{_when(view.decided_at_ms)} by {view.decided_by}")
    if view.reason is not None:
        table.add_row("reason", plain(view.reason) + (f" (branch {view.branch})" if view.branch else ""))
    for branch in view.branches:
        state = "ended" if branch.ended else "open"
        table.add_row(
            f"branch {branch.branch}", f"{branch.participant} {plain(branch.action or '(interactive)')}: {state}"
        )
    return table


def cluster_table(replicas: Iterable[tuple[int, ReplicaView, ClusterView | None]]) -> Table:
    """One row for each replica, with its shard if there are several; no view of one that did not answer."""
    rows = sorted(replicas, key=lambda row: (row[0], row[1].name))
    several = any(shard for shard, _, _ in rows)
    columns = ("replica", "url", "role", "term", "leader", "applied", "commit", "in flight", "open", "recorded")
    table = Table(*(("shard",) if several else ()), *columns, box=None, pad_edge=False)
    for shard, replica, view in rows:
        head = (*((str(shard),) if several else ()), replica.name, replica.url)
        if view is None:
            table.add_row(*head, "[red]no answer")
            continue
        numbers = (view.applied_index, view.commit_index, view.in_flight, view.open, view.recorded)
        role = f"[green]{view.role}" if view.role == "leader" else view.role
        table.add_row(*head, role, str(view.term), view.leader or "-", *(str(number) for number in numbers))
    return table


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def plain(text: str | None) -> str:
    """Text from outside, which must not be taken for markup."""
    return (text or "-").replace("[", "\\[")
