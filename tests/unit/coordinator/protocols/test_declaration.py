"""What could not end well is refused when it is declared, with the field to change."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from coordinator.driver.intake import branches_of, digest_of
from coordinator.errors import Invalid
from coordinator.ledger.records import Mode, StepRecord
from coordinator.wire import TransactionRequest, parse
from tests.support.participants import Clerk


class _Known:
    def known(self, name: str) -> bool:
        return name == "bank"

    async def capabilities(self, name: str) -> Any:
        return Clerk(name).capabilities()

    def call(self, *_: Any) -> Any:
        raise NotImplementedError


def declared(*branches: dict[str, Any]) -> Any:
    forms = [{"participant": "bank", "action": "do", **branch} for branch in branches]
    return branches_of(parse(TransactionRequest, {"branches": forms}).branches, _Known(), Random(1))


def step(mode: str, **more: Any) -> dict[str, Any]:
    actions = {"tcc": {"confirm": "c", "undo": "u"}, "saga": {"undo": "u"}}.get(mode, {})
    return {"step": {"mode": mode, **actions, **more}}


SOURCE = {**step("source"), "action": None}
SAGA, PIVOT, FORWARD, TCC, TWO_PHASE = (step(mode) for mode in ("saga", "pivot", "forward", "tcc", "two-phase"))


@pytest.mark.parametrize(
    ("branches", "field", "why"),
    [
        ([{"step": {"mode": "saga"}}], "branches.0.step.undo", "a saga branch needs one"),
        ([{"step": {"mode": "tcc", "undo": "u"}}], "branches.0.step.confirm", "needs one"),
        ([step("pivot", undo="u")], "branches.0.step.undo", "has none"),
        ([step("saga", confirm="c")], "branches.0.step.confirm", "has none"),
        ([PIVOT, PIVOT], "branches.1.step.mode", "one pivot only"),
        ([FORWARD], "branches.0.step.mode", "something must come before the decision"),
        ([SAGA, {**SAGA, "action": None}], "branches.1.action", "needs an action"),
        ([{**SAGA, "branch": "a:b"}], "branches.0.branch", "without ':'"),
        ([{**SAGA, "branch": "x" * 41}], "branches.0.branch", "at most 40"),
        ([step("saga", after=["b2"]), SAGA], "branches.0.step.after", "'b2' is not listed before"),
        ([step("saga", after=["b1"])], "branches.0.step.after", "'b1' is not listed before"),
        ([step("saga", takes={"x": "b2"}), SAGA], "branches.0.step.takes.x", "'b2' is not listed before"),
        ([SAGA, FORWARD, step("saga", after=["b2"])], "branches.2.step.after", "begins once it is decided"),
        ([PIVOT, step("saga", after=["b1"])], "branches.1.step.after", "make this one forward"),
        ([TWO_PHASE, step("saga", takes={"x": "b1"})], "branches.1.step.takes.x", "two-phase, which gives no result"),
        ([SAGA, FORWARD, step("forward", takes={"x": "b2"})], "branches.2.step.takes.x", "is not kept"),
        ([step("pivot", takes={"x": "b1"})], "branches.0.step.takes.x", "no confirm or undo"),
        ([SAGA, step("forward", takes={"x": "b2"})], "branches.1.step.takes.x", "no confirm or undo"),
        ([SAGA, step("two-phase", takes={"x": "b1"})], "branches.1.step.takes", "one vote"),
        ([step("two-phase", retry={"attempts_max": 2})], "branches.0.step.retry.attempts_max", "one vote"),
        ([step("saga", retry={"base_ms": 10, "cap_ms": 5})], "branches.0.step.retry.cap_ms", "less than base_ms"),
        ([step("source")], "branches.0.action", "its sender runs it"),
        ([SOURCE, SAGA], "branches.1.step.mode", "a source decides alone"),
        ([SAGA, SOURCE], "branches.1.step.mode", "a source decides alone"),
        ([SOURCE, SOURCE], "branches.1.step.mode", "a source decides alone"),
        ([SOURCE, step("saga", after=["b1"])], "branches.1.step.after", "is the source, with which it is decided"),
        ([{**SOURCE, "body": 1}], "branches.0.body", "a body needs an action"),
        (
            [{**step("source", retry={"attempts_max": 2}), "action": None}],
            "branches.0.step.retry.attempts_max",
            "is asked once",
        ),
        ([step("pivot", not_before_ms=1)], "branches.0.step.not_before_ms", "only a forward branch can be delayed"),
        ([PIVOT, step("forward", not_before_ms=86_400_001)], "branches.1.step.not_before_ms", "less than or equal to"),
        ([step("saga", retry={"attempts_max": 0})], "branches.0.step.retry.attempts_max", "greater than or equal to 1"),
        ([SAGA, {**step("saga", takes={"x": "b1"}), "body": [1]}], "branches.1.body", "must be a map"),
        ([{**step("saga", reported="t"), "body": 1}], "branches.0.body", "the token becomes a field"),
        ([step("pivot", reported="t")], "branches.0.step.reported", "is done when it has answered"),
        (
            [{**step("source", reported="t"), "action": None}],
            "branches.0.step.reported",
            "is done when it has answered",
        ),
        ([SAGA, step("saga", takes={"t": "b1"}, reported="t")], "branches.1.step.reported", "that takes a result"),
        ([step("saga", reported="t"), TWO_PHASE], "branches.1.step.mode", "locks its rows"),
        ([step("saga", dead_after={"attempts_max": 1})], "branches.0.step.dead_after", "or is set aside"),
        (
            [PIVOT, step("forward", dead_after={"age_max_ms": 1}), step("forward", after=["b2"])],
            "branches.2.step.after",
            "would wait for a person",
        ),
        ([step("saga", order_key="k")], "branches.0.step.order_key", "only a forward branch stands in line"),
        ([step("saga", retry={"jitter_percent": 101})], "branches.0.step.retry.jitter_percent", "less than or equal"),
    ],
)
def test_what_could_not_end_well_is_not_begun(branches: list[dict[str, Any]], field: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as refused:
        declared(*branches)
    assert [wrong.field for wrong in refused.value.fields] == [field]


def test_one_step_makes_all_of_them_steps_and_who_says_nothing_is_two_phase() -> None:
    plain, saga = declared({}, SAGA)
    assert plain.step is not None
    assert (plain.step.mode, saga.step.mode) == (Mode.TWO_PHASE, Mode.SAGA)
    assert all(branch.step is None for branch in declared({}, {}))


def test_whose_result_is_taken_comes_before() -> None:
    *_, taker = declared(SAGA, SAGA, step("saga", takes={"x": "b2", "own": "b3"}, after=["b1"]))
    assert isinstance(taker.step, StepRecord)
    assert taker.step.after == ("b1", "b2")


def test_another_step_is_another_request() -> None:
    digests = [
        digest_of(declared(SAGA, branch))
        for branch in (SAGA, step("saga", undo="other"), FORWARD, step("forward", not_before_ms=1), {})
    ]
    digests += [digest_of(declared(SAGA, step("saga", reported=field))) for field in ("t", "u")]
    digests += [digest_of(declared(SAGA, step("forward", order_key=key))) for key in ("t", "u")]
    assert len(set(digests)) == len(digests)
    assert digest_of(declared(SAGA, SAGA)) == digests[0]


def test_a_secret_is_new_for_each_request_and_no_part_of_what_it_is() -> None:
    """Goal: who asks again means the same, though chance has gone on."""
    forms = {"branches": [{"participant": "bank", "action": "do", **step("saga", reported="t")}]}
    chance = Random(1)
    first, again = (branches_of(parse(TransactionRequest, forms).branches, _Known(), chance) for _ in range(2))
    assert first[0].step is not None
    assert again[0].step is not None
    assert first[0].step.reporting != again[0].step.reporting
    assert digest_of(first) == digest_of(again)


def test_what_is_reported_behind_the_decision_may_stand_beside_what_is_locked_until_then() -> None:
    assert len(declared(TWO_PHASE, step("forward", reported="t"))) == 2
