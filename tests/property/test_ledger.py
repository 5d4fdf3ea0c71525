"""The ledger against a model of it, under any sequence of commands.

Goal: whatever arrives, in whatever order, twice or not, the ledger agrees on every result and every reading with a
model that is nothing but a dictionary and the rules in plain words; a snapshot taken and restored at any point changes
nothing that anybody can see.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from coordinator.ledger.commands import (
    BY_DEADLINE,
    BY_INQUIRY,
    BY_OPERATOR,
    BY_PARTICIPANTS,
    BY_VOTES,
    Begin,
    Command,
    Decide,
    Diverge,
    DropNotice,
    End,
    Extend,
    Forget,
    Heard,
    Notified,
    Precommit,
    Progress,
    Return,
    encode,
)
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Delivery,
    Mode,
    Notice,
    Path,
    Phase,
    Report,
    Reporting,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
)
from coordinator.ledger.table import Accepted, Cursor, Ledger, PageQuery, Result

NAMES = ("a", "b", "c")
gids = st.sampled_from(("t1", "t2", "t3", "t4"))
names = st.lists(st.sampled_from(NAMES), max_size=3).map(tuple)
times_ms = st.integers(0, 20)
bys = st.sampled_from((BY_VOTES, BY_DEADLINE, BY_INQUIRY, BY_OPERATOR + "ann", BY_PARTICIPANTS, "somebody"))


def branch(name: str) -> BranchRecord:
    return BranchRecord(name, f"bank-{name}", "debit", b"body")


def with_step(name: str) -> BranchRecord:
    """`a` is no more than a step; `b` is reported before the decision, `c` behind it, in line with others."""
    step = StepRecord(Mode.SAGA, (), None, "undo", (), Retry(1, 1, 1))
    reporting = Reporting("token", "secret")
    sent = step._replace(mode=Mode.FORWARD, reporting=reporting, delivery=Delivery("k", 1))
    steps = {"b": step._replace(reporting=reporting), "c": sent}
    return branch(name)._replace(step=steps.get(name, step))


digests = st.sampled_from((b"d1", b"d2"))
notifies = st.sampled_from(("", "http://a"))
keys = st.sampled_from(("", "order-1", "order-2"))
begins = st.one_of(
    st.builds(
        Begin,
        gids,
        digests,
        st.sampled_from([path for path in Path if path is not Path.STEPS]),
        names.map(lambda chosen: tuple(map(branch, chosen))),
        st.just(1000),
        times_ms,
        workflow=st.none(),
        key=keys,
        notify=notifies,
    ),
    st.builds(
        Begin,
        gids,
        digests,
        st.just(Path.STEPS),
        names.map(lambda chosen: tuple(map(with_step, chosen))),
        st.just(1000),
        times_ms,
        workflow=st.none(),
        key=keys,
        notify=notifies,
    ),
)
STEPS_MAX = 3
WORKFLOW = WorkflowRecord("book", b"input")
workflows = st.builds(
    Begin,
    gids,
    digests,
    st.just(Path.STEPS),
    st.just(()),
    st.just(1000),
    times_ms,
    workflow=st.just(WORKFLOW),
    key=keys,
    notify=notifies,
)
extends = st.builds(
    lambda gid, number, digest, at_ms: Extend(gid, number, digest, with_step(f"s{number}"), at_ms),
    gids,
    st.integers(0, STEPS_MAX),
    digests,
    times_ms,
)
returns = st.builds(Return, gids, st.integers(0, 3), st.sampled_from((b"", b"\x01")), times_ms, done=names)
diverges = st.builds(Diverge, gids, st.sampled_from(("why", "also")))
progresses = st.builds(
    Progress,
    gids,
    st.sampled_from((*NAMES, "s1", "s2")),
    st.integers(1, 3),
    st.sampled_from(Heard),
    st.sampled_from((b"", b"\x07")),
)
decides = st.builds(Decide, gids, st.sampled_from(Decision), bys, times_ms, done=names)
ends = st.builds(End, gids, names)
notifieds = st.builds(Notified, gids, st.sampled_from((Notice.DECIDED, Notice.ENDED)))
drops = st.builds(DropNotice, gids, st.sampled_from(("ann", "bob")))
forgets = st.builds(Forget, st.lists(gids, max_size=3).map(tuple))
precommits = st.builds(Precommit, gids)
commands = st.one_of(
    *(begins, precommits, decides, decides, ends, forgets, progresses, progresses, notifieds, notifieds),
    *(workflows, extends, extends, returns, diverges, drops),
)


@dataclass
class Entry:
    """A transaction, in the model's own words."""

    begin: Begin | None  # None: a tombstone
    at_ms: int
    decision: Decision | None = None
    decided_at_ms: int = 0
    owed: set[str] = field(default_factory=set)
    is_precommitting: bool = False
    steps: dict[str, tuple[int, int, bool, bytes]] = field(default_factory=dict)  # attempt, settling, done, result
    asked: list[bytes] = field(default_factory=list)  # digests
    refused: dict[str, str] = field(default_factory=dict)
    result: bytes = b""
    diverged: str = ""
    letters: dict[str, tuple[bool, bool, int]] = field(default_factory=dict)  # dead, dropped, spared
    reports: dict[str, tuple[bool, Report | None]] = field(default_factory=dict)  # begun, and what was heard

    heard: set[Notice] = field(default_factory=set)
    dropped: str = ""

    @property
    def wants_notice(self) -> bool:
        return self.begin is not None and self.begin.notify != ""

    @property
    def is_workflow(self) -> bool:
        return self.begin is not None and self.begin.workflow is not None

    @property
    def finished(self) -> bool:
        is_told = not self.wants_notice or Notice.ENDED in self.heard or self.dropped != ""
        return self.decision is not None and not self.owed and is_told


class Model:
    """The rules once more, written as differently as possible: no table, no phases."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def execute(self, command: Command) -> bool:
        """Whether the command is accepted."""
        match command:
            case Begin():
                return self.begin(command)
            case Precommit():
                return self.precommit(command)
            case Decide():
                return self.decide(command)
            case End():
                return self.end(command)
            case Progress():
                return self.progress(command)
            case Extend():
                return self.extend(command)
            case Return():
                return self.returns(command)
            case Diverge():
                return self.diverge(command)
            case Notified():
                return self.notified(command)
            case DropNotice():
                return self.drop_notice(command)
            case Forget():
                for gid in command.gids:
                    if gid in self.entries and self.entries[gid].finished:
                        del self.entries[gid]
                return True

    def begin(self, command: Begin) -> bool:
        entry = self.entries.get(command.gid)
        if entry is not None:
            return entry.begin is not None and entry.begin.digest == command.digest
        chosen = [b.branch for b in command.branches]
        if command.workflow is not None:
            self.entries[command.gid] = Entry(command, command.at_ms)
            return True
        if not chosen or len(chosen) != len(set(chosen)):
            return False
        self.entries[command.gid] = Entry(command, command.at_ms, owed=set(chosen))
        return True

    def decide(self, command: Decide) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None:
            if command.decision is Decision.COMMIT or command.by != BY_INQUIRY:
                return False
            entry = self.entries[command.gid] = Entry(None, command.at_ms)
        elif entry.decision is not None:
            return entry.decision is command.decision
        elif not self.may(command, entry):
            return False
        entry.decision, entry.decided_at_ms = command.decision, command.at_ms
        entry.owed -= set(command.done)
        return True

    @staticmethod
    def may(command: Decide, entry: Entry) -> bool:
        if entry.is_precommitting:
            return command.by == BY_PARTICIPANTS or (command.decision is Decision.COMMIT and command.by == BY_VOTES)
        if command.decision is Decision.COMMIT:
            in_three_phases = entry.begin is not None and entry.begin.path.is_three_phase
            return command.by == BY_VOTES and not in_three_phases
        if command.by.startswith(BY_OPERATOR):
            return entry.begin is not None and entry.begin.path is Path.CLASSIC
        return command.by in (BY_VOTES, BY_DEADLINE)

    def precommit(self, command: Precommit) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or entry.begin is None or not entry.begin.path.is_three_phase or entry.decision is not None:
            return False
        entry.is_precommitting = True
        return True

    def end(self, command: End) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or entry.decision is None:
            return False
        entry.owed -= set(command.branches)
        return True

    def notified(self, command: Notified) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or entry.decision is None or not entry.wants_notice:
            return False
        if command.notice is Notice.ENDED and entry.owed:
            return False
        if not entry.dropped:
            entry.heard.add(command.notice)
        return True

    def drop_notice(self, command: DropNotice) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or entry.decision is None or not entry.wants_notice or Notice.ENDED in entry.heard:
            return False
        entry.dropped = entry.dropped or command.word
        return True

    def progress(self, command: Progress) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or entry.begin is None or entry.begin.path is not Path.STEPS:
            return False
        name, heard = command.branch, command.heard
        before, behind = entry.decision is None, entry.decision is not None
        of_letter = heard in (Heard.SET_ASIDE, Heard.REDELIVERED, Heard.DROPPED)
        of_action = heard in (Heard.BEGUN, Heard.REPORTED, Heard.DECLINED)
        if name == "c":
            commits = (of_action or of_letter) and entry.decision is Decision.COMMIT
            fits = behind and (heard is Heard.UNSETTLED or commits)
        else:
            fits = before is not (heard is Heard.UNSETTLED) and not of_letter
        if name not in entry.owed or not fits:
            return False
        attempt, settling, done, result = entry.steps.get(name, (1, 1, False, b""))
        if heard is Heard.GIVEN_UP:
            if entry.is_workflow and command.attempt == attempt and not done:
                entry.owed.remove(name)
                entry.refused[name] = command.result.decode("utf-8", "replace")
            return entry.is_workflow
        if heard is Heard.UNSETTLED and command.attempt == settling:
            settling += 1
            kept = command.result or result
            result = self.anew(entry, name, result)
            result = kept if name == "c" else result
        if heard is Heard.REFUSED and command.attempt == attempt and not done:
            attempt += 1
            result = self.anew(entry, name, result)
        if heard is Heard.DONE and command.attempt == attempt:
            done, result = True, command.result
        if of_action and name in ("b", "c") and command.attempt == (settling if name == "c" else attempt):
            begun, said = entry.reports.get(name, (False, None))
            if heard is Heard.BEGUN:
                begun = True
            elif said is None:
                said = Report.DONE if heard is Heard.REPORTED else Report.REFUSED
                result = command.result
            entry.reports[name] = (begun, said)
            done = done or (name == "b" and begun and said is Report.DONE)
        if of_letter and command.attempt == settling:
            dead, dropped, spared = entry.letters.get(name, (False, False, 0))
            if heard is Heard.SET_ASIDE and not dead and settling - 1 - spared >= 1:
                dead, result = True, command.result or result
            elif heard is Heard.REDELIVERED and dead and not dropped:
                dead, spared = False, settling - 1
            elif heard is Heard.DROPPED and dead:
                dropped = True
            entry.letters[name] = (dead, dropped, spared)
        entry.steps[name] = (attempt, settling, done, result)
        return True

    @staticmethod
    def anew(entry: Entry, name: str, result: bytes) -> bytes:
        entry.reports.pop(name, None)
        return b"" if name in ("b", "c") else result

    def extend(self, command: Extend) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or not entry.is_workflow or entry.decision is not None:
            return False
        if command.number == len(entry.asked) + 1:
            entry.asked.append(command.digest)
            entry.owed.add(command.branch.branch)
            entry.diverged = ""
            return True
        return command.number > 0 and entry.asked[command.number - 1 : command.number] == [command.digest]

    def returns(self, command: Return) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or not entry.is_workflow or entry.decision is Decision.ABORT:
            return False
        if entry.decision is Decision.COMMIT:
            return True
        waits = [name for name in entry.owed if not entry.steps.get(name, (1, 1, False, b""))[2]]
        if waits or command.steps != len(entry.asked):
            return False
        entry.decision, entry.decided_at_ms = Decision.COMMIT, command.at_ms
        entry.owed -= set(command.done)
        entry.result, entry.diverged = command.result, ""
        return True

    def diverge(self, command: Diverge) -> bool:
        entry = self.entries.get(command.gid)
        if entry is None or not entry.is_workflow or entry.decision is not None:
            return False
        entry.diverged = command.why
        return True


def phase_of(entry: Entry) -> Phase:
    match entry.decision:
        case None:
            return Phase.PRECOMMITTING if entry.is_precommitting else Phase.PREPARING
        case Decision.COMMIT:
            return Phase.COMMITTING if entry.owed else Phase.COMMITTED
        case Decision.ABORT:
            return Phase.ABORTING if entry.owed else Phase.ABORTED


class LedgerMachine(RuleBasedStateMachine):
    """Commands, repeats, crashes and snapshots, in any order. `replica` hears the same, by way of bytes."""

    sent = Bundle("sent")

    @initialize()
    def start(self) -> None:
        self.model, self.ledger, self.replica = Model(), Ledger(), Ledger()
        self.decided: dict[str, Decision] = {}
        self.heard: dict[str, TransactionRecord] = {}
        self.ledger.subscribe(self.hear)

    def hear(self, record: TransactionRecord) -> None:
        self.heard[record.gid] = record

    def send(self, command: Command) -> Result:
        result = self.ledger.execute(command)
        assert self.replica.apply(1, encode(command)) == result
        assert isinstance(result, Accepted) is self.model.execute(command)
        if not isinstance(command, Forget):
            assert result.record == self.ledger.get(command.gid)
        return result

    @rule(target=sent, command=commands)
    def new(self, command: Command) -> Command:
        self.send(command)
        return command

    @rule(command=sent)
    def again(self, command: Command) -> None:
        """A command that comes late, or twice."""
        self.send(command)

    @rule(command=commands)
    def twice(self, command: Command) -> None:
        """Idempotence: the same command at once again gives the same result and changes nothing."""
        first = self.send(command)
        before = b"".join(self.ledger.snapshot())
        assert self.send(command) == first
        assert b"".join(self.ledger.snapshot()) == before

    @rule()
    def restart(self) -> None:
        """The replica starts again from a snapshot, cut at odd places."""
        data = b"".join(self.ledger.snapshot())
        self.replica = Ledger()
        self.replica.restore(data[i : i + 7] for i in range(0, len(data), 7))

    @rule(limit=st.integers(1, 3))
    def walk(self, limit: int) -> None:
        """All pages together are all records, newest first."""
        seen: list[TransactionRecord] = []
        cursor: Cursor | None = None
        while (page := self.ledger.page(PageQuery(limit=limit, after=cursor))).cursor is not None:
            seen += page.records
            cursor = page.cursor
        seen += page.records
        expected = sorted(((e.at_ms, gid) for gid, e in self.model.entries.items()), reverse=True)
        assert [(record.begun_at_ms, record.gid) for record in seen] == expected

    @invariant()
    def agrees(self) -> None:
        assert len(self.ledger) == len(self.model.entries)
        for gid, entry in self.model.entries.items():
            record = self.ledger.get(gid)
            assert record is not None
            assert (record.phase, record.decided_at_ms) == (phase_of(entry), entry.decided_at_ms)
            assert {b.branch for b in record.branches if not b.ended} == entry.owed
            for b in record.branches:
                is_over = entry.decision is not None and (b.step is None or b.ended)
                assert b.body == (b"" if is_over or (b.step is not None and b.ended) else b"body")
                if b.step is not None:
                    known = entry.steps.get(b.branch, (1, 1, False, b""))
                    known = (*known[:3], b"") if entry.finished else known
                    assert (b.step.attempt, b.step.settling, b.step.done, b.step.result) == known
                    if b.step.delivery is not None:
                        letter = (b.step.delivery.dead, b.step.delivery.dropped, b.step.delivery.spared)
                        assert letter == entry.letters.get(b.branch, (False, False, 0))
                    if b.step.reporting is not None:
                        assert b.step.reporting[2:] == entry.reports.get(b.branch, (False, None))
            assert record.notified == ("" if not entry.heard else max(entry.heard))  # ended is behind decided
            assert record.notice_dropped == entry.dropped
            self.agrees_on_code(record, entry)
            assert self.heard[gid] == record

    def agrees_on_code(self, record: TransactionRecord, entry: Entry) -> None:
        workflow = record.workflow
        assert (workflow is not None) is entry.is_workflow
        if workflow is not None:
            assert [each.digest for each in workflow.asked] == entry.asked
            refused = {b.branch: a.refused for b, a in zip(record.branches, workflow.asked, strict=True)}
            assert {name: why for name, why in refused.items() if why is not None} == entry.refused
            assert (workflow.result, workflow.diverged) == (entry.result, entry.diverged)

    @invariant()
    def indexes_agree(self) -> None:
        entries = self.model.entries
        unfinished = {gid for gid, entry in entries.items() if not entry.finished}
        assert {record.gid for record in self.ledger.unfinished()} == unfinished
        untold = sum(
            entry.decision is not None and not entry.owed for gid, entry in entries.items() if gid in unfinished
        )
        assert len(self.ledger.untold) == self.ledger.untold.at("http://a/x") == untold
        old = sorted((e.decided_at_ms, gid) for gid, e in entries.items() if e.finished and e.decided_at_ms < 10)
        assert list(self.ledger.finished_before(10, limit=9)) == [gid for _, gid in old]
        for key in ("order-1", "order-2"):
            begun = ((e.at_ms, gid) for gid, e in entries.items() if e.begin is not None and e.begin.key == key)
            found = self.ledger.page(PageQuery(limit=9, key=key)).records
            assert [(record.begun_at_ms, record.gid) for record in found] == sorted(begun, reverse=True)

    @invariant()
    def no_decision_is_reversed(self) -> None:
        known = {gid: self.ledger.get(gid) for gid in ("t1", "t2", "t3", "t4")}
        for gid, record in known.items():
            if record is None:
                self.decided.pop(gid, None)  # forgotten; the gid may be used again
            elif record.decision is not None:
                assert self.decided.setdefault(gid, record.decision) is record.decision

    @invariant()
    def replicas_are_equal(self) -> None:
        assert b"".join(self.replica.snapshot()) == b"".join(self.ledger.snapshot())


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
