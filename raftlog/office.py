"""Who leads, as this node tells it: said only when it changed, and LEADER only when the leader may act."""

from __future__ import annotations

import structlog

from raftlog.announcer import Announcer
from raftlog.core import RaftCore
from raftlog.port import Leadership, Role

__all__ = ["Office"]

_log = structlog.get_logger("raftlog")


class Office:
    """The leadership of one node, as its core has it and as it is announced."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._announcer = Announcer()
        self.subscribe = self._announcer.subscribe

    @property
    def announced(self) -> Leadership:
        """What was said last."""
        return self._announcer.current

    def observe(self, core: RaftCore) -> None:
        """Announce what has changed in the core."""
        role = Role.LEADER if core.settled else Role.FOLLOWER
        leader = core.leader if role is Role.LEADER or not core.leading else None
        known = self._announcer.current
        if (role, core.term, leader) != (known.role, known.term, known.leader):
            self._announce(Leadership(role, core.term, leader))

    def close(self) -> None:
        """The node has stopped; it leads no more."""
        self._announce(Leadership(Role.FOLLOWER, self.announced.term, None))

    def holds(self, core: RaftCore) -> bool:
        """Announced as leader, and not deposed since: nothing may be taken on between the two."""
        return self.announced.role is Role.LEADER and core.leading

    def _announce(self, leadership: Leadership) -> None:
        if self._announcer.announce(leadership):
            role, term, leader = leadership.role, leadership.term, leadership.leader
            _log.info("leadership", node=self._node, role=role, term=term, leader=leader)
