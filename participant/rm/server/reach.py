"""What is asked of a server that may not be there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

from participant.errors import ResourceUnreachable

__all__ = ["Reaching"]


class Reaching(ABC):
    """`with unreachable("ask"):` raises ResourceUnreachable for whatever says that the server is not there.

    Each server's `unreachable` is one of these, with its driver's own word for that. A class, since it stands in the
    path of every statement: it is faster than a function of contextlib.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    @staticmethod
    @abstractmethod
    def is_loss(error: BaseException) -> bool:
        """Whether an error says that the server is not there."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.is_loss(error):
            raise ResourceUnreachable(
                f"cannot {self._what} the database: {str(error) or type(error).__name__}"
            ) from error
