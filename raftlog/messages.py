"""The messages between replicas: their shapes, checked before anything acts on them. Sans-IO.

The first four are the library's own, with what the guard adds (`burst` on appends; `term`, `burst` and `received` on
acknowledgements); the last two are ours: a follower asks the leader how far it must have applied to answer a read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Message", "MessageError", "check"]

Message: TypeAlias = dict[str, Any]


class MessageError(ValueError):
    """The message is not one of ours."""


_SHAPES: dict[str, dict[str, tuple[type, ...]]] = {
    "append_entries": {"term": (int,), "commit_index": (int,), "burst": (int,)},
    "next_node_idx": {
        "term": (int,),
        "next_node_idx": (int,),
        "reset": (bool,),
        "success": (bool,),
        "burst": (int,),
        "received": (int,),
    },
    "request_vote": {"term": (int,), "last_log_index": (int,), "last_log_term": (int,)},
    "response_vote": {"term": (int,)},
    "read_index": {"id": (int,)},
    "read_index_reached": {"id": (int,), "index": (int, type(None))},
}
_ENTRIES = {"prevLogIdx": (int, type(None)), "prevLogTerm": (int, type(None)), "entries": (list,)}
_PIECE = {"index": (int,), "term": (int,), "offset": (int,), "total": (int,), "data": (bytes,)}


def check(message: Any) -> None:
    """Raises MessageError unless `message` has the shape that its type demands."""
    kind = message.get("type") if isinstance(message, dict) else None
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise MessageError("no known type")
    _check_fields(message, shape)
    if message["type"] != "append_entries":
        return
    if "serialized" in message:
        if message["serialized"] is not None:
            _check_fields(message["serialized"], _PIECE)
    else:
        _check_fields(message, _ENTRIES)
        if "transmission" in message:
            raise MessageError("an entry in pieces: we never send those, and the library must not put them together")
        _check_entries(message["prevLogIdx"], message["entries"])


def _check_fields(fields: Any, shape: Mapping[str, tuple[type, ...]]) -> None:
    if not isinstance(fields, dict):
        raise MessageError("no fields")
    for name, types in shape.items():
        value = fields.get(name, MessageError)
        if type(value) not in types:
            raise MessageError(f"{name} is missing or of a wrong type")
        if type(value) is int and value < 0:
            raise MessageError(f"{name} is negative")


def _check_entries(previous: int | None, entries: list[Any]) -> None:
    if previous is None:
        if entries:
            raise MessageError("entries without an index")
        return
    for expected, entry in enumerate(entries, previous + 1):
        match entry:
            case [bytes(), int(index), int()] if index == expected and entry[0]:
                continue
            case _:
                raise MessageError(f"entry {expected} has no proper shape")
