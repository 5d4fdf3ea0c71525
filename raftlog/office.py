"""Who leads, as this node tells it: said only when it changed, and LEADER only when the leader may act."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from raftlog.core import RaftCore
from raftlog.port import Leadership, LeadershipListener, Role

__all__ = ["Office"]

_log = structlog.get_logger("raftlog")


class Office:
    """The announced leadership of one node, and who listens."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._listeners: list[LeadershipListener] = []
        self.announced = Leadership(Role.FOLLOWER, 0, None)

    def subscribe(self, listener: LeadershipListener) -> Callable[[], None]:
        """Tell `listener` of every change; the returned function ends that, once or more often."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def observe(self, core: RaftCore) -> None:
        """Announce what has changed in the core."""
        role = Role.LEADER if core.settled else Role.FOLLOWER
        leader = core.leader if role is Role.LEADER or not core.leading else None
        known = self.announced
        if (role, core.term, leader) != (known.role, known.term, known.leader):
            self._announce(Leadership(role, core.term, leader))

    def close(self) -> None:
        """The node has stopped; it leads no more."""
        if self.announced.role is Role.LEADER:
            self._announce(Leadership(Role.FOLLOWER, self.announced.term, None))

    def holds(self, core: RaftCore) -> bool:
        """Announced as leader, and not deposed since: nothing may be taken on between the two."""
        return self.announced.role is Role.LEADER and core.leading

    def _announce(self, leadership: Leadership) -> None:
        self.announced = leadership
        role, term, leader = leadership.role, leadership.term, leadership.leader
        _log.info("leadership", node=self._node, role=role, term=term, leader=leader)
        for listener in list(self._listeners):
            listener(leadership)
