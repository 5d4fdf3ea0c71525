"""What types the fields of a command have. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from coordinator.ledger.errors import CommandError

__all__ = ["Shape"]


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
