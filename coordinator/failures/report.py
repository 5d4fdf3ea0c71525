"""What the command prints: a table for people, one JSON object for programs, and the page of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.table import Table

from coordinator.failures.claims import CLAIMS, as_claimed, broken_claims, is_by_chance
from coordinator.failures.measures import Cell, Spread
from coordinator.failures.protocols import PROTOCOLS
from coordinator.failures.scenarios import SCENARIOS

__all__ = ["document", "failed", "page", "table"]


def document(cells: Sequence[Cell]) -> dict[str, Any]:
    """The result as one JSON object."""
    return {
        "cells": [
            {
                "protocol": cell.protocol,
                "scenario": cell.scenario,
                "runs": cell.runs,
                "atomic": cell.atomic,
                "locks_held_ms": _spread(cell.locks_held_ms),
                "others_held_ms": _spread(cell.others_held_ms),
                "unknown_ms": _spread(cell.unknown_ms),
                "half_done_ms": _spread(cell.half_done_ms),
                "needless_aborts": cell.needless_aborts,
                "as_claimed": as_claimed(cell),
            }
            for cell in cells
        ]
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {"p50": spread.p50, "max": spread.max}


def table(cells: Sequence[Cell]) -> Table:
    """One row for each cell; a scenario is named in the first of its rows."""
    measures = ("rows held: p50, max", "not known: p50, max", "half done: p50, max")
    columns = ("scenario", "protocol", "atomic", *measures, "needless aborts", "")
    rows = Table(*columns, box=None, pad_edge=False)
    last = ""
    for cell in cells:
        spans = [_span(spread, ", ") for spread in (cell.locks_held_ms, cell.unknown_ms, cell.half_done_ms)]
        verdict = "as claimed" if as_claimed(cell) else "[bold red]NOT AS CLAIMED"
        head = "" if cell.scenario == last else cell.scenario
        last = cell.scenario
        needless = f"{cell.needless_aborts} of {cell.runs}"
        rows.add_row(head, cell.protocol, _yes(cell), *spans, needless, verdict)
    return rows


def failed(cells: Sequence[Cell]) -> Iterator[str]:
    """One line for each claim that a cell shows to be wrong."""
    for cell in cells:
        for claim in broken_claims(cell):
            yield f"{cell.protocol}, {cell.scenario}: not so that {claim.says}"


def _yes(cell: Cell) -> str:
    return "yes" if cell.atomic else f"NO, {cell.broken} of {cell.runs}"


def _span(spread: Spread, between: str) -> str:
    return f"{_duration(spread.p50)}{between}{_duration(spread.max)}"


def _duration(ms: float) -> str:
    if ms >= 1_000:
        return f"{ms / 1_000:.1f} s"
    return f"{ms:.0f} ms" if ms else "0"


# The page


def page(cells: Sequence[Cell]) -> str:
    """Everything as Markdown. Each scenario is a row, each protocol a column."""
    runs = max(cell.runs for cell in cells)
    protocols = [row for row in PROTOCOLS if any(cell.protocol == row.key for cell in cells)]
    scenarios = [row for row in SCENARIOS if any(cell.scenario == row.key for cell in cells)]
    parts = (
        f"{runs} seeds for each cell; p50 / max where there are two numbers.",
        _rows(
            "| protocol | is | coordinators | participants |",
            (f"{row.key} | {row.title} | {row.replicas} | {len(row.moves)}" for row in protocols),
        ),
        _rows(
            "| scenario | what breaks | problem |",
            (f"{row.key} | {row.title} | {row.problem or ''}" for row in scenarios),
        ),
        "## All or nothing\n\n" + _matrix(cells, _atomic),
        "## For how long rows are held\n\n" + _matrix(cells, lambda cell: _span(cell.locks_held_ms, " / ")),
        "## For how long the client does not know\n\n" + _matrix(cells, lambda cell: _span(cell.unknown_ms, " / ")),
        "## For how long half of it can be seen\n\n" + _matrix(cells, lambda cell: _span(cell.half_done_ms, " / ")),
        "## What is aborted that need not be\n\n" + _matrix(cells, lambda cell: str(cell.needless_aborts)),
        "## The claims\n\n" + _claims(cells),
    )
    return "\n\n".join(parts) + "\n"


def _rows(head: str, rows: Iterable[str]) -> str:
    return "\n".join((head, "|---" * head.count(" | ") + "|---|", *(f"| {row} |" for row in rows)))


def _atomic(cell: Cell) -> str:
    if not as_claimed(cell):
        return f"{_yes(cell)}; **not as claimed**"
    return f"{_yes(cell)}; by chance" if is_by_chance(cell) else _yes(cell)


def _matrix(cells: Sequence[Cell], show: Callable[[Cell], str]) -> str:
    at = {(cell.protocol, cell.scenario): cell for cell in cells}
    columns = [protocol.key for protocol in PROTOCOLS if any(cell.protocol == protocol.key for cell in cells)]
    rows = [
        f"{scenario.key} | " + " | ".join(show(at[column, scenario.key]) for column in columns)
        for scenario in SCENARIOS
        if any(cell.scenario == scenario.key for cell in cells)
    ]
    return _rows(f"| | {' | '.join(columns)} |", rows)


def _claims(cells: Sequence[Cell]) -> str:
    rows = []
    for claim in CLAIMS:
        about = [cell for cell in cells if claim.speaks_of(cell)]
        if about:
            held = sum(claim.holds(cell) for cell in about)
            protocols = _named(claim.protocols, [row.key for row in PROTOCOLS], "protocol")
            where = f"{protocols} in {_named(claim.scenarios, [row.key for row in SCENARIOS], 'scenario')}"
            rows.append(f"{claim.says} | {where} | {held} of {len(about)} | {claim.source}")
    return _rows("| that | of | holds in | says |", rows)


def _named(claimed: frozenset[str], order: Sequence[str], what: str) -> str:
    """Those that a claim names, shortly."""
    named = [key for key in order if key in claimed]
    left_out = [key for key in order if key not in claimed]
    if not left_out:
        return f"every {what}"
    if len(left_out) < len(named) - 2:
        return f"every {what} but {', '.join(left_out)}"
    return ", ".join(named)
