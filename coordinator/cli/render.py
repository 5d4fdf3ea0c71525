"""What reading commands print: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from coordinator.examined import ExaminationView, HeldView
from coordinator.shards import ReplicaView
from coordinator.wire import BranchView, ClusterView, Outcome, TransactionView
from coordinator.wire_queries import AttemptView, DoingView
from coordinator.wire_steps import StepView, WorkflowView

__all__ = [
    "change_line",
    "cluster_table",
    "examination_table",
    "plain",
    "print_json",
    "print_table",
    "transaction_table",
    "transactions_table",
]

PIPE_WIDTH = 240  # columns

_STYLES = {Outcome.COMMITTED: "green", Outcome.ABORTED: "red", Outcome.DECIDING: "yellow"}


def print_table(table: Table, *, aside: bool = False) -> None:
    """The table on standard output, or error if it stands aside; as wide as it needs to be without a terminal."""
    console = Console(highlight=False, stderr=aside)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)


def print_json(message: BaseModel) -> None:
    """One line of JSON on standard output."""
    Console(soft_wrap=True, highlight=False, markup=False).print(message.model_dump_json())


def transactions_table(transactions: Iterable[TransactionView], *, stuck: bool = False) -> Table:
    """One row for each transaction; of stuck ones, why."""
    why = "stuck" if stuck else "reason"
    table = Table("gid", "begun", "phase", "participants", "decided by", why, box=None, pad_edge=False)
    for view in transactions:
        table.add_row(
            view.gid,
            _when(view.begun_at_ms),
            f"[{_STYLES[view.outcome]}]{view.phase.value}",
            ", ".join(branch.participant for branch in view.branches) or "-",
            view.decided_by or "-",
            plain(view.stuck if stuck else view.reason),
        )
    return table


def transaction_table(
    view: TransactionView, held: Iterable[HeldView] | None = None, worker: str | None = None
) -> Table:
    """Everything about one transaction, and what its participants hold of it, if they were asked. `worker`: who runs
    it, if it is a workflow."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("gid", view.gid)
    if view.key is not None:
        table.add_row("key", plain(view.key))
    table.add_row("outcome", f"[{_STYLES[view.outcome]}]{view.outcome.value}[/] ({view.phase.value})")
    table.add_row("path", view.path.value)
    if view.workflow is not None:
        table.add_row("workflow", _run(view, view.workflow, worker))
    table.add_row("begun", _when(view.begun_at_ms))
    table.add_row("deadline", f"{view.deadline_ms} ms")
    if view.decided_at_ms is not None:
        table.add_row("decided", f"{_when(view.decided_at_ms)} by {view.decided_by}")
    if view.reason is not None:
        table.add_row("reason", plain(view.reason) + (f" (branch {view.branch})" if view.branch else ""))
    if view.notify is not None:
        dropped = "" if view.notice_dropped is None else f"; {plain(view.notice_dropped)}"
        table.add_row("notify", f"{plain(view.notify)} (knows: {view.notified or 'nothing yet'}{dropped})")
    if view.stuck is not None:
        table.add_row("stuck", f"[yellow]{plain(view.stuck)}")
    holds = {} if held is None else {each.branch: f", {_held(each)}" for each in held if not each.ended}
    for branch in view.branches:
        state = "ended" if branch.ended else f"open{holds.get(branch.branch, '')}"
        steps = "" if branch.step is None else f" ({_step(branch.step)})"
        table.add_row(
            f"branch {branch.branch}", f"{branch.participant} {plain(branch.action or '(interactive)')}{steps}: {state}"
        )
    for attempt in () if view.doing is None else view.doing.attempts:
        if attempt.under_way or attempt.error:
            table.add_row(f"asking {attempt.branch or 'application'}", _attempt(attempt, view.doing))
    return table


def _run(view: TransactionView, workflow: WorkflowView, worker: str | None) -> str:
    """Which code it is, and who runs it, or what it has returned."""
    match view.outcome:
        case Outcome.COMMITTED:
            return f"{workflow.name}: returned {plain(json.dumps(workflow.result, ensure_ascii=False))}"
        case Outcome.ABORTED:
            return workflow.name
    return f"{workflow.name}: " + (f"run by {worker}" if worker else "[yellow]waits for a worker")


def _attempt(attempt: AttemptView, doing: DoingView | None) -> str:
    """A question that is not answered yet; the next time may be for another one, too."""
    times = f"{attempt.asks}, {attempt.times} times" if attempt.times > 1 else attempt.asks
    if attempt.under_way:
        return f"{times}: under way" + (f", in vain before: {plain(attempt.error)}" if attempt.error else "")
    next_ms = None if doing is None else doing.next_ms
    return f"{times}: {plain(attempt.error)}" + ("" if next_ms is None else f"; again in {next_ms} ms")


def change_line(view: TransactionView) -> str:
    """Where a transaction stands, and which branches have come how far."""
    branches = [f"{branch.branch} {_progress(branch)}" for branch in view.branches if _progress(branch)]
    return f"{view.phase.value:<10}  {', '.join(branches)}".rstrip()


def _progress(branch: BranchView) -> str:
    """ "" if it is as it was begun."""
    if branch.ended:
        return "ended"
    if branch.step is None or (step := _step(branch.step)) == branch.step.mode.value:
        return ""
    return step


def _step(step: StepView) -> str:
    """How a branch takes part, and how far it has come."""
    words = [step.mode.value]
    if step.done:
        words.append("done")
    if step.attempt > 1:
        words.append(f"attempt {step.attempt}")
    if step.refused is not None:
        words.append(f"refused: {plain(step.refused)}")
    if step.awaits_report:
        words.append("awaits its report")
    if step.awaits_turn:
        words.append(f"awaits its turn among {plain(step.order_key)}")
    if step.dead is not None:
        words.append(f"set aside: {plain(step.dead)}")
    if step.word is not None:
        words.append(plain(step.word))
    if step.reported is not None:
        words.append(f"reported as {step.reported}")
    if step.settling > 1:
        words.append(f"refused {step.settling - 1} times behind the decision")
    return ", ".join(words)


def examination_table(view: ExaminationView) -> Table:
    """What each participant holds of a transaction."""
    table = Table("branch", "participant", "action", "holds", box=None, pad_edge=False)
    for each in view.branches:
        table.add_row(each.branch, each.participant, plain(each.action or "(interactive)"), _held(each))
    return table


def _held(held: HeldView) -> str:
    if held.damage is not None:
        return f"[bold red]DAMAGE:[/] {plain(held.damage)}"
    if held.state is None:
        return f"[yellow]not reached:[/] {plain(held.error)}"
    return held.state.value + (f": {plain(held.reason)}" if held.reason else "")


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
