"""W3C Trace Context: what is read, what is cut off, and that nothing malformed is ever an error."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from participant.traceparent import (
    TRACE_CHARS_MAX,
    TRACESTATE_CHARS_MAX,
    headers_of,
    read_trace,
    trace_fields,
    trace_in,
    trace_of,
)

IDS = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
PARENT = f"00-{IDS}-01"


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (PARENT, PARENT),
        (f"00-{IDS}-00", f"00-{IDS}-00"),
        (f" \t{PARENT} ", PARENT),
        (f"01-{IDS}-01-what-comes-later", PARENT),
        (f"cc-{IDS}-01", PARENT),
        (f"00-{IDS}-01-more", ""),
        (f"01-{IDS}-01more", ""),
        (f"ff-{IDS}-01", ""),
        (f"0-{IDS}-01", ""),
        (f"00-{IDS}", ""),
        (f"00-{IDS.upper()}-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", ""),
        (f"{PARENT}\r\nX-Evil: 1", ""),
        (f"{PARENT}\n", ""),
        ("", ""),
        ("x" * 100_000, ""),
        (None, ""),
        (7, ""),
        (PARENT.encode(), ""),
    ],
)
def test_a_traceparent_is_read_or_ignored(traceparent: object, trace: str) -> None:
    """Section 3.2 of the recommendation, and its way with later versions. Seen red without the rule for all zeros."""
    assert trace_of(traceparent) == trace


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("shop=1", "shop=1"),
        ("a=1, b=2 ", "a=1, b=2"),
        ("", ""),
        ("a=1\r\nX-Evil: 1", ""),
        ("a=\u00e9", ""),
        (None, ""),
        (["a=1"], ""),
    ],
)
def test_a_tracestate_goes_along_if_it_can(tracestate: object, kept: str) -> None:
    """Red without the check of its characters: a line of its own would get into the headers of others."""
    assert trace_of(PARENT, tracestate) == f"{PARENT} {kept}".strip()
    assert headers_of(trace_of(PARENT, tracestate)).get("tracestate", "") == kept


def test_a_tracestate_without_a_traceparent_is_nothing() -> None:
    assert trace_of(None, "a=1") == ""
    assert headers_of("") == {}


def test_a_tracestate_that_is_too_long_loses_whole_entries_from_its_end() -> None:
    entries = [f"v{number}={'x' * 60}" for number in range(20)]
    trace = trace_of(PARENT, ",".join(entries))
    kept = headers_of(trace)["tracestate"]
    assert len(kept) <= TRACESTATE_CHARS_MAX < len(kept) + 1 + len(entries[0])
    assert kept.split(",") == entries[: len(kept.split(","))]
    assert trace_of(PARENT, "x" * (TRACESTATE_CHARS_MAX + 1)) == PARENT
    assert len(trace_of(PARENT, "x" * TRACESTATE_CHARS_MAX)) == TRACE_CHARS_MAX


def test_headers_are_read_in_any_case_and_two_traceparents_are_none() -> None:
    assert trace_in(CIMultiDict({"TraceParent": PARENT})) == PARENT
    several = CIMultiDict([("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")])
    assert trace_in(several) == f"{PARENT} a=1,b=2"
    several.add("traceparent", PARENT)
    assert trace_in(several) == ""
    assert trace_in(CIMultiDict({"tracestate": "a=1"})) == ""


def test_a_line_of_the_log_names_the_trace_and_nothing_without_one() -> None:
    assert trace_fields(f"{PARENT} a=1") == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert trace_fields("") == {}


@pytest.mark.parametrize("text", [None, 1, "", " ", "x", ["a"], f" {PARENT}"])
def test_a_field_that_is_no_trace_is_ignored(text: object) -> None:
    assert read_trace(text) == ""


def test_a_field_holds_what_the_headers_would() -> None:
    assert read_trace(f"{PARENT} a=1") == read_trace(f"{PARENT}  a=1 ") == trace_of(PARENT, "a=1")
