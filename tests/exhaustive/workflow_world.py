"""A small world of a workflow, searched completely: that of `step_world`, and the workers that run its code.

The code is a function from what it has heard to what it does next. A worker asks for the next step, hears of it what
the record says, returns, or fails. What it asks for is on its way to the log while other things happen, and may be
lost. A worker may die, and another one begins anew; a second one may run the same code at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from coordinator.facts import Expiry
from coordinator.ledger.commands import BY_WORKFLOW, Begin, Extend, Return
from coordinator.ledger.records import BranchRecord, Mode, Path, TransactionRecord, WorkflowRecord
from coordinator.ledger.workflows import StepState, is_answered
from coordinator.protocols.modes import step_of
from coordinator.protocols.workflow import answer_of, check_next, placed, return_of
from tests.exhaustive.step_world import DEADLINE_MS, Budget, SmallWorld
from tests.support.step_scene import GID

__all__ = ["FAILS", "RETURNS", "Code", "WorkflowWorld"]

RETURNS, FAILS = "returns", "fails"
Heard: TypeAlias = tuple[StepState, ...]
Code: TypeAlias = Callable[[Heard], BranchRecord | str]
Run: TypeAlias = tuple[Heard, bool]  # what it has heard, and whether it has something on its way to the log


class WorkflowWorld(SmallWorld):
    """`runs` of the code, each by a worker of its own; `asked`: what they have on its way to the log."""

    def __init__(self, code: Code, refusals: Mapping[str, int], budget: Budget) -> None:
        self.code = code
        self.runs: list[Run] = [((), False)]
        self.asked: list[tuple[int, Extend | Return]] = []  # with the run that waits for it
        super().__init__((), dict(refusals), budget)
        self.plan = None  # type: ignore[assignment]
        self._commit(Begin(GID, b"d", Path.STEPS, (), DEADLINE_MS, 1, workflow=WorkflowRecord("book", b"")))
        assert self.leader is not None
        self.leader.plan = None
        self.leader.facts.proposal.in_flight = False
        self.proposals.clear()
        self._drive()

    def copied(self) -> WorkflowWorld:
        other = super().copied()
        assert isinstance(other, WorkflowWorld)
        other.runs, other.asked = list(self.runs), list(self.asked)
        return other

    def key(self) -> object:
        expiry = self.leader is not None and self.leader.facts.expiry is not None
        return super().key(), tuple(self.runs), tuple(self.asked), expiry

    @property
    def begun(self) -> TransactionRecord:
        assert self.record is not None
        return self.record

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self.asked and not any(True for _ in self._moves_of_code())

    def audit(self) -> None:
        """What was refused has had no effect; the rest is as of any transaction of steps."""
        record = self.begun
        assert record.workflow is not None
        refused = {b.branch for b, a in zip(record.branches, record.workflow.asked, strict=True) if a.refused}
        for name in self.scene.ran:
            assert name.partition(":")[0] not in refused, f"{name} has run, and its code has heard that it was refused"
        undone = [name for name in self.scene.ran if ":undo" in name]
        assert undone == sorted(undone, reverse=True), f"undone in the order {undone}"
        kept = tuple(branch for branch in record.branches if branch.branch not in refused)
        scene = self.scene.copied()
        scene.branches = kept
        scene.audit(record._replace(branches=kept))

    def moves(self) -> Iterator[tuple[str, SmallWorld]]:
        yield from super().moves()
        yield from self._moves_of_code()
        if self.asked:
            yield self._after("the log takes what was asked", lambda world: world._take())

    def faults(self) -> Iterator[tuple[str, SmallWorld]]:
        yield from super().faults()
        if self.begun.decision is not None:
            return
        if self.budget.losses and self.asked:
            budget = replace(self.budget, losses=self.budget.losses - 1)
            yield self._after("what was asked is lost", lambda world: world._lose(), budget)
        if self.budget.deaths:
            budget = replace(self.budget, deaths=self.budget.deaths - 1)
            for index in range(len(self.runs)):
                yield self._after(f"worker {index} dies", lambda world, n=index: world._die(n), budget)
        if self.budget.twins:
            budget = replace(self.budget, twins=self.budget.twins - 1)
            yield self._after("another worker begins", lambda world: world.runs.append(((), False)), budget)

    def _moves_of_code(self) -> Iterator[tuple[str, SmallWorld]]:
        if self.begun.decision is not None:
            return
        for index, (heard, waits) in enumerate(self.runs):
            number = len(heard) + 1
            doing = self.code(heard)
            answer = answer_of(self.begun, number)
            if doing == FAILS:
                if self.leader is not None and self.leader.facts.expiry is None:
                    yield self._after(f"worker {index} fails", lambda world: world._fail())
            elif waits:
                continue
            elif not isinstance(doing, BranchRecord):
                if is_answered(self.begun, len(heard)):
                    yield self._after(f"worker {index} returns", lambda world, n=index: world._ask(n))
            elif number > len(self.begun.branches):
                yield self._after(f"worker {index} asks for {number}", lambda world, n=index: world._ask(n))
            elif answer.state is not StepState.PENDING:
                yield self._after(f"worker {index} hears of {number}", lambda world, n=index: world._hear(n))

    # Inside

    def _ask(self, index: int) -> None:
        heard, _ = self.runs[index]
        doing = self.code(heard)
        self.runs[index] = (heard, True)
        if not isinstance(doing, BranchRecord):
            self.asked.append((index, return_of(self.begun, len(heard), b"")))
            return
        if len(heard) != len(self.begun.branches):
            self.runs[index] = (heard, False)
            return
        check_next(self.begun, doing)
        self.asked.append((index, Extend(GID, len(heard) + 1, doing.branch.encode(), placed(self.begun, doing), 1)))

    def _take(self) -> None:
        index, command = self.asked.pop(0)
        self._commit(command)
        self._lands(index)
        self._drive()

    def _lose(self) -> None:
        index, _ = self.asked.pop(0)
        self._lands(index)

    def _lands(self, index: int) -> None:
        if index >= 0:
            self.runs[index] = (self.runs[index][0], False)

    def _die(self, index: int) -> None:
        """What it has asked for comes to the log all the same; nobody waits for that."""
        self.runs[index] = ((), False)
        self.asked = [(-1 if waits == index else waits, command) for waits, command in self.asked]

    def _hear(self, index: int) -> None:
        heard, _ = self.runs[index]
        branch = self.begun.branches[len(heard)]
        state = answer_of(self.begun, len(heard) + 1).state
        is_here = any(name.partition(":")[0] == branch.branch for name in self.scene.ran)
        assert is_here is (state is StepState.DONE and step_of(branch).mode is not Mode.FORWARD), (
            f"{branch.branch}: {state}"
        )
        self.runs[index] = ((*heard, state), False)

    def _fail(self) -> None:
        assert self.leader is not None
        self.leader.facts.expiry = Expiry(BY_WORKFLOW, "no")
        self._drive()

    def _drive(self) -> None:
        if self.record is not None:
            self.scene.branches = self.record.branches
            if self.record.decision is not None:
                self.runs.clear()
                self.asked.clear()
        super()._drive()
