"""What stands in for parts of the library: its nodes, its pickles, its clock and its poller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
from pysyncobj.node import Node

__all__ = ["AmbientClock", "MemberNode", "MembershipCodec", "NoPoller"]


class MemberNode(Node):  # type: ignore[misc]  # the library has no types
    """A replica as the library sees it: equal by name, hashed alike in every process."""

    def __init__(self, identity: Any) -> None:
        if isinstance(identity, str):
            identity = (identity, "")
        super().__init__(identity[0])
        self.address = identity[1]
        self._hash = int.from_bytes(identity[0].encode()[-7:], "big")

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.id == other.id


class MembershipCodec:
    """In the place of `pickle`: only membership entries still pass through it."""

    @staticmethod
    def dumps(value: Any, protocol: int | None = None) -> bytes:  # noqa: ARG004  # the library's signature
        return bytes(msgpack.packb(value, default=lambda node: [node.id, node.address]))

    @staticmethod
    def loads(data: bytes) -> Any:
        return msgpack.unpackb(data)


class AmbientClock:
    """The clock of whichever core is at work."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def now(self) -> float:
        return self.clock()


class NoPoller:
    """The library polls its sockets at the end of each tick; it has none."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""
