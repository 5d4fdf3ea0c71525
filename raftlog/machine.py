"""What one log entry holds, and how entries drive the user's state machine. Sans-IO.

Owns the bytes of an entry (a batch of commands), the window in which a repeated command is recognised, and
the bytes of a snapshot of both. Must never wait, read a clock, or differ between replicas: the order of the
log alone decides everything here.

    entry     version byte (1), then msgpack [[command_id | nil, command], ...]
    snapshot  version byte (1), then frames of the window, oldest first: a big-endian u32 length and msgpack
              [command_id, result, command_id, result, ...], where `result` is msgpack in itself; a frame of
              length 0 ends the window; the rest is what the user's state machine gave
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

from msgpack import packb, unpackb

from raftlog.errors import FormatError
from raftlog.port import StateMachine

__all__ = [
    "COMMANDS_PER_ENTRY_MAX",
    "COMMAND_BYTES_MAX",
    "COMMAND_ID_BYTES_MAX",
    "DEDUPE_WINDOW",
    "ENTRY_BYTES_MAX",
    "Applier",
    "Command",
    "is_too_large",
    "pack",
    "take_batch",
]

ENTRY_BYTES_MAX: Final = 512 * 1024  # every packed entry is at most this long
COMMAND_BYTES_MAX: Final = 256 * 1024  # so that a command always fits an entry, with room for others
COMMAND_ID_BYTES_MAX: Final = 64
COMMANDS_PER_ENTRY_MAX: Final = 1024  # bounds how long applying one entry holds the event loop
DEDUPE_WINDOW: Final = 65_536  # identified commands; the oldest is forgotten first

_ENTRY_VERSION: Final = 1
_SNAPSHOT_VERSION: Final = 1
_ENTRY_OVERHEAD_BYTES: Final = 1 + 3  # version, array header
_COMMAND_OVERHEAD_BYTES: Final = 1 + 2 + 5  # pair, header of the id, header of the command
_FRAME_COMMANDS: Final = 1024
_FRAME_LENGTH: Final = struct.Struct(">I")

Command: TypeAlias = tuple[bytes | None, bytes]
T = TypeVar("T")


def is_too_large(command: bytes, command_id: bytes | None) -> bool:
    """Whether the log refuses this command for its size, or for the size of its id."""
    return len(command) > COMMAND_BYTES_MAX or (command_id is not None and len(command_id) > COMMAND_ID_BYTES_MAX)


def take_batch(waiting: deque[tuple[bytes | None, bytes, T]]) -> list[tuple[bytes | None, bytes, T]]:
    """Take from the left of `waiting` what fits one entry: (command id, command, whatever belongs to it).

    Every waiting command must have passed `is_too_large`; at least one is then taken, if there is one.
    """
    taken: list[tuple[bytes | None, bytes, T]] = []
    room_bytes = ENTRY_BYTES_MAX - _ENTRY_OVERHEAD_BYTES
    while waiting and len(taken) < COMMANDS_PER_ENTRY_MAX:
        command_id, command, _ = waiting[0]
        room_bytes -= _COMMAND_OVERHEAD_BYTES + len(command_id or b"") + len(command)
        if room_bytes < 0:
            break
        taken.append(waiting.popleft())
    return taken


def pack(batch: Iterable[Command]) -> bytes:
    """One entry with the commands of `batch` in their order; an empty one changes nothing."""
    packed: bytes = packb([(command_id, command) for command_id, command in batch])
    return bytes((_ENTRY_VERSION,)) + packed


class Applier:
    """The replicated state: the user's state machine, and the results of its last identified commands.

    A command whose id stands in the window is not applied again: its first result is repeated. The window
    moves with the log, so every replica forgets the same id at the same entry. The result of an identified
    command is kept as msgpack and is given in that form from the first time on (a tuple comes back as a
    list): the first answer and a repeated one are equal.
    """

    __slots__ = ("_ids", "_machine", "_results")

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine
        self._results: dict[bytes, bytes] = {}
        self._ids: deque[bytes] = deque()  # the keys of `_results`, oldest first

    def apply(self, index: int, entry: bytes) -> list[Any]:
        """Apply every command of the entry at `index`; their results, in order.

        Raises: FormatError on an unknown version, and whatever the state machine raises. Both are fatal for
        the node: to skip the entry here would let replicas diverge.
        """
        if not entry or entry[0] != _ENTRY_VERSION:
            raise FormatError(f"entry {index} begins with {entry[:1]!r}, not with version {_ENTRY_VERSION}")
        apply = self._machine.apply
        results: list[Any] = []
        for command_id, command in unpackb(memoryview(entry)[1:], use_list=False):
            if command_id is None:
                results.append(apply(index, command))
            else:
                results.append(self._apply_once(index, command_id, command))
        return results

    def _apply_once(self, index: int, command_id: bytes, command: bytes) -> Any:
        packed = self._results.get(command_id)
        if packed is None:
            packed = packb(self._machine.apply(index, command))
            self._results[command_id] = packed
            self._ids.append(command_id)
            if len(self._ids) > DEDUPE_WINDOW:
                del self._results[self._ids.popleft()]
        return unpackb(packed, strict_map_key=False)

    def snapshot(self) -> Iterable[bytes]:
        """Capture everything now, by reference; the bytes are made as they are consumed."""
        return _encode(self._results.copy(), self._machine.snapshot())

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace everything by what `snapshot` gave on some node; chunk borders may differ.

        Raises: FormatError on an unknown version or a window that ends early, and whatever the state machine
        raises.
        """
        stream = _Stream(chunks)
        version = stream.read(1)[0]
        if version != _SNAPSHOT_VERSION:
            raise FormatError(f"snapshot of version {version}; this code knows version {_SNAPSHOT_VERSION}")
        results: dict[bytes, bytes] = {}
        while length := _FRAME_LENGTH.unpack(stream.read(_FRAME_LENGTH.size))[0]:
            fields = iter(unpackb(stream.read(length)))
            results.update(zip(fields, fields, strict=True))
        self._machine.restore(stream.rest())
        self._results = results
        self._ids = deque(results)


def _encode(results: dict[bytes, bytes], chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a snapshot; relies on `results` being in the order of application, as a dict keeps it."""
    yield bytes((_SNAPSHOT_VERSION,))
    items = iter(results.items())
    while batch := list(islice(items, _FRAME_COMMANDS)):
        frame = packb([field for item in batch for field in item])
        yield _FRAME_LENGTH.pack(len(frame)) + frame
    yield _FRAME_LENGTH.pack(0)
    yield from chunks


class _Stream:
    """Chunks with any borders, read as one run of bytes."""

    __slots__ = ("_buffer", "_chunks")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def read(self, size_bytes: int) -> bytes:
        """Exactly the next `size_bytes`. Raises: FormatError if the stream ends before."""
        while len(self._buffer) < size_bytes:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise FormatError("the snapshot ends inside the window of command ids")
            self._buffer += chunk
        taken = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        return taken

    def rest(self) -> Iterator[bytes]:
        """Everything that has not been read."""
        if self._buffer:
            yield bytes(self._buffer)
        yield from self._chunks
