"""`commitd demo`: coordinators and banks on this machine, transfers between them, `kill -9` in between, an audit."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import typer
from rich.console import Console

from coordinator.cli.exits import Exit
from coordinator.cli.render import print_table
from coordinator.cli.stopping import run_stoppable
from coordinator.demo.accounts import BANKS
from coordinator.demo.databases import KINDS, SQLITE, check_installed
from coordinator.demo.errors import DemoError
from coordinator.demo.report import ok, summary, table
from coordinator.demo.run import run
from coordinator.demo.show import Show
from coordinator.demo.transfers import parse
from coordinator.shards import SHARDS_MAX

__all__ = ["demo"]

SEED_MAX = 2**32 - 1
FILE_BYTES_MAX = 64 << 20


def demo(
    transfers: Annotated[
        Path | None, typer.Option(help="Your own file; each line is from,to,amount: bob@bank-a,smith@bank-b,12.50")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=SEED_MAX, help="Draw the same faults again.")] = None,
    banks: Annotated[
        str, typer.Option(help=f"The database of each of the two banks: {', '.join(KINDS)}.", metavar="KIND,KIND")
    ] = ",".join([SQLITE] * len(BANKS)),
    shards: Annotated[int, typer.Option(min=1, max=SHARDS_MAX, help="Raft groups over the same coordinators.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
    ] = False,
) -> None:
    """Move money between two banks while their coordinators die, then audit the books.

    3 coordinators and 2 banks run as processes of their own, and 16 clients work. The leading coordinator (of several
    shards: that of any of them) is killed three times and paused once, each bank is killed once, and so is the database
    server of a bank that has one. Exit status 1 if the books are wrong afterwards.
    """
    kinds = _kinds(banks)
    stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    file = parse(_shipped() if transfers is None else _read(transfers), BANKS)
    if not file.transfers:
        raise DemoError(f"{transfers}: no line is a transfer; write from,to,amount: bob@bank-a,smith@bank-b,12.50")
    for kind in kinds.values():
        check_installed(kind)
    seed = SystemRandom().randint(0, SEED_MAX) if seed is None else seed
    stderr.print(f"{len(file.transfers):,} transfers, {len(file.rejections):,} lines rejected; --seed {seed}")
    with _workplace(stderr) as directory:
        with Show(len(file.transfers), stderr) as show:
            result = run_stoppable(run(file, seed, directory, show, shards=shards, kinds=kinds))
        if as_json:
            typer.echo(json.dumps(summary(result)))
        else:
            print_table(table(result))
        if not ok(result):
            raise typer.Exit(Exit.FAILED)


def _kinds(text: str) -> dict[str, str]:
    """The kind of each bank's database. Raises BadParameter."""
    kinds = text.split(",")
    if len(kinds) != len(BANKS) or not set(kinds) <= set(KINDS):
        one_each = f"one for each of the {len(BANKS)} banks, with a comma between them"
        raise typer.BadParameter(f"{text!r}: of {', '.join(KINDS)}, name {one_each}", param_hint="--banks")
    return dict(zip(BANKS, kinds, strict=True))


@contextmanager
def _workplace(stderr: Console) -> Iterator[Path]:
    """A new directory. It is kept, and named, if what is done in it fails."""
    directory = Path(tempfile.mkdtemp(prefix="commitd-demo-"))
    try:
        yield directory
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    except BaseException:
        stderr.print(f"what the processes said and stored is kept in {directory}")
        raise
    shutil.rmtree(directory, ignore_errors=True)


def _shipped() -> str:
    return (files("coordinator.demo") / "transfers.csv").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    """The user's file. Raises DemoError."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise DemoError(f"{path}: is larger than {FILE_BYTES_MAX >> 20} MiB; cut it into parts")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DemoError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from error
