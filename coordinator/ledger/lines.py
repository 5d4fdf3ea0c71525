"""Messages of one key stand in line, in the order of their begin; the first of each line has its turn. Pure.

A line is remade from the records: each message says when it joined. A message leaves its line when nothing is owed to
it any more, when it is set aside, and when its transaction is aborted; then the next one has its turn. So who has it,
stands in the record, and whoever leads needs no line to know it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

from coordinator.ledger.records import BranchRecord, Decision, Delivery, TransactionRecord

__all__ = ["Lines", "Place", "with_turn"]

Place: TypeAlias = tuple[str, str]  # the gid and the branch of a message


class Lines:
    """Who stands in line, by key. As large as the messages that are not delivered yet."""

    def __init__(self, records: Iterable[TransactionRecord] = ()) -> None:
        self._lines: dict[str, OrderedDict[Place, None]] = {}
        standing = [
            (delivery.joined, number, delivery.key, (record.gid, branch.branch))
            for record in records
            for number, branch in enumerate(record.branches)
            if (delivery := _delivery_of(branch)) is not None and not _has_left(record, branch)
        ]
        for _, _, key, place in sorted(standing):
            self._join(key, place)

    def join(self, record: TransactionRecord, joined: int) -> tuple[BranchRecord, ...]:
        """The branches of a record, where each message that stands nowhere has joined its line, and has its turn if
        nobody stands before it. `joined`: the ledger's revision."""
        return tuple([self._placed(record, branch, joined) for branch in record.branches])

    def leave(self, record: TransactionRecord) -> list[Place]:
        """Let the messages of a record go that do not wait any more; whose turn it is now instead."""
        vacated: list[str] = []  # keys
        for branch in record.branches:
            delivery = _delivery_of(branch)
            if delivery is None or not _has_left(record, branch):
                continue
            line, place = self._lines.get(delivery.key), (record.gid, branch.branch)
            if line is None or place not in line:
                continue
            if next(iter(line)) == place:
                vacated.append(delivery.key)
            del line[place]
            if not line:
                del self._lines[delivery.key]
        # Only now, because the next one may have been another message of this record, which has gone as well.
        return [next(iter(self._lines[key])) for key in dict.fromkeys(vacated) if key in self._lines]

    def _placed(self, record: TransactionRecord, branch: BranchRecord, joined: int) -> BranchRecord:
        delivery, place = _delivery_of(branch), (record.gid, branch.branch)
        if delivery is None or branch.step is None or _has_left(record, branch):
            return branch
        line = self._lines.get(delivery.key)
        if line is not None and place in line:
            return branch
        turn = line is None or not delivery.key
        self._join(delivery.key, place)
        return branch._replace(step=branch.step._replace(delivery=delivery._replace(joined=joined, turn=turn)))

    def _join(self, key: str, place: Place) -> None:
        if key:
            self._lines.setdefault(key, OrderedDict())[place] = None


def with_turn(branches: tuple[BranchRecord, ...], name: str) -> tuple[BranchRecord, ...]:
    """The same branches, and it is the turn of the one called `name`."""
    return tuple([_with_turn(branch) if branch.branch == name else branch for branch in branches])


def _with_turn(branch: BranchRecord) -> BranchRecord:
    step = branch.step
    if step is None or step.delivery is None:
        return branch
    return branch._replace(step=step._replace(delivery=step.delivery._replace(turn=True)))


def _delivery_of(branch: BranchRecord) -> Delivery | None:
    return None if branch.step is None else branch.step.delivery


def _has_left(record: TransactionRecord, branch: BranchRecord) -> bool:
    delivery = _delivery_of(branch)
    return branch.ended or record.decision is Decision.ABORT or (delivery is not None and delivery.dead)
