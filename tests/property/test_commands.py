"""Any command at all: it survives its bytes, and no ledger raises for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.ledger.commands import (
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
    decode,
    encode,
)
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Delivery,
    Mode,
    Notice,
    Path,
    Reporting,
    Retry,
    StepRecord,
    WorkflowRecord,
)
from coordinator.ledger.table import Accepted, Ledger, Rejected

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1)
any_branch = st.builds(
    BranchRecord,
    texts,
    texts,
    st.none() | texts,
    st.binary(max_size=20),
    ended=st.just(False),
    works=st.none() | st.integers(1, 2**63),
    step=st.none(),
)
any_step = st.builds(
    StepRecord,
    st.sampled_from(Mode),
    st.lists(texts, max_size=3).map(tuple),
    st.none() | texts,
    st.none() | texts,
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    st.builds(Retry, numbers, numbers, numbers, numbers),
    attempt=st.just(1),
    settling=st.just(1),
    done=st.just(False),
    result=st.just(b""),
    not_before_ms=numbers,
    reporting=st.none() | st.builds(Reporting, texts, texts, st.just(False), st.none()),
    delivery=st.none()
    | st.builds(
        Delivery,
        texts,
        numbers,
        numbers,
        *(st.just(default) for default in Delivery()[3:]),
    ),
)
any_branch_with_step = st.builds(lambda b, step: b._replace(step=step), any_branch, any_step)
any_workflow = st.builds(
    WorkflowRecord, texts, st.binary(), asked=st.just(()), result=st.just(b""), diverged=st.just("")
)
any_command = st.one_of(
    st.builds(
        Begin,
        texts,
        st.binary(),
        st.sampled_from([path for path in Path if path is not Path.STEPS]),
        st.lists(any_branch).map(tuple),
        numbers,
        numbers,
        texts,
        texts,
        texts,
        workflow=st.none(),
    ),
    st.builds(
        Begin,
        texts,
        st.binary(),
        st.just(Path.STEPS),
        st.lists(any_branch_with_step).map(tuple),
        numbers,
        numbers,
        workflow=st.none(),
    ),
    st.builds(
        Begin,
        texts,
        st.binary(),
        st.just(Path.STEPS),
        st.just(()),
        numbers,
        numbers,
        texts,
        texts,
        texts,
        workflow=any_workflow,
    ),
    st.builds(Extend, texts, numbers, st.binary(), any_branch_with_step, numbers),
    st.builds(Return, texts, numbers, st.binary(), numbers, st.lists(texts).map(tuple)),
    st.builds(Diverge, texts, texts),
    st.builds(Progress, texts, texts, numbers, st.sampled_from(Heard), st.binary(max_size=20)),
    st.builds(
        Decide,
        texts,
        st.sampled_from(Decision),
        texts,
        numbers,
        texts,
        st.none() | texts,
        st.lists(texts).map(tuple),
    ),
    st.builds(End, texts, st.lists(texts).map(tuple)),
    st.builds(Notified, texts, st.sampled_from((Notice.DECIDED, Notice.ENDED))),
    st.builds(DropNotice, texts, texts),
    st.builds(Precommit, texts),
    st.builds(Forget, st.lists(texts).map(tuple)),
)


@given(any_command)
def test_every_command_survives_its_bytes(command: Command) -> None:
    assert decode(encode(command)) == command


@given(any_command)
def test_no_command_makes_apply_raise(command: Command) -> None:
    """Total: what is strange is rejected, by every replica alike."""
    results = [Ledger().apply(1, encode(command)) for _ in range(2)]
    assert isinstance(results[0], Accepted | Rejected)
    assert results[0] == results[1]
