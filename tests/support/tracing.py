"""An SDK of OpenTelemetry for one test: the spans that have ended, in order, and nothing of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer, format_span_id, format_trace_id

__all__ = ["CALLER", "CALLER_ID", "TRACE_ID", "Recorded", "recorded_spans"]

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_ID = "00f067aa0ba902b7"
CALLER = f"00-{TRACE_ID}-{CALLER_ID}-01"


class Recorded:
    """`tracer`: of the same SDK, for spans of a user's own."""

    def __init__(self, tracer: Tracer, exporter: InMemorySpanExporter) -> None:
        self.tracer = tracer
        self._exporter = exporter

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    @property
    def trace_ids(self) -> set[str]:
        return {format_trace_id(span.context.trace_id) for span in self.spans if span.context is not None}

    def parent_of(self, span: ReadableSpan) -> str:
        """The name of the span above, or its id if it is none of ours."""
        if span.parent is None:
            return ""
        above = [each.name for each in self.spans if each.context and each.context.span_id == span.parent.span_id]
        return above[0] if above else format_span_id(span.parent.span_id)


def recorded_spans(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return Recorded(provider.get_tracer("test"), exporter)
