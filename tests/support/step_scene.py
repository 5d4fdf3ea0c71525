"""The participants of a transaction of steps: their tables, what has taken effect there, and what must be true of that.

The table is the real one; the actions only write down, in order, that they have taken effect. Time, messages and faults
are the business of whoever calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy

from coordinator.effects import Call
from coordinator.ledger.commands import Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Report, TransactionRecord
from coordinator.protocols.modes import name_of, step_of
from coordinator.protocols.reports import judge_report
from participant.branch import Ask, Branch, Verdict, judge
from participant.ids import BranchKey
from participant.values import digest_of, packed, unpacked
from participant.wire import Answer, BranchState, Verb

__all__ = ["GID", "StepScene"]

GID = "t"
_ASKS = {Verb.PREPARE: Ask.PREPARE, Verb.ABORT: Ask.ABORT, Verb.PREVENT: Ask.PREVENT}


class StepScene:
    """`refusals`: how often each action is refused before it is done. `foreign`: actions that are not understood."""

    def __init__(
        self,
        branches: tuple[BranchRecord, ...],
        refusals: Mapping[str, int],
        foreign: frozenset[str] = frozenset(),
    ) -> None:
        self.foreign = foreign
        self.branches = branches
        self.refusals = refusals
        self.rows: dict[str, Branch] = {}
        self.ran: list[str] = []  # the attempts whose action has taken effect, in order
        self.bodies: dict[str, object] = {}
        self.asked: dict[str, int] = {}  # how often each action
        self.tokens: dict[str, str] = {}  # what attempts that are reported were given, whether they were refused or not
        self.reports: dict[str, Report] = {}  # what whoever was given the token of an attempt has reported

    def copied(self) -> StepScene:
        """Another one that may go on otherwise."""
        other = copy(self)
        other.rows, other.ran = dict(self.rows), list(self.ran)
        other.bodies, other.asked = dict(self.bodies), dict(self.asked)
        other.tokens, other.reports = dict(self.tokens), dict(self.reports)
        return other

    def act(self, call: Call) -> Answer:
        """The participant gets this call, and answers."""
        name = call.branch
        branch = self.rows.get(name) or Branch(BranchKey(GID, name))
        ask = _ASKS.get(call.verb, Ask.COMMIT_ONE_PHASE if call.one_phase else Ask.COMMIT)
        action, body, digest = self._work(call)
        assert not branch.is_bound_to_another(digest), f"{name} is called with another body"
        rule = judge(branch.state, ask)
        if rule.verdict not in (Verdict.RUN, Verdict.EMPTY):
            assert rule.verdict is not Verdict.CONTRADICTION, f"{ask} of {name}, which is {branch.state}"
            return branch.answer(rule.why)
        state, result = rule.next[0], None
        if ask in (Ask.PREPARE, Ask.COMMIT_ONE_PHASE) and action in self.foreign:
            return Answer(BranchState.UNKNOWN, "what?")
        if ask in (Ask.PREPARE, Ask.COMMIT_ONE_PHASE):
            if self._is_reported(name) and _what(name)[1] == "":
                assert isinstance(body, dict)
                self.tokens[name] = body["token"]
            self.asked[action] = self.asked.get(action, 0) + 1
            if self.asked[action] <= self.refusals.get(action, 0):
                state = BranchState.ABORTED
            else:
                result = f"result of {name}"
                self.ran.append(name)
                self.bodies[name] = body
        reason = "no" if state is BranchState.ABORTED else ""
        self.rows[name] = branch.move(ask, state, at_ms=0, digest=digest, reason=reason).giving(result)
        return self.rows[name].answer()

    def reporters(self) -> list[str]:
        """The attempts of which nobody has reported yet, though somebody could."""
        return [name for name in self.tokens if name not in self.reports]

    def report(self, record: TransactionRecord, attempt: str, report: Report) -> Progress | None:
        """Somebody reports, whatever has become of it meanwhile; what the log is to hold then. Once it has been heard,
        the same again is harmless."""
        word = packed(f"result of {attempt}" if report is Report.DONE else "no", "word")
        judged = judge_report(record, name_of(attempt), self.tokens[attempt], report, word)
        self.reports[attempt] = report
        return judged if isinstance(judged, Progress) else None

    def _is_reported(self, name: str) -> bool:
        return any(b.branch == name_of(name) and step_of(b).reporting is not None for b in self.branches)

    def _work(self, call: Call) -> tuple[str, object, bytes]:
        if call.work is not None:
            return call.work.action, unpacked(call.work.body), digest_of(call.work.action, call.work.body)
        branch = next(b for b in self.branches if b.branch == name_of(call.branch))
        return branch.action or "", unpacked(branch.body), b""

    def audit(self, record: TransactionRecord) -> None:
        """What must be true once it has ended so, whatever has happened."""
        assert record.finished
        counts = Counter(_what(name) for name in self.ran)
        declined = Counter(_what(name) for name, report in self.reports.items() if report is Report.REFUSED)
        for what, count in counts.items():
            assert 1 <= count <= 1 + declined[what], f"something has taken effect twice: {self.ran}"
        for branch in record.branches:
            self._audit_branch(branch, record.decision is Decision.COMMIT, counts)
        self._audit_order(self.branches, record.decision is Decision.COMMIT)
        assert not any(row.state is BranchState.PREPARED for row in self.rows.values()), "a branch is left prepared"

    def _audit_branch(self, branch: BranchRecord, committed: bool, counts: Counter[tuple[str, str]]) -> None:
        name, mode = branch.branch, step_of(branch).mode
        has_run, confirmed, undone = (bool(counts[name, what]) for what in ("", "confirm", "undo"))
        if committed:
            delivery = step_of(branch).delivery
            is_dropped = delivery is not None and delivery.dropped
            assert has_run is not is_dropped, f"{name} ran: {has_run}, dropped: {is_dropped}"
            assert not undone, f"{name} was undone"
            said = [report for attempt, report in self.reports.items() if name_of(attempt) == name]
            assert not self._is_reported(name) or Report.DONE in said, f"nobody has reported {name}: {self.reports}"
            assert confirmed is (mode is Mode.TCC), f"{name} confirmed: {confirmed}"
            if mode is Mode.TWO_PHASE:
                assert self.rows[name].state is BranchState.COMMITTED
            return
        assert not confirmed, f"{name} was confirmed"
        match mode:
            case Mode.TWO_PHASE:
                assert name not in self.rows or self.rows[name].state is BranchState.ABORTED
            case Mode.TCC | Mode.SAGA:
                assert undone is has_run, f"{name} ran: {has_run}, undone: {undone}"
            case Mode.PIVOT | Mode.SOURCE | Mode.FORWARD:
                assert not has_run, f"{name} has run, and all was aborted"

    def _audit_order(self, branches: Sequence[BranchRecord], committed: bool) -> None:
        places = {_what(name): place for place, name in enumerate(self.ran)}
        for branch in branches:
            for other in _all_before(branches, branch):
                mine, its = places.get((branch.branch, "")), places.get((other, ""))
                if mine is not None:
                    assert its is not None, f"{branch.branch} ran without {other}"
                    assert its < mine, f"{branch.branch} ran before {other}"
                my_undo, its_undo = places.get((branch.branch, "undo")), places.get((other, "undo"))
                if my_undo is not None and its_undo is not None:
                    assert my_undo < its_undo, f"{other} was undone before {branch.branch}"
            for field_, source in step_of(branch).takes:
                self._audit_result(branch.branch, field_, source)
            own, undo = places.get((branch.branch, "")), places.get((branch.branch, "undo"))
            assert undo is None or (own is not None and own < undo)
        assert committed or not any(what == "confirm" for _, what in places)

    def _audit_result(self, name: str, field_: str, source: str) -> None:
        """Who has run with a result, has run with the right one."""
        for attempt, body in self.bodies.items():
            what = _what(attempt)
            if what[0] != name or (source == name and what[1] == ""):
                continue
            assert isinstance(body, dict)
            if self._is_reported(source) and source == name and body[field_] is None:
                continue  # nobody has reported a result
            given = str(body[field_]).removeprefix("result of ")
            assert _what(given) == (source, ""), f"{attempt} was given {body}"


def _all_before(branches: Sequence[BranchRecord], branch: BranchRecord) -> set[str]:
    """What a branch comes after, be it through others."""
    steps = {each.branch: step_of(each) for each in branches}
    found: set[str] = set()
    waiting = [*steps[branch.branch].after]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(steps[name].after)
    return found


def _what(attempt: str) -> tuple[str, str]:
    """The branch, and what of it: "", "confirm" or "undo"."""
    name, *more = attempt.split(":")
    return name, next((word for word in more if not word.isdigit()), "")
