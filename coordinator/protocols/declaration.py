"""The rules of a transaction of steps, checked when it is declared: what could not end well is not begun. Pure.

Two-phase, tcc and saga branches come before the decision, at most one pivot makes it, forward branches come behind it.
A source decides alone, because nobody knows when it commits: nothing but forward branches comes with it.
A branch stands behind those that it comes after, so that no two can wait for each other. A step that is reported may
take hours, in which nothing is locked: no two-phase branch stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.ledger.records import BranchRecord, Mode, StepRecord
from coordinator.protocols.modes import DECIDING, NAME_CHARS_MAX, SEPARATOR, is_behind, rules_of, step_of

__all__ = ["Misdeclared", "check", "check_alone"]

_CONFIRMS = frozenset((Mode.TCC,))
_UNDOES = frozenset((Mode.TCC, Mode.SAGA))
_REPORTED = frozenset((Mode.TCC, Mode.SAGA, Mode.FORWARD))


class Misdeclared(ValueError):
    """A branch that breaks a rule: its place, the field under it, and why."""

    def __init__(self, place: int, field: str, why: str) -> None:
        super().__init__(why)
        self.place = place
        self.field = field
        self.why = why


def check(branches: Sequence[BranchRecord]) -> None:
    """Raises Misdeclared. Each branch has a step."""
    earlier: dict[str, BranchRecord] = {}
    pivots = 0
    for place, branch in enumerate(branches):
        step = step_of(branch)
        _check_name(place, branch.branch)
        _check_actions(place, branch, step)
        _check_reporting(place, step)
        _check_order(place, branch, step, earlier)
        pivots += step.mode is Mode.PIVOT
        if pivots > 1:
            raise Misdeclared(place, "step.mode", "there can be one pivot only: what comes after it is forward")
        earlier[branch.branch] = branch
    before = [place for place, branch in enumerate(branches) if rules_of(branch).before is not None]
    if len(before) > 1 and any(step_of(branch).mode is Mode.SOURCE for branch in branches):
        raise Misdeclared(before[1], "step.mode", "a source decides alone: all other branches are forward")
    takes_long = any(step_of(branch).reporting is not None and not is_behind(step_of(branch)) for branch in branches)
    prepared = [place for place, branch in enumerate(branches) if step_of(branch).mode is Mode.TWO_PHASE]
    if takes_long and prepared:
        why = (
            "a two-phase branch locks its rows until it is decided, which a step with `reported` may put off for hours"
        )
        raise Misdeclared(prepared[0], "step.mode", f"{why}: make it the pivot, or a saga step")
    if all(rules_of(branch).before is None for branch in branches):
        raise Misdeclared(0, "step.mode", "something must come before the decision: make the first one the pivot")


def check_alone(branch: BranchRecord) -> None:
    """What can be said of a branch without the others. Raises Misdeclared. It has a step."""
    step = step_of(branch)
    _check_name(0, branch.branch)
    _check_actions(0, branch, step)
    _check_order(0, branch, step, {})


def _check_name(place: int, name: str) -> None:
    if SEPARATOR in name or len(name) > NAME_CHARS_MAX:
        raise Misdeclared(
            place, "branch", f"a step has a name of at most {NAME_CHARS_MAX} characters without {SEPARATOR!r}"
        )


def _check_actions(place: int, branch: BranchRecord, step: StepRecord) -> None:
    mode = step.mode
    if branch.action is None and mode not in (Mode.TWO_PHASE, Mode.SOURCE):
        raise Misdeclared(place, "action", f"a {mode} branch needs an action")
    if branch.action is not None and mode is Mode.SOURCE:
        raise Misdeclared(place, "action", "a source has none here: its sender runs it")
    for field, given, modes in (("confirm", step.confirm, _CONFIRMS), ("undo", step.undo, _UNDOES)):
        if mode in modes and given is None:
            raise Misdeclared(place, f"step.{field}", f"a {mode} branch needs one")
        if mode not in modes and given is not None:
            raise Misdeclared(place, f"step.{field}", f"a {mode} branch has none")
    if mode is Mode.TWO_PHASE and (step.retry.attempts_max > 1 or step.takes):
        field = "takes" if step.takes else "retry.attempts_max"
        raise Misdeclared(place, f"step.{field}", "a two-phase branch is asked for one vote, on what was declared")
    if mode is Mode.SOURCE and step.retry.attempts_max > 1:
        raise Misdeclared(place, "step.retry.attempts_max", "a source is asked once, and its answer is final")
    if step.not_before_ms and mode is not Mode.FORWARD:
        raise Misdeclared(place, "step.not_before_ms", "only a forward branch can be delayed")
    if step.delivery is not None and mode is not Mode.FORWARD:
        field = "order_key" if step.delivery.key else "dead_after"
        raise Misdeclared(place, f"step.{field}", "only a forward branch stands in line, or is set aside")
    if step.retry.cap_ms < step.retry.base_ms:
        raise Misdeclared(place, "step.retry.cap_ms", "must not be less than base_ms")


def _check_reporting(place: int, step: StepRecord) -> None:
    if step.reporting is None:
        return
    if step.mode not in _REPORTED:
        raise Misdeclared(place, "step.reported", f"a {step.mode} branch is done when it has answered")
    if step.delivery is not None:
        why = "work that is reported has no order and no limit: its report may take as long as it likes"
        raise Misdeclared(place, "step.reported", why)
    if any(field == step.reporting.field for field, _ in step.takes):
        raise Misdeclared(place, "step.reported", f"{step.reporting.field!r} is a field that takes a result")


def _check_ends(place: int, step: StepRecord, earlier: dict[str, BranchRecord]) -> None:
    """What may be set aside stands at the end."""
    for name in step.after:
        delivery = step_of(earlier[name]).delivery if name in earlier else None
        if delivery is not None and (delivery.attempts_max or delivery.age_max_ms):
            raise Misdeclared(place, "step.after", f"{name!r} may be set aside, and this one would wait for a person")


def _check_order(place: int, branch: BranchRecord, step: StepRecord, earlier: dict[str, BranchRecord]) -> None:
    own = branch.branch
    for field, source in step.takes:
        if source != own and source not in earlier:
            raise Misdeclared(place, f"step.takes.{field}", f"{source!r} is not listed before this branch")
    _check_ends(place, step, earlier)
    for name in step.after:
        other = earlier.get(name)
        if other is None:
            raise Misdeclared(place, "step.after", f"{name!r} is not listed before this branch")
        if rules_of(branch).before is not None and rules_of(other).before is None:
            raise Misdeclared(
                place, "step.after", f"{name!r} begins once it is decided, which this branch comes before"
            )
        if step_of(other).mode in DECIDING and rules_of(branch).before is not None:
            raise Misdeclared(
                place,
                "step.after",
                f"{name!r} is the {step_of(other).mode}, with which it is decided: make this one forward",
            )
    for field, source in step.takes:
        if source == own and rules_of(branch).before is None:
            raise Misdeclared(
                place, f"step.takes.{field}", "a forward branch has no confirm or undo to take its result"
            )
        if source == own and step.mode in DECIDING:
            raise Misdeclared(place, f"step.takes.{field}", f"a {step.mode} has no confirm or undo to take its result")
        if source != own and step_of(earlier[source]).mode is Mode.TWO_PHASE:
            raise Misdeclared(place, f"step.takes.{field}", f"{source!r} is two-phase, which gives no result")
        if source != own and rules_of(earlier[source]).before is None:
            raise Misdeclared(place, f"step.takes.{field}", f"the result of {source!r}, which is forward, is not kept")
