"""`commitd check-participant`: whether a participant keeps the promises of the contract, whatever it is written in."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from coordinator.cli import render
from coordinator.cli.asking import JsonOption, is_url
from coordinator.cli.exits import Exit
from coordinator.cli.stopping import run_stoppable
from participant.proof import SECRET_BYTES_MIN
from participant.testing import PROMISES, Outcome, Target, Verdict, examine_all

__all__ = ["check_participant"]

NESTED_TOO_DEEPLY = "it is nested too deeply"

_STYLES = {Outcome.KEPT: "green", Outcome.BROKEN: "bold red", Outcome.UNCLEAR: "yellow"}
_WIDTH = max(len(outcome) for outcome in Outcome) + 2  # columns


class ExchangeView(BaseModel):
    """A request as a line for a shell, and its answer as a line for people."""

    request: str
    answer: str


class VerdictView(BaseModel):
    """One promise. `expected` and `exchanges` are there if it is broken, `why` if it was not tried or judged."""

    promise: str
    outcome: Outcome
    expected: str | None
    why: str | None
    exchanges: list[ExchangeView]
    left: list[str]


class CheckView(BaseModel):
    """All verdicts, in the order of the promises."""

    url: str
    participant: str | None
    ok: bool
    verdicts: list[VerdictView]


def check_participant(
    url: Annotated[
        str, typer.Argument(help="Where the participant serves: http://host:port, and the path it is mounted at")
    ],
    action: Annotated[str, typer.Option(help="An action that changes something, and may be committed often.")],
    body: Annotated[str, typer.Option(help="A body for it, as JSON, to which it says yes again and again.")],
    start: Annotated[
        str | None,
        typer.Option(help="The command that runs the participant: it is started, killed, and started again."),
    ] = None,
    proof_secret_file: Annotated[
        Path | None,
        typer.Option(help="A file with its proof_secret, if it takes part in transactions in three phases."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try whether a participant, in whatever language, keeps the promises of the contract.

    It is sent what a coordinator sends, again, too late, at the same time, and malformed; with --start it is killed in
    between. Exit status 1 if a promise is broken, or could not be judged.
    """
    target = Target(_url(url), action, _value(body), _words(start), _secret(proof_secret_file))
    shown = None if as_json else Console(soft_wrap=True, highlight=False, markup=False)
    name, verdicts = run_stoppable(_try_all(target, shown))
    ok = all(verdict.is_fine for verdict in verdicts)
    if shown is None:
        render.print_json(
            CheckView(url=target.url, participant=name, ok=ok, verdicts=[_view(verdict) for verdict in verdicts])
        )
    else:
        counted = Counter(verdict.outcome for verdict in verdicts)
        parts = (f"{counted[outcome]} {outcome}" for outcome in Outcome if counted[outcome])
        shown.print(f"{name or 'participant'} at {target.url}: {', '.join(parts)}")
    if not ok:
        raise typer.Exit(Exit.FAILED)


async def _try_all(target: Target, shown: Console | None) -> tuple[str | None, list[Verdict]]:
    """The participant's own name, if it says one, and every verdict, shown as soon as it is reached."""
    verdicts = []
    async with target.open() as bench:
        name = bench.capabilities.get("name")
        async for verdict in examine_all(PROMISES, bench):
            verdicts.append(verdict)
            if shown is not None:
                shown.print(_text(verdict))
    return (name if isinstance(name, str) else None), verdicts


def _text(verdict: Verdict) -> Text:
    """A verdict for people: one line, and under a broken promise what broke it."""
    word = verdict.outcome.upper() if verdict.outcome is Outcome.BROKEN else verdict.outcome.value
    text = Text(f"{word:{_WIDTH}}", style=_STYLES.get(verdict.outcome, "dim"))
    text.append(str(verdict.promise), style="default not bold")
    margin = "\n" + " " * _WIDTH
    if verdict.outcome is not Outcome.BROKEN:
        text.append(f": {verdict.why}" if verdict.why else "", style="default not bold")
    else:
        for exchange in verdict.exchanges:
            text.append(f"{margin}{exchange.curl()}{margin}  {exchange.said()}", style="default not bold")
        text.append(f"{margin}expected: {verdict.why}", style="default not bold")
    for key in verdict.left:
        text.append(f"{margin}could not be ended, abort it by hand: {key}", style="yellow not bold")
    return text


def _view(verdict: Verdict) -> VerdictView:
    """A verdict for programs."""
    is_broken = verdict.outcome is Outcome.BROKEN
    return VerdictView(
        promise=str(verdict.promise),
        outcome=verdict.outcome,
        expected=verdict.why if is_broken else None,
        why=verdict.why if verdict.why and not is_broken else None,
        exchanges=[ExchangeView(request=each.curl(), answer=each.said()) for each in verdict.exchanges],
        left=[str(key) for key in verdict.left],
    )


def _url(text: str) -> str:
    if not is_url(text):
        raise typer.BadParameter("write it as http://host:port", param_hint="URL")
    return text.rstrip("/")


def _value(text: str) -> Any:
    """The body. Raises BadParameter if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else NESTED_TOO_DEEPLY
        raise typer.BadParameter(f"is not JSON: {why}", param_hint="--body") from error


def _words(start: str | None) -> tuple[str, ...]:
    """A command in words, as a shell would part them. Raises BadParameter."""
    if start is None:
        return ()
    try:
        words = tuple(shlex.split(start))
    except ValueError as error:
        raise typer.BadParameter(f"cannot be parted into words: {error}", param_hint="--start") from error
    if not words:
        raise typer.BadParameter("is empty", param_hint="--start")
    return words


def _secret(file: Path | None) -> bytes | None:
    """What is in the file, without the end of its one line. Raises BadParameter."""
    if file is None:
        return None
    try:
        secret = file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise typer.BadParameter(f"cannot be read: {error.strerror}", param_hint="--proof-secret-file") from error
    if len(secret) < SECRET_BYTES_MIN:
        raise typer.BadParameter(f"must hold at least {SECRET_BYTES_MIN} bytes", param_hint="--proof-secret-file")
    return secret
