"""The trace that a request belongs to (W3C Trace Context, level 1), as one short text: a `traceparent`, and behind a
space the `tracestate`, if there is one. "" stands for no trace.

It is for people and their tools, and means nothing to a transaction: what is malformed is ignored, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

__all__ = [
    "TRACESTATE_CHARS_MAX",
    "TRACE_CHARS_MAX",
    "headers_of",
    "read_trace",
    "trace_fields",
    "trace_in",
    "trace_of",
]

TRACESTATE_CHARS_MAX = 512  # entries beyond it are dropped, from the end
TRACE_CHARS_MAX = 55 + 1 + TRACESTATE_CHARS_MAX

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e]+")


def trace_of(traceparent: object, tracestate: object = None) -> str:
    """The trace in the two headers of a request; what is malformed is as if it were not there.

    What a later version has appended to a traceparent is cut off, as the specification asks for.
    """
    found = _TRACEPARENT.fullmatch(traceparent.strip(" \t")) if isinstance(traceparent, str) else None
    if found is None or (found[1] == "00" and found[3]):
        return ""
    return f"00-{found[2]} {_bounded(tracestate)}".rstrip(" ")


class Headers(Protocol):
    """Those of a request; the names are in any case, and may come more than once."""

    def getall(self, key: str, default: tuple[str, ...], /) -> Sequence[str]: ...


def trace_in(headers: Headers) -> str:
    """The trace in the headers of a request. Two traceparents are none, and several tracestates are one list."""
    traceparents = headers.getall("traceparent", ())
    if len(traceparents) != 1:
        return ""
    return trace_of(traceparents[0], ",".join(headers.getall("tracestate", ())))


def read_trace(text: object) -> str:
    """The trace in such a text."""
    if not isinstance(text, str):
        return ""
    traceparent, _, tracestate = text.partition(" ")
    return trace_of(traceparent, tracestate)


def headers_of(trace: str) -> dict[str, str]:
    """The headers that say it."""
    traceparent, _, tracestate = trace.partition(" ")
    headers = {"traceparent": traceparent} if traceparent else {}
    return headers | {"tracestate": tracestate} if tracestate else headers


def trace_fields(trace: str) -> dict[str, str]:
    """What a line of a log says of it."""
    return {"trace_id": trace[3:35]} if trace else {}


def _bounded(tracestate: object) -> str:
    """As much of it as may go on: whole entries only."""
    if not isinstance(tracestate, str) or _TRACESTATE.fullmatch(tracestate) is None:
        return ""
    text = tracestate.strip(" ")
    if len(text) > TRACESTATE_CHARS_MAX:
        text = text[: TRACESTATE_CHARS_MAX + 1].rpartition(",")[0].strip(" ")
    return text
