"""The table of transitions: complete, consistent with itself, and drawn faithfully in the documentation."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path as File

import pytest

from coordinator.ledger.commands import (
    BY_DEADLINE,
    BY_EXPIRY,
    BY_INQUIRY,
    BY_OPERATOR,
    BY_PARTICIPANTS,
    BY_VOTES,
    Begin,
    Command,
    Decide,
    DropNotice,
    End,
    Forget,
    Heard,
    Notified,
    Precommit,
    Progress,
)
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Mode,
    Notice,
    Path,
    Phase,
    Retry,
    StepRecord,
    TransactionRecord,
)
from coordinator.ledger.transitions import TRANSITIONS, Event, Guard, Transition, Why, draw, find

STATES_PAGE = File(__file__).parents[4] / "docs" / "internals" / "states.md"
MARK = "<!-- drawn -->\n"
DECIDED = {
    Decision.COMMIT: (Phase.COMMITTING, Phase.COMMITTED),
    Decision.ABORT: (Phase.ABORTING, Phase.ABORTED),
}


def record(phase: Phase, *, path: Path = Path.CLASSIC, open_branches: str = "ab") -> TransactionRecord:
    branches = tuple(BranchRecord(name, f"bank-{name}", None, b"", name not in open_branches) for name in "ab")
    return TransactionRecord("t", b"d", path, phase, branches, 1000, 1)


def begin(digest: bytes = b"d", names: str = "ab") -> Begin:
    branches = tuple(BranchRecord(name, f"bank-{name}", None, b"") for name in names)
    return Begin("t", digest, Path.CLASSIC, branches, 1000, 1)


def decide(decision: Decision, by: str = BY_VOTES, done: tuple[str, ...] = ()) -> Decide:
    return Decide("t", decision, by, 2, done=done)


def becomes(before: TransactionRecord | None, event: Event, command: Command) -> Phase | Why | None:
    row = find(before, event, command)
    return row.becomes if isinstance(row, Transition) else row


def test_an_unknown_gid_can_be_begun_or_aborted_by_an_inquiry_and_nothing_else() -> None:
    assert becomes(None, Event.BEGIN, begin()) is Phase.PREPARING
    assert becomes(None, Event.ABORT, decide(Decision.ABORT, BY_INQUIRY)) is Phase.ABORTED
    for by in (BY_VOTES, BY_DEADLINE, BY_OPERATOR + "ann"):
        assert becomes(None, Event.ABORT, decide(Decision.ABORT, by)) is Why.UNKNOWN_GID
        assert becomes(None, Event.COMMIT, decide(Decision.COMMIT, by)) is Why.UNKNOWN_GID
    assert becomes(None, Event.END, End("t", ("a",))) is Why.UNKNOWN_GID
    assert becomes(None, Event.FORGET, Forget(("t",))) is Why.UNKNOWN_GID


@pytest.mark.parametrize("names", ["", "aa", "aba"])
def test_a_begin_without_branches_or_with_one_twice_is_malformed(names: str) -> None:
    assert becomes(None, Event.BEGIN, begin(names=names)) is Why.MALFORMED


@pytest.mark.parametrize("phase", list(Phase))
def test_a_repeated_begin_changes_nothing_and_another_request_is_told_apart(phase: Phase) -> None:
    assert becomes(record(phase), Event.BEGIN, begin()) is phase
    assert becomes(record(phase), Event.BEGIN, begin(digest=b"other")) is Why.OTHER_REQUEST


@pytest.mark.parametrize(("decision", "event"), [(Decision.COMMIT, Event.COMMIT), (Decision.ABORT, Event.ABORT)])
def test_a_decision_with_nothing_owed_is_finished_at_once(decision: Decision, event: Event) -> None:
    owed, finished = DECIDED[decision]
    assert becomes(record(Phase.PREPARING), event, decide(decision)) is owed
    assert becomes(record(Phase.PREPARING), event, decide(decision, done=("a",))) is owed
    assert becomes(record(Phase.PREPARING), event, decide(decision, done=("a", "b"))) is finished


@pytest.mark.parametrize(("decision", "event"), [(Decision.COMMIT, Event.COMMIT), (Decision.ABORT, Event.ABORT)])
def test_the_first_decision_wins_whoever_asks(decision: Decision, event: Event) -> None:
    contrary, contrary_event = (
        (Decision.ABORT, Event.ABORT) if decision is Decision.COMMIT else (Decision.COMMIT, Event.COMMIT)
    )
    for phase, by in product(DECIDED[decision], (BY_VOTES, BY_DEADLINE, BY_INQUIRY, BY_OPERATOR + "ann")):
        assert becomes(record(phase), event, decide(decision, by)) is phase
        assert becomes(record(phase), contrary_event, decide(contrary, by)) is Why.CONTRARY_DECISION


@pytest.mark.parametrize("path", list(Path))
@pytest.mark.parametrize("by", [BY_DEADLINE, BY_INQUIRY, BY_OPERATOR + "ann", "somebody"])
def test_only_votes_commit(by: str, path: Path) -> None:
    assert becomes(record(Phase.PREPARING, path=path), Event.COMMIT, decide(Decision.COMMIT, by)) is Why.NOT_ALLOWED


@pytest.mark.parametrize("path", list(Path))
def test_who_may_abort_an_undecided_transaction(path: Path) -> None:
    """An operator may on the classic path only: elsewhere a commit could be implied already, which the driver knows."""

    def abort(by: str) -> Phase | Why | None:
        return becomes(record(Phase.PREPARING, path=path), Event.ABORT, decide(Decision.ABORT, by))

    assert abort(BY_VOTES) is Phase.ABORTING
    assert abort(BY_DEADLINE) is Phase.ABORTING
    assert abort(BY_EXPIRY + "ann") is Phase.ABORTING
    assert abort(BY_INQUIRY) is Why.NOT_ALLOWED
    assert abort("somebody") is Why.NOT_ALLOWED
    assert abort(BY_OPERATOR + "ann") is (Phase.ABORTING if path is Path.CLASSIC else Why.NOT_ALLOWED)


@pytest.mark.parametrize("path", list(Path))
def test_a_commit_in_three_phases_goes_through_the_second(path: Path) -> None:
    """And no other one does."""
    committed = becomes(record(Phase.PREPARING, path=path), Event.COMMIT, decide(Decision.COMMIT))
    assert committed is (Why.NOT_ALLOWED if path.is_three_phase else Phase.COMMITTING)
    precommitted = becomes(record(Phase.PREPARING, path=path), Event.PRECOMMIT, Precommit("t"))
    assert precommitted is (Phase.PRECOMMITTING if path.is_three_phase else Why.NOT_ALLOWED)


def test_who_may_decide_once_it_is_precommitting() -> None:
    """Nobody aborts but the participants, who may have committed."""
    before = record(Phase.PRECOMMITTING, path=Path.THREE_PHASE)
    for by in (BY_VOTES, BY_DEADLINE, BY_EXPIRY + "ann", BY_OPERATOR + "ann", BY_INQUIRY, "somebody"):
        assert becomes(before, Event.ABORT, decide(Decision.ABORT, by)) is Why.NOT_ALLOWED
    assert becomes(before, Event.ABORT, decide(Decision.ABORT, BY_PARTICIPANTS)) is Phase.ABORTING
    assert becomes(before, Event.COMMIT, decide(Decision.COMMIT, BY_PARTICIPANTS)) is Phase.COMMITTING
    assert becomes(before, Event.COMMIT, decide(Decision.COMMIT, BY_VOTES)) is Phase.COMMITTING
    assert becomes(before, Event.COMMIT, decide(Decision.COMMIT, BY_OPERATOR + "ann")) is Why.NOT_ALLOWED
    assert becomes(before, Event.PRECOMMIT, Precommit("t")) is Phase.PRECOMMITTING


def test_what_is_decided_is_not_precommitting_again() -> None:
    for phase in (Phase.COMMITTING, Phase.ABORTING, Phase.COMMITTED, Phase.ABORTED):
        before = record(phase, path=Path.THREE_PHASE)
        assert becomes(before, Event.PRECOMMIT, Precommit("t")) is Why.CONTRARY_DECISION
    assert becomes(None, Event.PRECOMMIT, Precommit("t")) is Why.UNKNOWN_GID


@pytest.mark.parametrize("decision", list(Decision))
def test_the_last_end_finishes(decision: Decision) -> None:
    owed, finished = DECIDED[decision]
    assert becomes(record(owed), Event.END, End("t", ("a",))) is owed
    assert becomes(record(owed), Event.END, End("t", ("a", "b"))) is finished
    assert becomes(record(owed, open_branches="b"), Event.END, End("t", ("b",))) is finished
    assert becomes(record(finished, open_branches=""), Event.END, End("t", ("b",))) is finished


def test_a_branch_cannot_end_before_there_is_a_decision() -> None:
    assert becomes(record(Phase.PREPARING), Event.END, End("t", ("a",))) is Why.UNDECIDED


OF_LETTERS = (Heard.SET_ASIDE, Heard.REDELIVERED, Heard.DROPPED)


def stepwise(phase: Phase, mode: Mode = Mode.SAGA, *, open_branches: str = "ab") -> TransactionRecord:
    step = StepRecord(mode, (), None, "undo", (), Retry(1, 100, 100))
    plain = record(phase, path=Path.STEPS, open_branches=open_branches)
    return plain._replace(branches=tuple(branch._replace(step=step) for branch in plain.branches))


@pytest.mark.parametrize("heard", list(Heard))
@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_heard_of_a_step_counts_on_its_side_of_the_decision(heard: Heard, phase: Phase) -> None:
    """What was refused behind the decision is no news before it, and what was heard before it comes too late behind."""
    # Only a workflow's step is given up.
    before = phase is Phase.PREPARING and heard not in (Heard.UNSETTLED, Heard.GIVEN_UP, *OF_LETTERS)
    behind = phase in (Phase.COMMITTING, Phase.ABORTING) and heard is Heard.UNSETTLED
    found = becomes(stepwise(phase), Event.PROGRESS, Progress("t", "a", 1, heard))
    assert found is (phase if before or behind else Why.NO_STEP)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.COMMITTING, Phase.ABORTING])
def test_there_is_progress_of_open_steps_only(phase: Phase) -> None:
    heard = Heard.DONE if phase is Phase.PREPARING else Heard.UNSETTLED
    for name, before in (
        ("a", stepwise(phase, open_branches="b")),
        ("c", stepwise(phase)),
        ("a", record(phase)),
    ):
        assert becomes(before, Event.PROGRESS, Progress("t", name, 1, heard)) is Why.NO_STEP
    assert becomes(None, Event.PROGRESS, Progress("t", "a", 1, heard)) is Why.UNKNOWN_GID


@pytest.mark.parametrize("phase", list(Phase))
def test_an_application_is_said_to_know_what_is_so_if_it_wants_to(phase: Phase) -> None:
    wanted = record(phase)._replace(notify="http://a")
    ended = phase in (Phase.COMMITTED, Phase.ABORTED)
    undecided = phase in (Phase.PREPARING, Phase.PRECOMMITTING)
    for notice, is_so in ((Notice.DECIDED, not undecided), (Notice.ENDED, ended)):
        command = Notified("t", notice)
        why = Why.UNDECIDED if undecided else Why.NO_NOTICE
        assert becomes(wanted, Event.NOTIFIED, command) is (phase if is_so else why)
        assert becomes(record(phase), Event.NOTIFIED, command) is why
    assert becomes(None, Event.NOTIFIED, Notified("t", Notice.ENDED)) is Why.UNKNOWN_GID


@pytest.mark.parametrize("phase", list(Phase))
def test_only_what_is_decided_and_not_told_to_the_end_is_dropped(phase: Phase) -> None:
    undecided = phase in (Phase.PREPARING, Phase.PRECOMMITTING)
    command = DropNotice("t", "ann")
    for notified in Notice:
        wanted = record(phase)._replace(notify="http://a", notified=notified)
        why = Why.UNDECIDED if undecided else Why.NO_NOTICE
        is_owed = not undecided and notified is not Notice.ENDED
        assert becomes(wanted, Event.DROP_NOTICE, command) is (phase if is_owed else why)
        assert becomes(record(phase), Event.DROP_NOTICE, command) is why
    assert becomes(None, Event.DROP_NOTICE, command) is Why.UNKNOWN_GID


def test_what_an_application_has_not_heard_is_not_forgotten() -> None:
    for notified in Notice:
        wanted = record(Phase.COMMITTED)._replace(notify="http://a", notified=notified)
        forgotten = notified is Notice.ENDED
        assert becomes(wanted, Event.FORGET, Forget(("t",))) is (None if forgotten else Why.UNFINISHED)


def test_only_the_finished_is_forgotten() -> None:
    for phase in Phase:
        finished = phase in (Phase.COMMITTED, Phase.ABORTED)
        assert becomes(record(phase), Event.FORGET, Forget(("t",))) is (None if finished else Why.UNFINISHED)


def test_no_row_reverses_a_decision() -> None:
    """Stability, read off the data: from a decided phase only that decision's phases, or oblivion, can be reached."""
    for row in TRANSITIONS:
        for phases in DECIDED.values():
            if row.phase in phases:
                assert row.becomes in (*phases, None)


def test_every_phase_is_reached_and_every_guard_is_used() -> None:
    assert {row.becomes for row in TRANSITIONS} == {*Phase, None}
    assert {row.phase for row in TRANSITIONS} == {*Phase, None}
    assert {guard for row in TRANSITIONS for guard in row.guards} == set(Guard)
    assert len(set(TRANSITIONS)) == len(TRANSITIONS)


def test_the_documentation_shows_this_table() -> None:
    """Red whenever the table changes and the page does not; COMMITD_REWRITE=1 redraws it."""
    page = STATES_PAGE.read_text(encoding="utf-8")
    prose, _, drawn = page.partition(MARK)
    if os.environ.get("COMMITD_REWRITE"):
        STATES_PAGE.write_text(prose + MARK + draw(), encoding="utf-8")
        return
    assert drawn == draw()


def test_the_documentation_explains_every_guard() -> None:
    page = STATES_PAGE.read_text(encoding="utf-8")
    assert all(f"| {guard} | " in page for guard in Guard)


@pytest.mark.parametrize("heard", list(Heard))
@pytest.mark.parametrize("phase", list(Phase))
def test_what_runs_behind_the_decision_is_heard_of_there_only(heard: Heard, phase: Phase) -> None:
    """Its action, who reports it and what becomes of its letter count while it is to commit."""
    of_action = (Heard.BEGUN, Heard.REPORTED, Heard.DECLINED, *OF_LETTERS)
    commits = phase is Phase.COMMITTING and heard in of_action
    refused = phase in (Phase.COMMITTING, Phase.ABORTING) and heard is Heard.UNSETTLED
    found = becomes(stepwise(phase, Mode.FORWARD), Event.PROGRESS, Progress("t", "a", 1, heard))
    assert found is (phase if commits or refused else Why.NO_STEP)
