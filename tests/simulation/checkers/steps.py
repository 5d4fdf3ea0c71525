"""Transactions of steps: what takes effect when, and that at the end all of it has, or all of it is undone.

At every moment: nothing runs before some ledger holds the record of the steps, nor anew before the refusal of the
attempt before it is recorded; nothing is confirmed or runs behind the decision before that is recorded as a commit, and
nothing is undone before it is recorded as an abort. At rest: each
action has taken effect once or not at all, as the decision says; each came after those that it had to come after, and
was undone before they were.

The modes are those of `coordinator.protocols.modes`, but what they mean is written down here anew.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.client.outcomes import Branch as Asked
from coordinator.ledger.records import Decision, Mode, TransactionRecord
from participant.branch import Branch
from participant.ids import BranchKey
from participant.wire import BranchState
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings

__all__ = ["Effect", "Steps", "split"]

Effect = tuple[int, float]  # how often, and when last


@dataclass(frozen=True, slots=True)
class _Step:
    mode: Mode
    earlier: frozenset[str]  # all that it comes after, be it through others
    is_seen: bool  # its action leaves a row


class Steps:
    def __init__(self, findings: Findings, decisions: Decisions) -> None:
        self._findings = findings
        self._decisions = decisions
        self._intended: dict[str, dict[str, _Step]] = {}
        self._unchecked: list[str] = []
        self._refused: set[tuple[str, str]] = set()  # for good, as the code of a workflow has heard
        self._begun: dict[tuple[str, str], tuple[int, int]] = {}  # the attempts before and behind the decision
        self.ends: dict[tuple[Mode, Decision], int] = {}  # steps that have run in a transaction that ended so

    def intended(self, gid: str, branches: Sequence[Asked]) -> None:
        """A caller is about to ask for this."""
        steps: dict[str, _Step] = {}
        for branch in branches:
            form, name = branch.step or {}, branch.name or ""
            earlier = set(form["after"])
            for other in form["after"]:
                earlier |= steps[other].earlier
            mode = Mode(form["mode"])
            if mode is Mode.PIVOT:
                earlier |= {other for other, step in steps.items() if step.mode is not Mode.FORWARD}
            steps[name] = _Step(mode, frozenset(earlier), branch.action != "look")
        self._intended[gid] = steps
        self._unchecked.append(gid)

    def expected(self, gid: str) -> None:
        """A caller is about to begin a workflow, whose steps are told one by one."""
        self._intended[gid] = {}
        self._unchecked.append(gid)

    def asked(self, gid: str, name: str, mode: Mode, earlier: Iterable[str], *, is_seen: bool) -> None:
        """The code of a workflow is about to ask for this, with what it knows to be done by then; maybe again."""
        self._intended[gid].setdefault(name, _Step(mode, frozenset(earlier), is_seen))

    def refused(self, gid: str, name: str) -> None:
        """The code of a workflow has heard that this is not done."""
        self._refused.add((gid, name))

    def recorded(self, record: TransactionRecord) -> None:
        """Some replica holds this record now."""
        for branch in record.branches:
            if branch.step is not None:
                before, behind = self._begun.get((record.gid, branch.branch), (1, 1))
                latest = max(before, branch.step.attempt), max(behind, branch.step.settling)
                self._begun[record.gid, branch.branch] = latest

    def owns(self, key: BranchKey) -> bool:
        """Whether this branch of a participant is an attempt of a step, which ends otherwise than its transaction."""
        step = self._intended.get(key.gid, {}).get(split(key.branch)[0])
        return step is not None and step.mode is not Mode.TWO_PHASE

    def moves(self, participant: str, after: Branch) -> None:
        """A step is about to have run, well or not; its row is durable a moment later."""
        if after.state is not BranchState.COMMITTED:
            return
        name, what, attempt = split(after.key.branch)
        step = self._intended[after.key.gid][name]
        who = f"{after.key} at {participant}"
        decided = self._decisions.of(after.key.gid)
        if (after.key.gid, name) not in self._begun:
            self._findings.report("nothing runs before it is recorded", who)
        elif attempt > self._begun[after.key.gid, name][bool(what) or step.mode is Mode.FORWARD]:
            self._findings.report("no attempt begins before the refusal of the last is recorded", who)
        elif what == "undo" and decided is not Decision.ABORT:
            self._findings.report("nothing is undone before it is aborted", f"{who}, recorded is {decided}")
        elif (what == "confirm" or step.mode is Mode.FORWARD) and decided is not Decision.COMMIT:
            self._findings.report("what is behind the decision waits for it", f"{who}, recorded is {decided}")

    def check(
        self,
        effects: Mapping[tuple[str, str, str], Effect],
        effects_due: Callable[[str, str], int],
        dropped: Container[tuple[str, str]],
    ) -> None:
        """At rest; effects by gid, branch and what: "", "confirm" or "undo". `effects_due`: how often the action of a
        branch is to take effect, if it is; `dropped`: the branches of which nobody knows whether they did."""
        for gid in self._unchecked:
            mine = {(name, what): effect for (of, name, what), effect in effects.items() if of == gid}
            decision = self._decisions.of(gid)
            for (name, what), (count, _) in sorted(mine.items()):
                if count != (1 if what else effects_due(gid, name)):
                    self._findings.report("each step takes effect once", f"{gid}: {name} {what}, {count} times")
            times = {key: at for key, (_, at) in mine.items()}
            for name, step in self._intended[gid].items():
                if step.is_seen and (gid, name) not in dropped:
                    self._check_end(gid, name, step, decision, times)
                    self._check_order(gid, name, step, times)
        self._unchecked.clear()

    def _check_end(
        self, gid: str, name: str, step: _Step, decision: Decision | None, times: Mapping[tuple[str, str], float]
    ) -> None:
        ran, confirmed, undone = ((name, what) in times for what in ("", "confirm", "undo"))
        if ran and decision is not None:
            self.ends[step.mode, decision] = self.ends.get((step.mode, decision), 0) + 1
        if (gid, name) in self._refused:
            is_right = not (ran or confirmed or undone)
        elif decision is Decision.COMMIT:
            is_right = ran and not undone and confirmed is (step.mode is Mode.TCC)
        elif step.mode in (Mode.TCC, Mode.SAGA):
            is_right = undone is ran and not confirmed
        else:
            is_right = not ran
        if not is_right:
            what = f"{name} ({step.mode}) ran: {ran}, confirmed: {confirmed}, undone: {undone}; recorded is {decision}"
            self._findings.report("all steps or none", f"{gid}: {what}")

    def _check_order(self, gid: str, name: str, step: _Step, times: Mapping[tuple[str, str], float]) -> None:
        ran, undone = times.get((name, "")), times.get((name, "undo"))
        if undone is not None and ran is not None and undone <= ran:
            self._findings.report("a step is undone after it has run", f"{gid}: {name}")
        for other in step.earlier:
            if not self._intended[gid][other].is_seen:
                continue
            its_run, its_undo = times.get((other, "")), times.get((other, "undo"))
            if ran is not None and its_run is not None and ran <= its_run:
                self._findings.report("steps run in their order", f"{gid}: {name} before {other}")
            if undone is not None and its_undo is not None and undone >= its_undo:
                self._findings.report("steps are undone in the opposite order", f"{gid}: {other} before {name}")


def split(attempt: str) -> tuple[str, str, int]:
    """The branch, what of it, and how often it was begun, from what an attempt is called."""
    name, *more = attempt.split(":")
    what = next((word for word in more if not word.isdigit()), "")
    return name, what, next((int(word) for word in more if word.isdigit()), 1)
