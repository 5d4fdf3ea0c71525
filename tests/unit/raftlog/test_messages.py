"""The shapes of the messages between replicas: what the core may rely on without looking."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.messages import Message, MessageError, check

APPEND: Message = {
    "type": "append_entries",
    "term": 3,
    "commit_index": 7,
    "burst": 0,
    "prevLogIdx": 8,
    "prevLogTerm": 2,
    "entries": [[b"\0x", 9, 3], [b"\1", 10, 3]],
}
PIECE: Message = {
    "type": "append_entries",
    "term": 3,
    "commit_index": 7,
    "burst": 0,
    "serialized": {"index": 9, "term": 3, "offset": 0, "total": 3, "data": b"abc"},
}
GOOD: list[Message] = [
    APPEND,
    {**APPEND, "entries": []},
    {**APPEND, "prevLogIdx": None, "prevLogTerm": None, "entries": []},
    PIECE,
    {**PIECE, "serialized": None},
    {
        "type": "next_node_idx",
        "term": 3,
        "next_node_idx": 4,
        "reset": False,
        "success": True,
        "burst": 1,
        "received": 0,
    },
    {"type": "request_vote", "term": 3, "last_log_index": 4, "last_log_term": 2},
    {"type": "response_vote", "term": 3},
    {"type": "read_index", "id": 1},
    {"type": "read_index_reached", "id": 1, "index": 9},
    {"type": "read_index_reached", "id": 1, "index": None},
]
WRONG: tuple[Any, ...] = (None, -1, True, 1.5, "1", b"1", [], {}, [1])
MAY_ALSO_BE: dict[str, tuple[type, ...]] = {
    "index": (int, type(None)),
    "prevLogIdx": (int, type(None)),
    "prevLogTerm": (int, type(None)),
    "serialized": (dict, type(None)),
}


def name(message: Message) -> str:
    return str(message["type"])


@pytest.mark.parametrize("message", GOOD, ids=name)
def test_a_proper_message_passes_as_it_comes_from_the_wire(message: Message) -> None:
    check(message)
    check(msgpack.unpackb(msgpack.packb(message)))


@pytest.mark.parametrize("message", GOOD, ids=name)
def test_no_field_may_be_missing(message: Message) -> None:
    for field in message:
        rest = {key: value for key, value in message.items() if key != field}
        with pytest.raises(MessageError):
            check(rest)


@pytest.mark.parametrize("message", GOOD, ids=name)
def test_no_field_may_be_of_another_type_or_negative(message: Message) -> None:
    """Red when `_check_fields` uses isinstance (True is an int then), and when it lets negative numbers pass."""
    for field, proper in message.items():
        may_be = {type(proper), *MAY_ALSO_BE.get(field, ())}
        for value in WRONG:
            if type(value) not in may_be or value == -1:
                with pytest.raises(MessageError):
                    check({**message, field: value})


@pytest.mark.parametrize("message", [None, 1, b"x", [], {}, {"type": None}, {"type": ["x"]}, {"type": "apply_command"}])
def test_what_is_no_message_of_ours_is_refused(message: Any) -> None:
    with pytest.raises(MessageError):
        check(message)


@pytest.mark.parametrize(
    "entries",
    [
        [[b"\0x", 10, 3]],
        [[b"\0x", 9, 3], [b"\0x", 11, 3]],
        [[b"\0x", 9, 3], [b"\0x", 9, 3]],
        [[b"", 9, 3]],
        [["x", 9, 3]],
        [[b"\0x", 9]],
        [[b"\0x", 9, 3, 4]],
        [[b"\0x", "9", 3]],
        [[b"\0x", 9, None]],
        [b"\0x"],
        [None],
    ],
    ids=str,
)
def test_entries_follow_each_other_and_hold_something(entries: Any) -> None:
    """Red when `_check_entries` does not compare indexes: the core would append them where they do not belong."""
    with pytest.raises(MessageError):
        check({**APPEND, "entries": entries})


@pytest.mark.parametrize("field", ["index", "term", "offset", "total", "data"])
def test_a_piece_of_a_snapshot_says_where_it_belongs(field: str) -> None:
    """Red when `check` looks at appends only."""
    piece = PIECE["serialized"]
    for wrong in ({key: value for key, value in piece.items() if key != field}, {**piece, field: None}):
        with pytest.raises(MessageError):
            check({**PIECE, "serialized": wrong})


def test_an_entry_in_pieces_is_refused() -> None:
    """The library sends an entry larger than an append in pieces, and puts it together without looking at it."""
    with pytest.raises(MessageError, match="in pieces"):
        check({**APPEND, "transmission": "start", "data": b"x"})


def test_entries_need_an_index_to_follow() -> None:
    with pytest.raises(MessageError):
        check({**APPEND, "prevLogIdx": None})


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 20) | st.binary(max_size=3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(GOOD), st.data())
def test_nonsense_in_any_field_is_either_proper_or_refused(message: Message, data: st.DataObject) -> None:
    """Nothing but MessageError, whatever stands in a field."""
    field = data.draw(st.sampled_from(sorted(message)))
    try:
        check({**message, field: data.draw(JSONISH)})
    except MessageError:
        return
