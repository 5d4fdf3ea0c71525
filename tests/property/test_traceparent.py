"""A trace survives every way it travels, whatever came in; and nothing that came in is an error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from participant.ids import BranchKey
from participant.traceparent import TRACE_CHARS_MAX, headers_of, read_trace, trace_of
from participant.wire import Operation, Verb

HEX = "0123456789abcdef"
PARENTS = st.one_of(
    st.builds(
        "{}-{}-{}-{}".format,
        st.text(HEX, min_size=2, max_size=2),
        st.text(HEX, min_size=32, max_size=32),
        st.text(HEX, min_size=16, max_size=16),
        st.text(HEX, min_size=2, max_size=2),
    ),
    st.text(),
    st.integers(),
    st.none(),
)
STATES = st.one_of(st.none(), st.text(), st.text("abcz=, ;", max_size=2_000))


@given(PARENTS, STATES)
def test_what_was_read_stays_as_it_is_on_every_way(traceparent: object, tracestate: object) -> None:
    trace = trace_of(traceparent, tracestate)
    assert len(trace) <= TRACE_CHARS_MAX
    assert trace.isprintable()
    assert read_trace(trace) == trace
    headers = headers_of(trace)
    assert trace_of(headers.get("traceparent"), headers.get("tracestate")) == trace
    operation = Operation(Verb.COMMIT, BranchKey("g", "b"), trace=trace)
    assert Operation.from_map(operation.to_map(), "operation") == operation


@given(st.one_of(st.text(), st.binary(), st.integers(), st.lists(st.none()), st.dictionaries(st.text(), st.none())))
def test_whatever_stands_in_the_field_is_no_error(value: object) -> None:
    form = {"verb": "commit", "gid": "g", "branch": "b", "trace": value}
    assert read_trace(Operation.from_map(form, "operation").trace) == Operation.from_map(form, "operation").trace
