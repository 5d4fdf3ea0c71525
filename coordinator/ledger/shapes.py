"""What types the fields of a command have. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from types import NoneType
from typing import Any

from coordinator.ledger.errors import CommandError

__all__ = [
    "ARRAY",
    "ARRAY_OR_NIL",
    "BYTES",
    "INT",
    "INT_OR_NIL",
    "TEXT",
    "TEXT_OR_NIL",
    "Shape",
    "member_of",
    "texts",
]

TEXT, BYTES, INT, ARRAY = (str,), (bytes,), (int,), (tuple,)
TEXT_OR_NIL, INT_OR_NIL, ARRAY_OR_NIL = (str, NoneType), (int, NoneType), (tuple, NoneType)


class Shape:
    """What types the fields of something have. Compared exactly: msgpack's `true` is not the number 1."""

    def __init__(self, name: str, *allowed: tuple[type, ...], added: tuple[tuple[type, ...], ...] = ()) -> None:
        """`added`: of the last fields, which may be absent from any of them on."""
        self._name = name
        self._count = len(allowed)
        self._allowed = (*allowed, *added)
        lengths = range(self._count, len(self._allowed) + 1)
        self._fitting = frozenset(types for length in lengths for types in product(*self._allowed[:length]))

    def check(self, fields: Sequence[Any]) -> None:
        """Raises CommandError, which names the first field that does not fit."""
        if tuple(map(type, fields)) in self._fitting:
            return
        if not self._count <= len(fields) <= len(self._allowed):
            raise CommandError(f"{self._name} has {len(fields)} fields instead of {self._count}")
        for position, (value, types) in enumerate(zip(fields, self._allowed, strict=False)):
            if type(value) not in types:
                names = " or ".join(t.__name__ for t in types)
                raise CommandError(f"{self._name} holds {type(value).__name__} in field {position} instead of {names}")


def texts(values: tuple[Any, ...]) -> tuple[str, ...]:
    """A list of names. Raises CommandError."""
    for value in values:
        if type(value) is not str:
            raise CommandError(f"a list of names holds {type(value).__name__}")
    return values


def member_of(members: Mapping[str, Any], value: str, what: str) -> Any:
    """The member with this value; `what` it should be, in words. Raises CommandError."""
    member = members.get(value)
    if member is None:
        raise CommandError(f"{value!r} is not a {what}")
    return member
