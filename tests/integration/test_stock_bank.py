"""The stock bank on each of the databases: one bank, the same answers, whatever keeps its accounts."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from coordinator.cli.main import app
from participant.bank import bank_on
from participant.books import BALANCE_MAX_CENTS, Books, MariaBooks, PostgresBooks, SQLiteBooks
from participant.ids import BranchKey
from participant.kit import Serving
from participant.wire import Answer, BranchState, Operation, Verb

KINDS = ["sqlite", "postgres", "mariadb"]


@pytest.fixture(params=KINDS)
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Books:
    match request.param:
        case "postgres":
            return PostgresBooks(request.getfixturevalue("postgres_dsn"))
        case "mariadb":
            return MariaBooks(request.getfixturevalue("mariadb_dsn"))
    return SQLiteBooks(tmp_path / "bank.db")


class Teller:
    """Asks a bank as a coordinator would, each time for a new transaction."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._asked = 0

    async def ask(self, action: str, **body: object) -> Answer:
        """In one phase."""
        self._asked += 1
        key = BranchKey(f"gid-{self._asked}", "b")
        return await self._serving.service.perform(Operation(Verb.COMMIT, key, action, body, one_phase=True))

    async def accounts(self) -> dict[str, int]:
        async with aiohttp.ClientSession() as http, http.get(f"{self._serving.url}/v1/accounts") as answer:
            said = await answer.json()
        assert said["total"] == sum(said["accounts"].values())
        accounts: dict[str, int] = said["accounts"]
        return accounts


async def test_money_goes_in_and_out(books: Books) -> None:
    async with bank_on("bank", books).serving() as serving:
        teller = Teller(serving)
        assert (await teller.ask("open", account="bob", balance=100)).state is BranchState.COMMITTED
        assert (await teller.ask("open", account="ann")).state is BranchState.COMMITTED
        assert (await teller.ask("debit", account="bob", amount=30)).state is BranchState.COMMITTED
        assert (await teller.ask("credit", account="ann", amount=BALANCE_MAX_CENTS)).state is BranchState.COMMITTED
        assert list((await teller.accounts()).items()) == [("ann", BALANCE_MAX_CENTS), ("bob", 70)]


@pytest.mark.parametrize(
    ("action", "body", "why"),
    [
        ("open", {"account": "bob"}, "account 'bob' exists already"),
        ("debit", {"account": "bob", "amount": 101}, "insufficient funds"),
        ("credit", {"account": "bob", "amount": BALANCE_MAX_CENTS}, "account 'bob' cannot hold more than"),
        ("credit", {"account": "nobody", "amount": 1}, "unknown account 'nobody'"),
        ("credit", {"account": "b" * 65, "amount": 1}, "account: must be text of 1 to 64 characters"),
        ("open", {"account": "b\0b"}, "account: must be text of 1 to 64 characters, none of them NUL"),
        ("debit", {"account": "bob", "amount": 0}, "amount: must be whole cents from 1 to"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_same_words(
    books: Books, action: str, body: dict[str, object], why: str
) -> None:
    async with bank_on("bank", books).serving() as serving:
        teller = Teller(serving)
        await teller.ask("open", account="bob", balance=100)
        no = await teller.ask(action, **body)
        assert (no.state, no.reason.startswith(why)) == (BranchState.ABORTED, True), no.reason
        assert await teller.accounts() == {"bob": 100}


async def test_names_that_differ_are_different_accounts(books: Books) -> None:
    """In letters' size, in an accent, in a space at the end. Seen red on MariaDB with names as text."""
    names = {"bob": 1, "Bob": 2, "bòb": 3, "bob ": 4, "€" * 64: 5}
    async with bank_on("bank", books).serving() as serving:
        teller = Teller(serving)
        for name, cents in names.items():
            assert (await teller.ask("open", account=name, balance=cents)).state is BranchState.COMMITTED
        assert await teller.accounts() == names


@pytest.mark.parametrize("extra", ["postgres", "mariadb"])
def test_a_driver_that_is_missing_is_said_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """Goal: one line that says what to install."""
    for module in [name for name in sys.modules if name.startswith(f"participant.rm.{extra}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(f"participant.rm.{extra}", raising=False)
    driver = {"postgres": "asyncpg", "mariadb": "asyncmy"}[extra]
    monkeypatch.setitem(sys.modules, driver, None)
    file = tmp_path / "bank.toml"
    file.write_text(f'name = "bank"\ndatabase = "{extra.replace("gres", "gresql")}://bob:s3cret@127.0.0.1:1/bank"\n')
    ended = CliRunner().invoke(app, ["participant", "--config", str(file)])
    assert ended.exit_code == 1
    assert f"database: {driver} is not installed: pip install 'commitd[{extra}]'" in ended.output
    assert "s3cret" not in ended.output
