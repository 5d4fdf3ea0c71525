"""The accounts of the demo's banks: who has one, and with how much it is opened."""

from __future__ import annotations

from coordinator.demo.transfers import Account

__all__ = ["BANKS", "OPENING_CENTS", "opening"]

BANKS = ("bank-a", "bank-b")
OPENING_CENTS = 200_00

# The first of each bank are the two that textbooks move money between.
_NAMES = {
    "bank-a": ("bob", "alice", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"),
    "bank-b": ("smith", "jones", "brown", "taylor", "davies", "evans", "thomas", "roberts", "walker", "wright"),
}
_NAMESAKES = 20  # bob, bob-2, … bob-20: enough that transfers seldom wait for each other's rows


def opening() -> dict[Account, int]:
    """Every account with the cents that it is opened with."""
    return {
        Account(bank, name if number == 1 else f"{name}-{number}"): OPENING_CENTS
        for bank in BANKS
        for name in _NAMES[bank]
        for number in range(1, _NAMESAKES + 1)
    }
