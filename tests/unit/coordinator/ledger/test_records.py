"""The record: what can be read off it."""

from __future__ import annotations

import pytest

from coordinator.ledger.records import BranchRecord, Decision, Notice, Path, Phase, TransactionRecord


def record(phase: Phase, branches: tuple[BranchRecord, ...] = ()) -> TransactionRecord:
    return TransactionRecord("t", b"d", Path.CLASSIC, phase, branches, 1000, 1)


@pytest.mark.parametrize(
    ("phase", "decision", "finished"),
    [
        (Phase.PREPARING, None, False),
        (Phase.COMMITTING, Decision.COMMIT, False),
        (Phase.COMMITTED, Decision.COMMIT, True),
        (Phase.ABORTING, Decision.ABORT, False),
        (Phase.ABORTED, Decision.ABORT, True),
    ],
)
def test_the_phase_tells_the_decision(phase: Phase, decision: Decision | None, finished: bool) -> None:
    assert record(phase).decision is decision
    assert record(phase).finished is finished


def test_a_record_without_branches_is_a_tombstone() -> None:
    assert record(Phase.ABORTED).tombstone
    assert not record(Phase.ABORTED, (BranchRecord("a", "bank", None, b""),)).tombstone


@pytest.mark.parametrize(
    ("phase", "notified", "owed", "finished"),
    [
        (Phase.PREPARING, Notice.NONE, Notice.NONE, False),
        (Phase.COMMITTING, Notice.NONE, Notice.DECIDED, False),
        (Phase.ABORTING, Notice.DECIDED, Notice.NONE, False),
        (Phase.COMMITTED, Notice.NONE, Notice.ENDED, False),
        (Phase.COMMITTED, Notice.DECIDED, Notice.ENDED, False),
        (Phase.ABORTED, Notice.ENDED, Notice.NONE, True),
    ],
)
def test_an_application_is_owed_what_it_has_not_heard(
    phase: Phase, notified: Notice, owed: Notice, finished: bool
) -> None:
    wanted = record(phase)._replace(notify="http://a", notified=notified)
    assert (wanted.notice_owed, wanted.finished) == (owed, finished)
    assert wanted._replace(notify="").notice_owed is Notice.NONE
