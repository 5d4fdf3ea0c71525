"""Many branches of all protocols, in any order, against a model that knows nothing of states."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from participant.barrier import RESULT_BYTES_MAX, Contradiction, Done, Outcome, Refused, Row, Step, StepKind, Verdict
from participant.errors import BranchConflict, Reject, StepError
from participant.ids import BranchKey

GIDS = ["g1", "g2", "g3"]
BODIES = st.integers(0, 1)
RESULTS = st.integers(-(2**63), 2**64 - 1)
KINDS = st.sampled_from(StepKind)
UNDO = {StepKind.CANCEL: StepKind.TRY, StepKind.COMPENSATE: StepKind.ACTION}


class StepHistories(RuleBasedStateMachine):
    """What has happened is kept as lists of what ran and what was answered; the promises are counted from them."""

    @initialize()
    def begin(self) -> None:
        self.rows = {gid: Row(BranchKey(gid, "b")) for gid in GIDS}
        self.ran: dict[str, list[StepKind]] = {gid: [] for gid in GIDS}
        self.heard: dict[tuple[str, StepKind], tuple[int, Outcome]] = {}
        self.undone: set[str] = set()

    @rule(gid=st.sampled_from(GIDS), kind=KINDS, body=BODIES, result=RESULTS, refuses=st.booleans())
    def ask(self, gid: str, kind: StepKind, body: int, result: int, refuses: bool) -> None:
        step, row = Step.of(gid, "b", kind, body), self.rows[gid]
        before = self.heard.get((gid, kind))
        try:
            allowed = row.judge(step)
        except BranchConflict:
            if before is None:  # the begin of another protocol was refused
                assert any(
                    isinstance(outcome, Refused) for (other, _), (_, outcome) in self.heard.items() if other == gid
                )
            else:
                assert before[0] != body
            return
        if allowed.verdict is Verdict.RUN:
            try:
                row = row.refused(step, Reject("no"), 0) if refuses else row.done(step, result, 0)
            except StepError:
                assert kind not in (StepKind.TRY, StepKind.ACTION)
                return
            if not refuses:
                self.ran[gid].append(kind)
        elif allowed.verdict is Verdict.EMPTY:
            assert not self.ran[gid]
            row = row.emptied(step, 0)
        self.rows[gid] = row
        self._hear(gid, kind, body, row.outcome(step, allowed))

    def _hear(self, gid: str, kind: StepKind, body: int, outcome: Outcome) -> None:
        if isinstance(outcome, Contradiction):
            return
        if kind in UNDO:
            self.undone.add(gid)
        elif gid in self.undone:
            assert isinstance(outcome, Refused)
            return
        first = self.heard.setdefault((gid, kind), (body, outcome))
        assert first == (body, outcome)

    @invariant()
    def nothing_runs_twice(self) -> None:
        for gid in GIDS:
            assert all(count == 1 for count in Counter(self.ran[gid]).values())

    @invariant()
    def an_undo_follows_what_it_undoes_and_is_the_last(self) -> None:
        for ran in self.ran.values():
            for position, kind in enumerate(ran):
                if kind in UNDO:
                    assert ran[:position] == [UNDO[kind]]
                    assert ran[position + 1 :] == []

    @invariant()
    def one_branch_is_of_one_protocol(self) -> None:
        tcc = {StepKind.TRY, StepKind.CONFIRM, StepKind.CANCEL}
        saga = {StepKind.ACTION, StepKind.COMPENSATE}
        for ran in self.ran.values():
            assert not ran or any(set(ran) <= protocol for protocol in (tcc, saga, {StepKind.MESSAGE}))


TestStepHistories = StepHistories.TestCase
TestStepHistories.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def _values() -> st.SearchStrategy[Any]:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts | st.binary(max_size=20)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


@given(_values())
def test_a_result_comes_back_as_it_was_given(result: Any) -> None:
    """Whatever JSON or msgpack can say, the first time and every other."""
    step = Step.of("g", "b", "try")
    row = Row(step.key).done(step, result, 0)
    assert len(row.result) <= RESULT_BYTES_MAX
    assert row.outcome(step, row.judge(step)) == Done(result)
