"""The ledger: one command after another, and what can be read afterwards."""

from __future__ import annotations

import pytest

from coordinator.ledger import table
from coordinator.ledger.commands import (
    BY_DEADLINE,
    BY_INQUIRY,
    BY_VOTES,
    Begin,
    Decide,
    End,
    Forget,
    Heard,
    Progress,
    encode,
)
from coordinator.ledger.errors import CommandError
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Phase, Retry, StepRecord, TransactionRecord
from coordinator.ledger.table import PAGE_MAX, Accepted, Cursor, Ledger, PageQuery, Rejected
from coordinator.ledger.transitions import Why


def begin(gid: str = "t", *, digest: bytes = b"d", names: str = "ab", at_ms: int = 1) -> Begin:
    branches = tuple(BranchRecord(name, f"bank-{name}", "debit", b"body") for name in names)
    return Begin(gid, digest, Path.CLASSIC, branches, 1000, at_ms)


def commit(gid: str = "t", *, at_ms: int = 2, done: tuple[str, ...] = ()) -> Decide:
    return Decide(gid, Decision.COMMIT, BY_VOTES, at_ms, done=done)


def abort(gid: str = "t", *, by: str = BY_VOTES, at_ms: int = 2, done: tuple[str, ...] = ()) -> Decide:
    return Decide(gid, Decision.ABORT, by, at_ms, reason="no money", culprit="a", done=done)


def accepted(result: object) -> TransactionRecord:
    assert isinstance(result, Accepted)
    assert result.record is not None
    return result.record


def committed(ledger: Ledger, gid: str, *, begun_ms: int = 1, decided_ms: int = 2) -> None:
    accepted(ledger.execute(begin(gid, at_ms=begun_ms)))
    accepted(ledger.execute(commit(gid, at_ms=decided_ms, done=("a", "b"))))


def test_a_trace_stays_with_its_transaction_through_every_change() -> None:
    """Red when a command drops it. A repeat that names another one changes nothing."""
    ledger = Ledger()
    accepted(ledger.execute(begin()._replace(trace="first")))
    assert accepted(ledger.execute(begin()._replace(trace="second"))).trace == "first"
    assert accepted(ledger.execute(commit(done=("a",)))).trace == "first"
    done = accepted(ledger.execute(End("t", ("b",))))
    assert (done.finished, done.trace) == (True, "first")


def test_apply_reads_the_bytes_of_the_log() -> None:
    ledger = Ledger()
    record = accepted(ledger.apply(1, encode(begin())))
    assert ledger.get("t") is record
    assert len(ledger) == 1


def test_bytes_that_cannot_be_read_stop_the_node() -> None:
    """Skipping them here and not elsewhere would let replicas diverge."""
    with pytest.raises(CommandError):
        Ledger().apply(1, b"\xc1")


def test_a_whole_life() -> None:
    ledger = Ledger()
    begun = accepted(ledger.execute(begin()))
    assert begun.phase is Phase.PREPARING
    assert begun.branches == begin().branches
    assert (begun.begun_at_ms, begun.deadline_ms, begun.revision) == (1, 1000, 1)

    decided = accepted(ledger.execute(commit()))
    assert decided.phase is Phase.COMMITTING
    assert (decided.decided_at_ms, decided.decided_by, decided.revision) == (2, BY_VOTES, 2)
    assert [branch.body for branch in decided.branches] == [b"", b""], "bodies are dropped once decided"
    assert [branch.action for branch in decided.branches] == ["debit", "debit"]

    half = accepted(ledger.execute(End("t", ("b",))))
    assert [branch.ended for branch in half.branches] == [False, True]
    assert half.phase is Phase.COMMITTING

    whole = accepted(ledger.execute(End("t", ("a",))))
    assert whole.phase is Phase.COMMITTED

    assert ledger.execute(Forget(("t",))) == Accepted(None)
    assert ledger.get("t") is None
    assert (len(ledger), ledger.revision) == (0, 5)


def test_an_abort_says_why_and_who() -> None:
    ledger = Ledger()
    ledger.execute(begin())
    record = accepted(ledger.execute(abort(done=("a",))))
    assert record.phase is Phase.ABORTING
    assert (record.reason, record.culprit) == ("no money", "a")
    assert [branch.ended for branch in record.branches] == [True, False]
    assert accepted(ledger.execute(End("t", ("b",)))).phase is Phase.ABORTED


def test_the_abort_of_an_unknown_transaction_outlives_a_late_begin() -> None:
    ledger = Ledger()
    tombstone = accepted(ledger.execute(abort(by=BY_INQUIRY)))
    assert tombstone.tombstone
    assert tombstone.phase is Phase.ABORTED
    assert (tombstone.begun_at_ms, tombstone.decided_at_ms, tombstone.decided_by) == (2, 2, BY_INQUIRY)
    assert ledger.execute(begin()) == Rejected(Why.OTHER_REQUEST, tombstone)


def test_the_first_decision_wins() -> None:
    ledger = Ledger()
    ledger.execute(begin())
    first = accepted(ledger.execute(commit(at_ms=2)))
    assert accepted(ledger.execute(commit(at_ms=9, done=("a",)))) is first, "an equal one changes nothing"
    assert ledger.execute(abort(by=BY_DEADLINE)) == Rejected(Why.CONTRARY_DECISION, first)


@pytest.mark.parametrize(
    ("command", "why"),
    [(commit(), Why.UNKNOWN_GID), (End("t", ("a",)), Why.UNKNOWN_GID), (begin(names=""), Why.MALFORMED)],
)
def test_a_rejected_command_leaves_no_trace(command: Decide | End | Begin, why: Why) -> None:
    ledger = Ledger()
    assert ledger.execute(command) == Rejected(why, None)
    assert (len(ledger), ledger.revision) == (0, 0)


def test_an_end_before_the_decision_is_rejected() -> None:
    ledger = Ledger()
    record = accepted(ledger.execute(begin()))
    assert ledger.execute(End("t", ("a",))) == Rejected(Why.UNDECIDED, record)


def test_repeats_change_nothing() -> None:
    ledger = Ledger()
    ledger.execute(begin())
    ledger.execute(commit())
    record = accepted(ledger.execute(End("t", ("a",))))
    for repeat in (begin(), commit(), End("t", ("a",)), End("t", ("nobody",))):
        assert accepted(ledger.execute(repeat)) is record
    assert ledger.revision == 3


def test_only_finished_transactions_are_forgotten() -> None:
    ledger = Ledger()
    committed(ledger, "done")
    ledger.execute(begin("open"))
    ledger.execute(Forget(("done", "open", "never heard of")))
    assert ledger.get("done") is None
    assert ledger.get("open") is not None


def test_unfinished_lists_what_a_leader_must_take_up() -> None:
    ledger = Ledger()
    for gid in ("preparing", "committing", "aborting"):
        ledger.execute(begin(gid))
    ledger.execute(commit("committing"))
    ledger.execute(abort("aborting"))
    committed(ledger, "committed")
    ledger.execute(abort("tombstone", by=BY_INQUIRY))
    assert sorted(record.gid for record in ledger.unfinished()) == ["aborting", "committing", "preparing"]
    ledger.execute(End("aborting", ("a", "b")))
    assert sorted(record.phase for record in ledger.unfinished()) == [Phase.COMMITTING, Phase.PREPARING]


def gids(records: tuple[TransactionRecord, ...]) -> list[str]:
    return [record.gid for record in records]


def test_pages_go_from_the_newest_to_the_oldest_without_a_gap() -> None:
    ledger = Ledger()
    for gid, at_ms in (("a", 5), ("b", 3), ("c", 5), ("d", 9), ("e", 3)):
        ledger.execute(begin(gid, at_ms=at_ms))
    seen: list[str] = []
    cursor: Cursor | None = None
    for _ in range(3):
        page = ledger.page(PageQuery(limit=2, after=cursor))
        seen += gids(page.records)
        cursor = page.cursor
        ledger.execute(begin(f"late-{len(seen)}", at_ms=100))  # newer ones do not disturb the walk
    assert seen == ["d", "c", "a", "e", "b"]
    assert cursor is None


def test_the_number_of_works_is_kept_until_the_decision() -> None:
    """A new leader asks for the votes again, and from what the record holds. Phase two needs it no more."""
    ledger = Ledger()
    branch = BranchRecord("a", "bank-a", None, b"", works=3)
    ledger.execute(Begin("t", b"d", Path.CLASSIC, (branch,), 1_000, 1))
    other = Ledger()
    other.restore(ledger.snapshot())
    assert [record.branches for record in other.unfinished()] == [(branch,)]
    ledger.execute(commit("t"))
    assert [record.branches[0].works for record in ledger.unfinished()] == [None]


def test_a_page_selects() -> None:
    ledger = Ledger()
    for number in range(1, 6):
        ledger.execute(begin(f"t{number}", at_ms=number, names="ab" if number % 2 else "c"))
    ledger.execute(commit("t3"))
    assert gids(ledger.page(PageQuery(limit=9, begun_from_ms=2, begun_before_ms=4)).records) == ["t3", "t2"]
    assert gids(ledger.page(PageQuery(limit=9, participant="bank-c")).records) == ["t4", "t2"]
    assert gids(ledger.page(PageQuery(limit=9, phases=frozenset((Phase.COMMITTING,)))).records) == ["t3"]
    assert gids(ledger.page(PageQuery(limit=9, after=(4, "t4"), begun_before_ms=5)).records) == ["t3", "t2", "t1"]
    assert gids(ledger.page(PageQuery(limit=9, after=(4, "t4"), begun_before_ms=3)).records) == ["t2", "t1"]


def test_a_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is asked for, by PAGE_MAX, and by the number of records looked at."""
    ledger = Ledger()
    for number in range(PAGE_MAX + 1):
        ledger.execute(begin(f"t{number:04}", at_ms=number))
    assert len(ledger.page(PageQuery(limit=10 * PAGE_MAX)).records) == PAGE_MAX

    monkeypatch.setattr(table, "SCAN_MAX", 10)
    page = ledger.page(PageQuery(limit=5, participant="nobody"))
    assert page.records == ()
    assert page.cursor == (PAGE_MAX - 9, f"t{PAGE_MAX - 9:04}")


def test_finished_before_gives_the_oldest_first() -> None:
    ledger = Ledger()
    committed(ledger, "young", decided_ms=30)
    committed(ledger, "old", decided_ms=10)
    committed(ledger, "older", decided_ms=5)
    ledger.execute(begin("open", at_ms=1))
    assert ledger.finished_before(30, limit=9) == ("older", "old")
    assert ledger.finished_before(31, limit=9) == ("older", "old", "young")
    assert ledger.finished_before(31, limit=2) == ("older", "old")
    ledger.execute(Forget(("older",)))
    assert ledger.finished_before(31, limit=1) == ("old",)


def test_listeners_hear_every_change_and_nothing_else() -> None:
    ledger = Ledger()
    heard: list[TransactionRecord] = []
    end = ledger.subscribe(heard.append)
    changes = [accepted(ledger.execute(command)) for command in (begin(), commit(), End("t", ("a", "b")))]
    ledger.execute(commit())  # a repeat
    ledger.execute(abort())  # rejected
    ledger.execute(Forget(("t",)))
    assert heard == changes
    end()
    end()  # ending twice is harmless
    ledger.execute(begin())
    assert heard == changes


def test_a_restored_replica_tells_what_it_has_missed() -> None:
    leader, follower = Ledger(), Ledger()
    for ledger in (leader, follower):
        ledger.execute(begin("known"))
        ledger.execute(begin("changed"))
    heard: list[TransactionRecord] = []
    follower.subscribe(heard.append)
    leader.execute(commit("changed"))
    leader.execute(begin("new"))
    follower.restore(leader.snapshot())
    assert heard == [leader.get("changed"), leader.get("new")]


def test_a_snapshot_is_of_its_moment() -> None:
    """It is captured when asked for, and encoded later, while commands go on."""
    ledger, other = Ledger(), Ledger()
    ledger.execute(begin())
    then = ledger.get("t")
    chunks = ledger.snapshot()
    ledger.execute(commit())
    ledger.execute(begin("later"))
    other.restore(chunks)
    assert other.get("t") == then
    assert (len(other), other.revision) == (1, 1)


def test_a_restored_ledger_goes_on_like_the_other() -> None:
    ledger, other = Ledger(), Ledger()
    committed(ledger, "done", begun_ms=1, decided_ms=2)
    ledger.execute(begin("open", at_ms=3))
    other.execute(begin("replaced"))
    other.restore(ledger.snapshot())
    assert other.page(PageQuery(limit=9)) == ledger.page(PageQuery(limit=9))
    assert other.unfinished() == ledger.unfinished()
    assert other.finished_before(3, limit=9) == ("done",)
    for command in (commit("open"), Forget(("done",))):
        assert other.execute(command) == ledger.execute(command)
    assert b"".join(other.snapshot()) == b"".join(ledger.snapshot())


def stepwise() -> Ledger:
    """A ledger with a transaction of two steps."""
    step = StepRecord(Mode.SAGA, (), None, "undo", (), Retry(3, 100, 100))
    ledger = Ledger()
    branches = tuple(branch._replace(step=step) for branch in begin().branches)
    accepted(ledger.execute(begin()._replace(path=Path.STEPS, branches=branches)))
    return ledger


def first_step(ledger: Ledger) -> StepRecord:
    record = ledger.get("t")
    assert record is not None
    assert record.branches[0].step is not None
    return record.branches[0].step


def test_a_step_keeps_its_attempts_and_its_result() -> None:
    ledger = stepwise()
    refused = accepted(ledger.execute(Progress("t", "a", 1, Heard.REFUSED)))
    assert (refused.phase, refused.revision) == (Phase.PREPARING, 2)
    accepted(ledger.execute(Progress("t", "a", 2, Heard.DONE, b"\x2a")))
    step = first_step(ledger)
    assert (step.attempt, step.settling, step.done, step.result) == (2, 1, True, b"\x2a")
    other = ledger.get("t")
    assert other is not None
    assert other.branches[1].step is not None
    assert not other.branches[1].step.done


def test_a_repeat_and_what_is_said_of_another_attempt_change_nothing() -> None:
    """Commands may arrive twice. Red when the attempt is not compared."""
    ledger = stepwise()
    accepted(ledger.execute(Progress("t", "a", 1, Heard.REFUSED)))
    before = ledger.revision
    for late in (
        Progress("t", "a", 1, Heard.REFUSED),
        Progress("t", "a", 1, Heard.DONE, b"\x2a"),
        Progress("t", "a", 3, Heard.DONE, b"\x2a"),
    ):
        assert accepted(ledger.execute(late)).revision == before
    assert (first_step(ledger).attempt, first_step(ledger).done) == (2, False)


def test_what_has_succeeded_is_not_refused_any_more() -> None:
    ledger = stepwise()
    accepted(ledger.execute(Progress("t", "a", 1, Heard.DONE)))
    before = ledger.revision
    assert accepted(ledger.execute(Progress("t", "a", 1, Heard.REFUSED))).revision == before
    assert (first_step(ledger).attempt, first_step(ledger).done) == (1, True)


def test_steps_keep_their_bodies_until_they_have_ended() -> None:
    """Their confirm and undo get them. Red when a decision drops the body, as it does in two-phase commit."""
    ledger = stepwise()
    decided = accepted(ledger.execute(abort(done=("b",))))
    assert [branch.body for branch in decided.branches] == [b"body", b""]
    again = accepted(ledger.execute(Progress("t", "a", 1, Heard.UNSETTLED)))
    assert again.branches[0].body == b"body"
    assert first_step(ledger).settling == 2
    ended = accepted(ledger.execute(End("t", ("a",))))
    assert (ended.phase, ended.branches[0].body) == (Phase.ABORTED, b"")


def test_progress_of_no_step_is_rejected() -> None:
    ledger = stepwise()
    committed(ledger, "plain")
    for command, why in (
        (Progress("t", "c", 1, Heard.DONE), Why.NO_STEP),
        (Progress("t", "a", 1, Heard.UNSETTLED), Why.NO_STEP),
        (Progress("plain", "a", 1, Heard.UNSETTLED), Why.NO_STEP),
        (Progress("gone", "a", 1, Heard.DONE), Why.UNKNOWN_GID),
    ):
        result = ledger.execute(command)
        assert isinstance(result, Rejected)
        assert result.reason is why
