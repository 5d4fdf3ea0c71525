"""Spans of OpenTelemetry, where it is installed. Where it is not, a trace is handed on as it came.

Owns: the only import of OpenTelemetry, and of that only the API: who runs the process chooses an SDK, and where spans
go. Must never do: start a trace that nobody asked for, or let a failure of the tracing be one of the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, TypeAlias

from structlog import get_logger
from structlog.contextvars import bound_contextvars

from participant.traceparent import headers_of, trace_fields, trace_of

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace as api
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

__all__ = ["IS_INSTALLED", "Kind", "Span", "current", "start"]

Kind: TypeAlias = Literal["INTERNAL", "SERVER", "CLIENT"]

_Function: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

_LOG = get_logger(__name__)


class Span:
    """Something under way in a trace. `trace`: what is handed on, so that what follows is its child."""

    __slots__ = ("_context", "_span", "trace")

    def __init__(self, trace: str, span: Any = None, context: Any = None) -> None:
        self.trace = trace
        self._span = span
        self._context = context

    def note(self, **attributes: str) -> None:
        """What is known of it now."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def end(self, error: str = "", **attributes: str) -> None:
        """It is over; `error` says why nobody knows what came of it."""
        if self._span is None:
            return
        self.note(**attributes)
        try:
            if error:
                self._span.set_status(api.StatusCode.ERROR, error)
            self._span.end()
        except Exception:  # noqa: BLE001 (the border: an exporter is somebody else's code)
            _LOG.exception("tracing.failed")

    def around(self, function: _Function) -> _Function:
        """`function`, so that spans of its own are children of this one, and its lines in the log name the trace."""

        async def traced(*arguments: Any) -> Any:
            token = None if self._context is None else contexts.attach(self._context)
            try:
                with bound_contextvars(**trace_fields(self.trace)):
                    return await function(*arguments)
            finally:
                if token is not None:
                    contexts.detach(token)

        return traced


def start(name: str, trace: str, kind: Kind, attributes: Mapping[str, str], *, is_linked: bool = False) -> Span:
    """A span called `name` in `trace`, which is not "". `is_linked`: others have begun the same work before."""
    if not IS_INSTALLED:
        return Span(trace)
    try:
        parent = TraceContextTextMapPropagator().extract(headers_of(trace))
        links = [api.Link(api.get_current_span(parent).get_span_context())] if is_linked else None
        span = api.get_tracer("commitd").start_span(
            name, parent, api.SpanKind[kind], attributes=_named(attributes), links=links
        )
        context = api.set_span_in_context(span, parent)
        return Span(_trace_in(context) or trace, span, context)
    except Exception:  # noqa: BLE001 (the border: a sampler is somebody else's code)
        _LOG.exception("tracing.failed")
        return Span(trace)


def current() -> str:
    """The trace of what this task is doing; "" if it is in none, or nobody can know."""
    return _trace_in(None) if IS_INSTALLED else ""


def _trace_in(context: Any) -> str:
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, context)
    return trace_of(headers.get("traceparent"), headers.get("tracestate"))


def _named(attributes: Mapping[str, str]) -> dict[str, str]:
    return {f"commitd.{name}": value for name, value in attributes.items()}
