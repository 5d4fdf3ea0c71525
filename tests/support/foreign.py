"""Participants as processes for the conformance checks: ours, the two examples in other clothes, and broken ones."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from participant.bank import bank_on_sqlite
from participant.ids import BranchKey
from participant.testing import Target
from participant.wire import BranchState, Operation, Verb
from tests.support.ports import free_addresses
from tests.support.subjects import SUBJECTS

__all__ = ["PROOF_SECRET", "STOCK", "broken", "broken_in_three_phases", "node", "numbers", "sqlite_bank", "stdlib"]

ROOT = Path(__file__).parents[2]
STOCK = 10_000  # more than all promises together take
PROOF_SECRET = "a secret that only tests have "


async def sqlite_bank(directory: Path) -> Target:
    """The stock bank, as `commitd participant` runs it."""
    bank = bank_on_sqlite("bank", directory / "bank.db")
    async with bank.serving() as serving:
        body = {"account": "alice", "balance": STOCK}
        opened = Operation(Verb.COMMIT, BranchKey("open", "b"), "open", body, one_phase=True)
        assert (await serving.service.perform(opened)).state is BranchState.COMMITTED
    host, port = _address()
    config = directory / "bank.toml"
    where = f'data = "bank.db"\nhost = "{host}"\nport = {port}\n'
    config.write_text(f'name = "bank"\nproof_secret = "{PROOF_SECRET}"\n{where}', encoding="utf-8")
    command = (sys.executable, "-m", "coordinator", "participant", "--config", str(config))
    body = {"account": "alice", "amount": 1}
    return Target(f"http://{host}:{port}", "debit", body, command, PROOF_SECRET.encode())


async def numbers(kind: str, place: str) -> Target:
    """A participant on one of `SUBJECTS`."""
    return await _counting(kind, place, "numbers", kind)


async def broken_in_three_phases(directory: Path, fault: str) -> Target:
    """One on memory with a fault of `tests/fixtures/broken_three_phases.py`."""
    return await _counting("memory", str(directory), "broken_three_phases", fault)


async def _counting(kind: str, place: str, fixture: str, what: str) -> Target:
    """It finds the tests' modules in the directory that it is started in."""
    async with SUBJECTS[kind](place).open() as bench:
        await bench.set("x", STOCK)
    host, port = _address()
    module = f"tests.fixtures.{fixture}"
    command = ("env", "-C", str(ROOT), sys.executable, "-m", module, what, place, host, port, PROOF_SECRET)
    return Target(f"http://{host}:{port}", "add", {"key": "x", "amount": -1}, command, PROOF_SECRET.encode())


async def stdlib(directory: Path, *options: str) -> Target:
    """The example in plain Python. `-I`: it sees nothing of ours, nor of anybody else."""
    return _shelf(directory, (sys.executable, "-I", "-S", str(ROOT / "examples/participant_stdlib.py"), *options))


async def node(directory: Path, *options: str) -> Target:
    """The example in Node.js, which every machine of the CI must have."""
    program = shutil.which("node")
    if program is None:
        assert "CI" not in os.environ, "node is not installed, and the example in Node.js is tried nowhere else"
        pytest.skip("node is not installed")
    host, port = _address()
    where = ("--host", host, "--port", port, "--data", str(directory / "hall.journal"), "--seats", str(STOCK))
    command = (program, str(ROOT / "examples/participant.js"), *where, *options)
    return Target(f"http://{host}:{port}", "book", {"row": "A", "seats": 1}, command)


def broken(directory: Path, fault: str) -> Target:
    """The example in plain Python with one fault of `tests/fixtures/broken.py`."""
    return _shelf(directory, (sys.executable, str(ROOT / "tests/fixtures/broken.py"), fault))


def _shelf(directory: Path, command: tuple[str, ...]) -> Target:
    host, port = _address()
    where = ("--host", host, "--port", port, "--data", str(directory / "shelf.db"), "--stock", f"mug={STOCK}")
    return Target(f"http://{host}:{port}", "reserve", {"item": "mug", "pieces": 1}, (*command, *where))


def _address() -> tuple[str, str]:
    host, _, port = free_addresses(1)[0].rpartition(":")
    return host, port
