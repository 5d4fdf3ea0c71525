"""The file of transfers: `from,to,amount`, one transfer a line. Sans-IO: text in, transfers and rejections out.

    from,to,amount
    bob@bank-a,smith@bank-b,12.50

An account is `name@bank`; an amount has at most two decimals. Every line stands for itself: a line that cannot be
understood is rejected with its number and the reason, and the others are carried out. Whether an account exists and
holds enough is the bank's question, and its answer is an abort.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from dataclasses import dataclass

from participant.ids import BranchKey

__all__ = ["AMOUNT_MAX_CENTS", "LINE_CHARS_MAX", "Account", "Rejection", "Transfer", "TransferFile", "money", "parse"]

LINE_CHARS_MAX = 500
AMOUNT_MAX_CENTS = 10**11  # a thousand million

_HEADER = ["from", "to", "amount"]
_ACCOUNT = re.compile(r"([^\s@]{1,64})@([A-Za-z0-9][A-Za-z0-9_.:-]{0,63})")
_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """`name` at `bank`."""

    bank: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}@{self.bank}"


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one line asks for: a transaction of two branches. `line` counts from 1, the header included."""

    line: int
    source: Account
    target: Account
    cents: int

    @property
    def gid(self) -> str:
        """The transaction's name, the same however often it is asked for."""
        return f"line-{self.line}"

    @property
    def debit(self) -> BranchKey:
        """The branch at the bank of `source`."""
        return BranchKey(self.gid, "from")

    @property
    def credit(self) -> BranchKey:
        """The branch at the bank of `target`."""
        return BranchKey(self.gid, "to")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that is no transfer, and why."""

    line: int
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class TransferFile:
    """What a file holds, in the order of its lines."""

    transfers: tuple[Transfer, ...]
    rejections: tuple[Rejection, ...]


class _Reject(Exception):
    """Why the line is no transfer."""


def parse(text: str, banks: Collection[str]) -> TransferFile:
    """Read every line of `text`; empty lines and a header in the first line say nothing."""
    transfers: list[Transfer] = []
    rejections: list[Rejection] = []
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = _fields(line)
            if number == 1 and [field.lower() for field in fields] == _HEADER:
                continue
            transfers.append(_transfer(number, fields, banks))
        except _Reject as reject:
            rejections.append(Rejection(number, line[:LINE_CHARS_MAX], str(reject)))
    return TransferFile(tuple(transfers), tuple(rejections))


def money(cents: int) -> str:
    """`cents` as people write it: 1,234.50."""
    return f"{cents // 100:,}.{cents % 100:02}"


def _fields(line: str) -> list[str]:
    if len(line) > LINE_CHARS_MAX:
        raise _Reject(f"is longer than {LINE_CHARS_MAX} characters")
    try:
        (fields,) = csv.reader([line], strict=True, skipinitialspace=True)
    except (csv.Error, ValueError) as error:
        raise _Reject(f"is not CSV: {error}") from error
    return [field.strip() for field in fields]


def _transfer(number: int, fields: list[str], banks: Collection[str]) -> Transfer:
    if len(fields) != len(_HEADER):
        raise _Reject(f"has {len(fields)} fields; write from,to,amount")
    source, target = _account(fields[0], "from", banks), _account(fields[1], "to", banks)
    if source == target:
        raise _Reject("from and to are the same account")
    return Transfer(number, source, target, _cents(fields[2]))


def _account(text: str, field: str, banks: Collection[str]) -> Account:
    match = _ACCOUNT.fullmatch(text)
    if match is None:
        raise _Reject(f"{field}: {text[:80]!r} is no account; write name@bank, for example bob@bank-a")
    name, bank = match.groups()
    if bank not in banks:
        raise _Reject(f"{field}: there is no bank {bank!r}; there are {', '.join(sorted(banks))}")
    return Account(bank, name)


def _cents(text: str) -> int:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise _Reject(f"amount: {text[:40]!r} is no amount; write for example 12 or 12.50")
    whole, decimals = match.groups()
    cents = int(whole) * 100 + int((decimals or "").ljust(2, "0"))
    if not 0 < cents <= AMOUNT_MAX_CENTS:
        raise _Reject(f"amount: {text} is not between 0.01 and {money(AMOUNT_MAX_CENTS)}")
    return cents
