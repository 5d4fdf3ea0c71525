"""What a node says of leadership, and to whom: only changes, in order."""

from __future__ import annotations

from collections.abc import Callable

from raftlog.port import Leadership, LeadershipListener, Role

__all__ = ["Announcer"]


class Announcer:
    """The announced leadership of one node, which begins in `term`."""

    def __init__(self, term: int = 0) -> None:
        self._listeners: list[LeadershipListener] = []
        self.current = Leadership(Role.FOLLOWER, term, None)

    def subscribe(self, listener: LeadershipListener) -> Callable[[], None]:
        """Tell `listener` of every change; the returned function ends that, once or more often."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def announce(self, leadership: Leadership) -> bool:
        """Say it, if it is new; whether it was."""
        if leadership == self.current:
            return False
        self.current = leadership
        for listener in tuple(self._listeners):
            listener(leadership)
        return True
