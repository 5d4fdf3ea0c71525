"""Notes (`participant.notes`) in an embedded database."""

from __future__ import annotations

from participant.rm.requests import ReadNote, SwapNote
from participant.rm.store import Store

__all__ = ["serve_note"]


def serve_note(store: Store, request: ReadNote | SwapNote, at_ms: int) -> bytes | bool | None:
    """The note, or whether it was replaced."""
    note = store.note(request.key)
    if isinstance(request, ReadNote):
        return note
    is_expected = note == request.expected
    if is_expected:
        store.save_note(request.key, request.note, changed_at_ms=at_ms, is_finished=request.is_finished)
    return is_expected
