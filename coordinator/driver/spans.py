"""The spans of transactions that are driven here (`participant.tracing`), of those whose caller named a trace.

Owns: which are under way. Must never do: cost anything where there is no trace. A span whose leader dies is lost with
it; the next leader's begins in the caller's trace, too, which stands in the record, and is linked to it.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.effects import CallEnded
from coordinator.ledger.records import Decision, Path
from participant.tracing import Kind, Span, start
from participant.wire import BranchState, Operation

__all__ = ["Spans", "traced_call"]

_OUTCOMES = {Decision.COMMIT: "committed", Decision.ABORT: "aborted"}


class Spans:
    """One span for each transaction that has a trace, from when this replica drives it until it does no more."""

    def __init__(self) -> None:
        self._under_way: dict[str, Span] = {}

    def begin(self, gid: str, trace: str, path: Path, decision: Decision | None, *, is_taken_over: bool) -> None:
        """It is driven here from now on; `is_taken_over`: somebody else has begun it."""
        kind: Kind = "INTERNAL" if is_taken_over else "SERVER"
        what = {"gid": gid, "path": path.value}
        self._under_way[gid] = start("commitd.transaction", trace, kind, what, is_linked=is_taken_over)
        if decision is not None:
            self.decided(gid, decision)

    def trace_of(self, gid: str) -> str:
        """What is handed on in its name; "" if it has no trace."""
        span = self._under_way.get(gid)
        return "" if span is None else span.trace

    def decided(self, gid: str, decision: Decision) -> None:
        """The record holds its decision."""
        span = self._under_way.get(gid)
        if span is not None:
            span.note(outcome=_OUTCOMES[decision])

    def end(self, gid: str) -> None:
        """It is not driven here any more."""
        span = self._under_way.pop(gid, None)
        if span is not None:
            span.end()

    def end_all(self) -> None:
        """Nothing is."""
        for gid in tuple(self._under_way):
            self.end(gid)


def traced_call(
    participant: str, operation: Operation, ended: Callable[[CallEnded], None]
) -> tuple[Operation, Callable[[CallEnded], None]]:
    """A call that is a span of its own: the operation to send, and who is to hear of its end."""
    key = operation.key
    what = {"gid": key.gid, "branch": key.branch, "participant": participant}
    span = start(f"commitd.{operation.verb.value}", operation.trace, "CLIENT", what)

    def heard(event: CallEnded) -> None:
        if event.answer is None:
            span.end(error=event.error, outcome=BranchState.UNKNOWN.value)
        else:
            span.end(outcome=event.answer.state.value)
        ended(event)

    return operation._replace(trace=span.trace), heard
