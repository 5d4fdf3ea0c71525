"""What a line of the transfers file means, and what is said of one that means nothing."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.demo.accounts import BANKS, opening
from coordinator.demo.transfers import LINE_CHARS_MAX, Account, Transfer, money, parse

BOB, SMITH = Account("bank-a", "bob"), Account("bank-b", "smith")


def shipped() -> str:
    return (files("coordinator.demo") / "transfers.csv").read_text(encoding="utf-8")


def test_a_line_is_a_transfer_between_two_accounts() -> None:
    """Goal: header, spaces, quotes, empty lines, both line ends, a byte order mark: no harm, and the file's numbers."""
    text = '\ufefffrom,to,amount\r\nbob@bank-a,smith@bank-b,12.50\n\n smith@bank-b , "bob@bank-a", 7 \n'
    file = parse(text, BANKS)
    assert file.transfers == (Transfer(2, BOB, SMITH, 12_50), Transfer(4, SMITH, BOB, 7_00))
    assert file.rejections == ()


def test_the_header_may_be_missing() -> None:
    """Goal: the first line counts if it is a transfer."""
    assert parse("bob@bank-a,smith@bank-b,1", BANKS).transfers == (Transfer(1, BOB, SMITH, 1_00),)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("bob@bank-a,smith@bank-b", "2 fields"),
        ("bob@bank-a,smith@bank-b,1,now", "4 fields"),
        ("bob@bank-a;smith@bank-b;1", "1 fields"),
        ('"bob@bank-a,smith@bank-b,1', "is not CSV"),
        ("bob,smith@bank-b,1", "from: 'bob' is no account"),
        ("bob@bank-a,@bank-b,1", "to: '@bank-b' is no account"),
        ("bob@bank-a,smith@bank-c,1", "to: there is no bank 'bank-c'; there are bank-a, bank-b"),
        ("bob@bank-a,bob@bank-a,1", "the same account"),
        ("bob@bank-a,smith@bank-b,", "amount: '' is no amount"),
        ("bob@bank-a,smith@bank-b,ten", "amount: 'ten' is no amount"),
        ("bob@bank-a,smith@bank-b,-1", "amount: '-1' is no amount"),
        ("bob@bank-a,smith@bank-b,1.005", "amount: '1.005' is no amount"),
        ("bob@bank-a,smith@bank-b,1e3", "amount: '1e3' is no amount"),
        ("bob@bank-a,smith@bank-b,٣", "amount: '٣' is no amount"),
        ("bob@bank-a,smith@bank-b,0.00", "not between 0.01 and 1,000,000,000.00"),
        ("bob@bank-a,smith@bank-b,1000000000.01", "not between"),
        ("x" * (LINE_CHARS_MAX + 1), f"longer than {LINE_CHARS_MAX} characters"),
    ],
)
def test_a_line_that_means_nothing_is_rejected_with_its_number_and_the_reason(line: str, why: str) -> None:
    """Goal: what, where, and what to do; the lines around it are carried out."""
    file = parse(f"bob@bank-a,smith@bank-b,1\n{line}\nbob@bank-a,smith@bank-b,2\n", BANKS)
    assert [transfer.line for transfer in file.transfers] == [1, 3]
    (rejection,) = file.rejections
    assert rejection.line == 2
    assert why in rejection.why


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_is_taken_line_by_line(text: str) -> None:
    """Goal: nothing in a file raises, and no line that says something is lost."""
    file = parse(text, BANKS)
    spoken = [line for line in text.removeprefix("\ufeff").split("\n") if line.strip()]
    assert len(file.transfers) + len(file.rejections) == len(spoken)


def test_the_shipped_file_has_every_kind_of_line() -> None:
    """Goal: at least 2,000 lines; ordinary, beyond every balance, unknown accounts, malformed."""
    file = parse(shipped(), BANKS)
    accounts = opening()
    assert len(shipped().splitlines()) > 2_000
    assert len({rejection.why for rejection in file.rejections}) >= 10
    known = [t for t in file.transfers if t.source in accounts and t.target in accounts]
    total = sum(accounts.values())
    assert len(file.transfers) - len(known) >= 100
    assert sum(transfer.cents > total // len(accounts) * 5 for transfer in known) >= 100
    assert sum(transfer.source.bank != transfer.target.bank for transfer in known) > 1_800


def test_money_is_written_as_people_write_it() -> None:
    assert [money(cents) for cents in (1, 12_50, 1_234_567_89)] == ["0.01", "12.50", "1,234,567.89"]
