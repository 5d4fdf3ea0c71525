"""Entries, the window of command ids, and snapshots of both: `raftlog.machine`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.errors import FormatError
from raftlog.machine import (
    COMMAND_BYTES_MAX,
    COMMAND_ID_BYTES_MAX,
    COMMANDS_PER_ENTRY_MAX,
    DEDUPE_WINDOW,
    ENTRY_BYTES_MAX,
    Applier,
    is_too_large,
    pack,
    take_batch,
)


class Echo:
    """Answers each command with a value that remembers how many came before."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, index: int, command: bytes) -> Any:
        if command == b"raise":
            raise ZeroDivisionError
        self.commands.append(command)
        return {"index": index, "nth": (len(self.commands), command), 7: None}

    def snapshot(self) -> Iterable[bytes]:
        captured = list(self.commands)
        return (command + b"\n" for command in captured)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.commands = b"".join(chunks).splitlines()


def applier_with(*commands: tuple[bytes | None, bytes]) -> tuple[Applier, Echo]:
    machine = Echo()
    applier = Applier(machine)
    for index, command in enumerate(commands, start=1):
        applier.apply(index, pack([command]))
    return applier, machine


# Entries -------------------------------------------------------------------------------------------------------


def test_the_bytes_of_an_entry_are_these() -> None:
    """Golden: entries on disks everywhere look like this, so version 1 can never change."""
    assert pack([(None, b"a"), (b"id", b"bc")]) == bytes.fromhex("01 92 92 c0 c40161 92 c4026964 c4026263")
    assert pack([]) == bytes.fromhex("01 90")


def test_an_entry_is_applied_in_the_order_of_its_commands() -> None:
    machine = Echo()
    results = Applier(machine).apply(9, pack([(None, b"a"), (b"id", b"b"), (None, b"c")]))
    assert machine.commands == [b"a", b"b", b"c"]
    assert [result["nth"][0] for result in results] == [1, 2, 3]
    assert {result["index"] for result in results} == {9}
    assert Applier(machine).apply(10, pack([])) == []


@pytest.mark.parametrize("entry", [b"", b"\x00\x90", b"\x02\x90"])
def test_an_entry_of_an_unknown_version_is_named_with_its_index(entry: bytes) -> None:
    with pytest.raises(FormatError, match="entry 42"):
        Applier(Echo()).apply(42, entry)


def test_an_exception_of_the_state_machine_is_not_swallowed() -> None:
    applier, _ = applier_with()
    with pytest.raises(ZeroDivisionError):
        applier.apply(1, pack([(b"id", b"raise")]))


def test_the_largest_command_fits_an_entry_and_a_larger_one_is_refused() -> None:
    command, command_id = b"x" * COMMAND_BYTES_MAX, b"i" * COMMAND_ID_BYTES_MAX
    assert not is_too_large(command, command_id)
    assert is_too_large(command + b"x", None)
    assert is_too_large(b"", command_id + b"i")
    assert len(pack([(command_id, command)])) <= ENTRY_BYTES_MAX


_sizes = st.one_of(
    st.integers(0, 300), st.integers(COMMAND_BYTES_MAX - 300, COMMAND_BYTES_MAX), st.just(COMMAND_BYTES_MAX // 2)
)


@given(st.lists(st.tuples(st.none() | st.integers(0, COMMAND_ID_BYTES_MAX), _sizes), max_size=12))
def test_waiting_commands_are_cut_into_entries_in_order_and_within_bounds(
    sizes: list[tuple[int | None, int]],
) -> None:
    """Broken on purpose by leaving the ids out of the weight: red."""
    waiting: deque[tuple[bytes | None, bytes, int]] = deque(
        (None if id_size is None else b"i" * id_size, b"x" * size, number)
        for number, (id_size, size) in enumerate(sizes)
    )
    taken: list[int] = []
    while waiting:
        batch = take_batch(waiting)
        assert batch
        assert len(pack([(command_id, command) for command_id, command, _ in batch])) <= ENTRY_BYTES_MAX
        taken += [number for _, _, number in batch]
    assert taken == list(range(len(sizes)))


@pytest.mark.parametrize("too_many_bytes", range(6))
def test_an_entry_is_filled_to_its_last_byte_and_no_further(too_many_bytes: int) -> None:
    """Broken on purpose by a weight of a command that is one byte too small: red."""
    command_id = b"i" * COMMAND_ID_BYTES_MAX
    sizes = [100_000] * 4
    largest_last = ENTRY_BYTES_MAX - 4 - sum(8 + len(command_id) + size for size in [*sizes, 0])
    sizes.append(largest_last + too_many_bytes)
    batch = take_batch(deque((command_id, b"x" * size, None) for size in sizes))
    assert len(batch) == (4 if too_many_bytes else 5)
    assert len(pack([(command_id, command) for command_id, command, _ in batch])) <= ENTRY_BYTES_MAX


def test_an_entry_holds_a_bounded_number_of_commands() -> None:
    waiting: deque[tuple[bytes | None, bytes, None]] = deque([(None, b"", None)] * (COMMANDS_PER_ENTRY_MAX + 1))
    assert len(take_batch(waiting)) == COMMANDS_PER_ENTRY_MAX
    assert len(take_batch(waiting)) == 1
    assert take_batch(waiting) == []


# The window of command ids -------------------------------------------------------------------------------------


def test_a_repeated_id_is_answered_with_the_first_result() -> None:
    applier, machine = applier_with()
    first, second = applier.apply(1, pack([(b"id", b"a"), (b"id", b"a")]))
    (third,) = applier.apply(2, pack([(b"id", b"other bytes")]))
    assert first == second == third == {"index": 1, "nth": [1, b"a"], 7: None}
    assert machine.commands == [b"a"]


def test_a_caller_that_changes_its_result_does_not_change_the_next_answer() -> None:
    applier, _ = applier_with()
    (result,) = applier.apply(1, pack([(b"id", b"a")]))
    result["nth"] = "changed"
    assert applier.apply(2, pack([(b"id", b"a")]))[0]["nth"] == [1, b"a"]


def test_an_id_is_remembered_for_exactly_the_window_and_a_repetition_does_not_renew_it() -> None:
    """Broken on purpose by moving a repeated id to the end of the window, as an LRU cache would: red."""
    applier, machine = applier_with((b"first", b"a"))
    others = [(b"%d" % number, b"") for number in range(DEDUPE_WINDOW - 1)]
    applier.apply(2, pack([*others, (b"first", b"a"), (None, b"does not count")]))
    assert machine.commands.count(b"a") == 1
    applier.apply(3, pack([(b"one more", b""), (b"first", b"a")]))
    assert machine.commands.count(b"a") == 2


# Snapshots -----------------------------------------------------------------------------------------------------


def test_a_snapshot_is_what_was_true_when_it_was_taken() -> None:
    applier, _ = applier_with((b"id", b"a"))
    chunks = applier.snapshot()
    applier.apply(2, pack([(b"later", b"b")]))
    restored, machine = applier_with()
    restored.restore(chunks)
    assert machine.commands == [b"a"]
    assert restored.apply(2, pack([(b"later", b"b")]))[0]["nth"] == [2, b"b"]


@given(
    st.lists(st.tuples(st.none() | st.binary(max_size=3), st.sampled_from([b"a", b"b"])), max_size=40),
    st.integers(1, 9),
)
def test_a_restored_replica_goes_on_like_the_original(commands: list[tuple[bytes | None, bytes]], border: int) -> None:
    """Whatever the chunk borders became on the way. Broken on purpose by dropping what follows the window in
    the chunk that ends it: red."""
    original, machine = applier_with(*commands)
    data = b"".join(original.snapshot())
    restored, copy = applier_with((b"old", b"forgotten"))
    restored.restore(data[at : at + border] for at in range(0, len(data), border))
    assert copy.commands == machine.commands
    assert b"".join(restored.snapshot()) == data
    entry = pack([*commands, (b"new", b"c")])
    assert restored.apply(99, entry) == original.apply(99, entry)


def test_a_restored_window_forgets_in_the_order_of_the_original() -> None:
    applier, _ = applier_with((b"first", b"a"), (b"second", b"b"))
    applier.apply(3, pack([(b"%d" % number, b"") for number in range(DEDUPE_WINDOW - 2)]))
    restored, machine = applier_with()
    restored.restore([b"".join(applier.snapshot())])
    restored.apply(4, pack([(b"one more", b""), (b"second", b"b"), (b"first", b"a")]))
    assert machine.commands.count(b"b") == 1
    assert machine.commands.count(b"a") == 2


def test_a_snapshot_that_this_code_cannot_read_is_refused() -> None:
    applier, _ = applier_with((b"id", b"a"))
    data = b"".join(applier.snapshot())
    for broken in (b"\x02" + data[1:], b"", data[:1], data[:8]):
        fresh, machine = applier_with()
        with pytest.raises(FormatError):
            fresh.restore([broken])
        assert machine.commands == []
