"""The books after the run: what clients heard, what every replica's ledger says, what both banks hold. Pure.

Three independent accounts of the same history must agree, transfer by transfer and cent by cent:

- *answers*: each client's answer equals the ledger of every replica, and the branch of each bank;
- *balances*: each account holds its opening plus what the committed transfers moved, so the money is conserved;
- *in doubt*: nothing is left prepared, and no record is left unfinished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coordinator.demo.transfers import Account, Transfer
from coordinator.wire import Outcome
from participant.ids import BranchKey
from participant.wire import BranchState

__all__ = ["Entry", "Evidence", "Verdict", "audit"]

# What a bank may say of a branch when its transaction ended so. A branch that was never asked is unknown to it.
_FITTING = {
    Outcome.COMMITTED: frozenset({BranchState.COMMITTED}),
    Outcome.ABORTED: frozenset({BranchState.ABORTED, BranchState.UNKNOWN}),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a replica's ledger. `finished`: every branch has confirmed the decision."""

    outcome: Outcome
    finished: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was collected when the work was over.

    `answers`: what the clients heard of each transfer. `ledgers`: each node's records by gid. `branches`: each
    bank's word on the branches it was asked about. `balances`: cents by account, as the banks hold them. `in_doubt`:
    branches that are still prepared, by the word of the banks and of their database servers. `strays`: records in a
    shard that they do not belong to.
    """

    opening: Mapping[Account, int]
    answers: Mapping[Transfer, Outcome]
    ledgers: Mapping[str, Mapping[str, Entry]]
    branches: Mapping[str, Mapping[BranchKey, BranchState]]
    balances: Mapping[Account, int]
    in_doubt: tuple[str, ...]
    strays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`findings` says in words everything that is wrong."""

    conserved: bool
    answers_match: bool
    in_doubt: int
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the books are right."""
        return not self.findings


def audit(evidence: Evidence) -> Verdict:
    """Hold the accounts of the run against each other."""
    money = [*_conservation(evidence), *_balances(evidence)]
    answers = [*_answers(evidence), *_rows(evidence), *evidence.strays]
    doubts = [*(f"still prepared: {branch}" for branch in evidence.in_doubt), *_unfinished(evidence)]
    return Verdict(
        conserved=not money,
        answers_match=not answers,
        in_doubt=len(doubts),
        findings=(*money, *answers, *doubts),
    )


def _unfinished(evidence: Evidence) -> Iterator[str]:
    for node, ledger in evidence.ledgers.items():
        for gid, entry in ledger.items():
            if not entry.finished:
                yield f"unfinished: {gid} at {node}"


def _conservation(evidence: Evidence) -> Iterator[str]:
    before, after = sum(evidence.opening.values()), sum(evidence.balances.values())
    if before != after:
        yield f"money is not conserved: {before} cents became {after}"


def _balances(evidence: Evidence) -> Iterator[str]:
    """Each account against its opening and the transfers that were answered as committed."""
    expected = Counter(evidence.opening)
    for transfer, outcome in evidence.answers.items():
        if outcome is Outcome.COMMITTED:
            expected[transfer.source] -= transfer.cents
            expected[transfer.target] += transfer.cents
    for account in sorted(expected.keys() | evidence.balances.keys()):
        held = evidence.balances.get(account)
        if held != expected[account]:
            yield f"{account} holds {held} cents; its transfers make {expected[account]}"


def _answers(evidence: Evidence) -> Iterator[str]:
    """Each answer against each replica's ledger."""
    for transfer, outcome in evidence.answers.items():
        for node, ledger in evidence.ledgers.items():
            entry = ledger.get(transfer.gid)
            recorded = entry.outcome.value if entry is not None else "not recorded"
            if recorded != outcome.value or outcome is Outcome.DECIDING:
                yield f"{transfer.gid}: its client heard {outcome.value}, in the ledger of {node} it is {recorded}"


def _rows(evidence: Evidence) -> Iterator[str]:
    """Each answer against each bank's own row."""
    for transfer, outcome in evidence.answers.items():
        for bank, key in ((transfer.source.bank, transfer.debit), (transfer.target.bank, transfer.credit)):
            state = evidence.branches.get(bank, {}).get(key)
            if state not in _FITTING.get(outcome, frozenset()):
                said = "nothing" if state is None else state.value
                yield f"{key}: its client heard {outcome.value}, {bank} says {said}"
