"""An operator decides, while a participant on PostgreSQL holds a branch; and somebody was at its database before."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from typing import Any

import asyncpg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from coordinator.cli.main import app
from coordinator.ledger.records import Phase
from coordinator.wire import BranchRequest, TransactionRequest
from participant.wire import BranchState, Verb
from tests.house.tree import ROOT
from tests.support.cluster import Cluster, recorded
from tests.support.orphans import NAME, Remote, remote

REASON = "the bank closes"


async def _commitd(made: Cluster, *arguments: str) -> Result:
    env = {"COMMITD_URL": made.urls["n1"], "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=env)


async def _resolve(made: Cluster, *more: str) -> Result:
    return await _commitd(made, "txn", "resolve", "order", "--abort", "--reason", REASON, "--operator", "ada", *more)


async def _undecided(made: Cluster, shop: Remote) -> None:
    """`order` is prepared at the shop, and waits for the vote of the bank."""
    made.clerks["bank"].hold(Verb.PREPARE)
    branches = [
        BranchRequest(branch="b1", participant=NAME, action="put", body={"key": "mug", "value": 1}),
        BranchRequest(branch="b2", participant="bank", action="do", body=1),
    ]
    order = TransactionRequest(gid="order", branches=branches, deadline_ms=600_000)
    await made.replicas["n1"].transactions.begin(order, 0.0)
    await shop.has_prepared("order")


async def _end_by_hand(dsn: str, verb: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        name = await connection.fetchval("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        await connection.execute(f"{verb} PREPARED '{name}'")
    finally:
        await connection.close()


async def _value(dsn: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT value FROM numbers WHERE name = 'mug'")
    finally:
        await connection.close()


async def test_what_the_participants_hold_is_shown_first_and_what_came_of_it_afterwards(postgres_dsn: str) -> None:
    async with remote("postgres", postgres_dsn) as (made, shop):
        await _undecided(made, shop)
        resolved = await _resolve(made, "--yes")
        made.clerks["bank"].release(Verb.PREPARE)
        assert resolved.exit_code == 0, resolved.output
        assert resolved.stderr.splitlines()[1].split() == ["b1", NAME, "put", "prepared"]
        assert "by deadline set by ada" in resolved.stdout
        assert REASON in resolved.stdout
        assert "branch b1  shop put: ended" in resolved.stdout
        await recorded(made.replicas["n1"], "order", lambda record: record.phase is Phase.ABORTED)
        assert await _value(postgres_dsn) is None


async def test_a_participant_that_cannot_be_reached_is_named_and_the_decision_stands(postgres_dsn: str) -> None:
    async with remote("postgres", postgres_dsn) as (made, shop):
        await _undecided(made, shop)
        await shop.kill()
        resolved = await _resolve(made, "--yes", "--json")
        made.clerks["bank"].release(Verb.PREPARE)
        assert resolved.exit_code == 0, resolved.output
        assert "not reached" in resolved.stderr
        told = json.loads(resolved.stdout.splitlines()[-1])  # the cluster logs in this process, too
        assert (told["outcome"], told["reason"], told["decided_by"]) == ("aborted", REASON, "deadline set by ada")
        assert told["held"][0]["state"] is None
        assert "Cannot connect" in told["held"][0]["error"]
        await shop.start()
        is_over = lambda record: record.phase is Phase.ABORTED  # noqa: E731
        await recorded(made.replicas["n1"], "order", is_over, wait_s=40.0)  # the pauses between two calls have grown


async def test_a_branch_that_was_committed_by_hand_is_reported_as_damage_until_it_is_mended(postgres_dsn: str) -> None:
    """COMMIT PREPARED in psql, and then an abort. Seen red with the participant's word taken for an end."""
    async with remote("postgres", postgres_dsn) as (made, shop):
        await _undecided(made, shop)
        await _end_by_hand(postgres_dsn, "COMMIT")
        assert await shop.state("order") is BranchState.COMMITTED
        resolved = await _resolve(made, "--yes")
        made.clerks["bank"].release(Verb.PREPARE)
        assert resolved.exit_code == 6, resolved.output
        assert resolved.stderr.splitlines()[1].split() == ["b1", NAME, "put", "committed"]
        shown = await _commitd(made, "txn", "show", "order")
        for said in (resolved.stdout, shown.stdout):
            assert "DAMAGE: branch b1 at shop says committed, but the transaction is aborted" in said
        assert shown.exit_code == 0
        assert await _value(postgres_dsn) == 1


async def test_a_branch_that_was_rolled_back_by_hand_agrees_with_an_abort(postgres_dsn: str) -> None:
    async with remote("postgres", postgres_dsn) as (made, shop):
        await _undecided(made, shop)
        await _end_by_hand(postgres_dsn, "ROLLBACK")
        resolved = await _resolve(made, "--yes")
        made.clerks["bank"].release(Verb.PREPARE)
        assert resolved.exit_code == 0, resolved.output
        assert resolved.stderr.splitlines()[1].split() == ["b1", NAME, "put", "unknown"]
        assert "DAMAGE" not in resolved.stdout


@pytest.mark.parametrize(("answer", "is_aborted"), [(b"y\n", True), (b"n\n", False)])
async def test_on_a_terminal_it_asks_before_it_decides(postgres_dsn: str, answer: bytes, is_aborted: bool) -> None:
    async with remote("postgres", postgres_dsn) as (made, shop):
        await _undecided(made, shop)
        ours, theirs = pty.openpty()
        words = (
            "txn",
            "resolve",
            "order",
            "--abort",
            "--reason",
            REASON,
            "--operator",
            "ada",
            "--url",
            made.urls["n1"],
        )
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "coordinator", *words),
            cwd=ROOT,
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(theirs)
        os.write(ours, answer)
        _, asked = await child.communicate()
        os.close(ours)
        assert b"abort order?" in asked
        assert child.returncode == (0 if is_aborted else 1), asked
        record = made.replicas["n1"].ledger.get("order")
        assert record is not None
        assert (record.decision is not None) is is_aborted
        made.clerks["bank"].release(Verb.PREPARE)
