"""The Raft core: pysyncobj's `SyncObj`, ticked by us. The only file that knows the library's private names.

Private names change without notice, so the version is pinned and checked: an upgrade must be read before it is used
(`tests/defects/test_version.py`). The library runs with its own thread, sockets, files, pickles and timers switched
off; what is left is the protocol.

Time: the library reads a clock from its module. `_AMBIENT` is that clock, and shows the time of whichever core is at
work, so that many cores can live in one process, in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj as library
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.version import VERSION

from raftlog.config import Timing
from raftlog.errors import ConfigError
from raftlog.guard import Guard, Wire
from raftlog.journal import RaftJournal
from raftlog.machine import ENTRY_BYTES_MAX
from raftlog.port import Member
from raftlog.snapshots import SnapshotMeta
from raftlog.stand_ins import AmbientClock, MemberNode, MembershipCodec, NoPoller
from raftlog.transfers import Transfers

__all__ = ["APPEND_BYTES_MAX", "LIBRARY_VERSION", "Proposed", "RaftCore", "adapt_library"]

LIBRARY_VERSION = "0.3.17"
APPEND_BYTES_MAX = 2 * ENTRY_BYTES_MAX  # an append carries at least one entry, and never an entry in pieces
APPLY_ENTRIES_MAX = 256  # a tick: what is left follows in the next one, so that no tick holds the loop for long
TICK_SLACK_S = 0.0005  # the library compares strictly: a tick exactly on time would do nothing
COMMIT_NEWS_S = 0.01  # how long followers may wait to hear what is committed, if no append carries the news before
NEVER_S = 1e12

Proposed = Callable[[Any, int], None]
"""Called once with (results, SUCCESS) or (None, FAIL_REASON): the entry was applied, or never entered the log."""


_AMBIENT = AmbientClock(library.monotonicTime)


def adapt_library() -> None:
    """Replace what the library takes from its module: journals, pickles and the clock. Idempotent.

    Raises: ConfigError unless the installed library is the one that was read.
    """
    if VERSION != LIBRARY_VERSION:
        raise ConfigError(f"pysyncobj {VERSION} is installed; only {LIBRARY_VERSION} has been read and adapted")
    library.createJournal = _pass_through
    library.pickle = MembershipCodec
    library.monotonicTime = _AMBIENT.now


def _pass_through(journal: Journal) -> Journal:
    return journal


def _settings(journal: RaftJournal, timing: Timing, on_state: Callable[[int, int], None]) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        journalFile=journal,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=timing.heartbeat_s,
        appendEntriesBatchSizeBytes=APPEND_BYTES_MAX,
        raftMinTimeout=timing.election_min_s,
        raftMaxTimeout=timing.election_max_s,
        leaderFallbackTimeout=timing.lease_s,
        connectionTimeout=NEVER_S,
        commandsWaitLeader=False,
        dynamicMembershipChange=True,
        logCompactionMinEntries=1 << 62,
        logCompactionMinTime=NEVER_S,
        onStateChanged=on_state,
        useFork=False,
    )


class RaftCore(SyncObj):  # type: ignore[misc]  # the library has no types
    """One replica's protocol state. Nothing here waits, writes or sends; `tick` and `receive` are its only motion."""

    def __init__(
        self,
        name: str,
        members: tuple[Member, ...],
        timing: Timing,
        journal: RaftJournal,
        wire: Wire,
        transfers: Transfers,
        *,
        clock: Callable[[], float],
        dice: random.Random,
        apply: Callable[[int, bytes], list[Any]],
        on_state: Callable[[], None],
        on_members: Callable[[], None],
    ) -> None:
        adapt_library()
        self._clock, self._dice = clock, dice
        self._journal, self._wire, self._transfers = journal, wire, transfers
        self._apply, self._on_state, self._on_members = apply, on_state, on_members
        self._proposals: list[tuple[bytes, Proposed]] = []
        self._logged: dict[int, tuple[int, Proposed]] = {}  # by index: the term, and whom to tell
        self._known: dict[str, MemberNode] = {}
        self._leader_heard_at = -NEVER_S
        self.guard: Guard
        self._enter()
        nodes = {member.name: MemberNode((member.name, member.address)) for member in members}
        own = nodes.pop(name, None) or MemberNode(name)
        settings = _settings(journal, timing, self._state_changed)
        super().__init__(own, list(nodes.values()), settings, nodeClass=MemberNode, transportClass=self._make_guard)
        self._poller = NoPoller()
        self._SyncObj__serializer = transfers
        self._SyncObj__raftLastApplied = journal.getRaftCommitIndex()
        # The library learns of membership entries when it appends them; those on the disk were appended before.
        for command, _, _ in journal[1:]:
            if self._is_membership(command):
                self._SyncObj__doChangeCluster(MembershipCodec.loads(command[1:]))

    def _make_guard(self, _core: Any, _own: Any, _others: Any) -> Guard:
        self.guard = Guard(self, self._journal, self._wire)
        self.guard.addNode = self._member_added
        self.guard.dropNode = self._member_dropped
        return self.guard

    def _member_added(self, node: MemberNode) -> None:
        self._known.pop(node.id, None)
        self._on_members()

    def _member_dropped(self, node: MemberNode) -> None:
        self._known.pop(node.id, None)
        self._transfers.cancel(node.id)
        self._on_members()

    # Motion ----------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        _AMBIENT.clock = self._clock

    def receive(self, peer: str, message: dict[str, Any]) -> bool:
        """One message from an authenticated peer, through the guard. False: a tick would find nothing new to do."""
        self._enter()
        self.guard.receive(peer, message)
        if message["type"] == "append_entries" and self.leader == peer:
            self._leader_heard_at = self._clock()
        if not self.leading or message["type"] != "next_node_idx" or self.guard.behind:
            return True
        return bool(self._SyncObj__raftMatchIndex.get(self.node(peer), 0) > self.commit_index)

    def tick(self) -> None:
        """Elections, commit index, application, heartbeats, and entries that were proposed since the last tick."""
        self._enter()
        last, commit = self._journal.last_index, self.commit_index
        self.doTick(0)
        if not self.leading:
            return
        if self._journal.last_index != last or self.guard.behind:
            self.guard.behind = False
            self._SyncObj__sendAppendEntries()  # the library would wait for the next heartbeat
        elif self.commit_index != commit:
            soon = self._clock() + COMMIT_NEWS_S
            self._SyncObj__newAppendEntriesTime: float = min(self._SyncObj__newAppendEntriesTime, soon)

    def flushed(self) -> None:
        """A batch of the journal became durable."""
        self._enter()
        self._journal.synced()
        self.guard.flush_done()

    def connected(self, peer: str) -> None:
        """A peer can be reached. A leader talks to it at once."""
        self._enter()
        self.guard._onNodeConnected(self.node(peer))  # noqa: SLF001  # how a transport reports, by its design
        if self.leading:
            self._SyncObj__newAppendEntriesTime = self._clock() - 1

    def disconnected(self, peer: str) -> None:
        """A peer cannot be reached any more. If it led, it has most likely died: stand for election soon.

        Standing early is safe at any time; if the leader lives, it costs one more election (section 5.2).
        """
        self._enter()
        self._transfers.cancel(peer)  # the library notices only if the peer is still away when it sends again
        self.guard._onNodeDisconnected(self.node(peer))  # noqa: SLF001
        if not self.leading and self.leader == peer:
            self._SyncObj__raftLeader = None  # nobody is sent to it any more
            soon = self._clock() + self._heartbeats_s(0.5)
            self._SyncObj__raftElectionDeadline: float = min(self._SyncObj__raftElectionDeadline, soon)

    def step_down(self) -> None:
        """Leave office: this node cannot do what a leader must. It does not stand before its disk works again."""
        self._enter()
        self._resign(self._SyncObj__generateRaftTimeout())

    def yield_to(self, term: int) -> None:
        """A member is in a later term: leave office (section 5.1).

        If another leads in that term, its next heartbeat keeps us from standing again. If nobody does, our followers
        are waiting for us: stand before any of them loses patience.
        """
        self._SyncObj__setCurrentTerm(term, None)
        self._resign(self._heartbeats_s(1.5))

    def _resign(self, rest_s: float) -> None:
        self._SyncObj__raftLeader = None
        self._SyncObj__raftElectionDeadline = self._clock() + rest_s
        self._SyncObj__setState(library._RAFT_STATE.FOLLOWER)  # noqa: SLF001

    def _heartbeats_s(self, at_least: float) -> float:
        """So many heartbeats and a random part of one."""
        return float(self.conf.appendEntriesPeriod * (at_least + self._dice.random()))

    def wake_at(self) -> float:
        """When the next tick is due if nothing happens before (clock seconds)."""
        if self.commit_index > self.applied_index and self._journal.durable_index > self.applied_index:
            return self._clock()
        if self.leading:
            return float(self._SyncObj__newAppendEntriesTime) + TICK_SLACK_S
        if self.hasQuorum:
            return float(self._SyncObj__raftElectionDeadline) + TICK_SLACK_S
        return self._clock() + float(self.conf.raftMinTimeout)

    def propose(self, entry: bytes, proposed: Proposed) -> None:
        """Queue one entry for the next tick."""
        self._proposals.append((bytes((library._COMMAND_TYPE.REGULAR,)) + entry, proposed))  # noqa: SLF001

    def propose_member(self, member: Member, *, add: bool, proposed: Proposed) -> None:
        """Queue a membership change for the next tick; REQUEST_DENIED while another one is open.

        A removal carries the address as well: should it be truncated from the log, the member comes back by it.
        """
        address = member.address if add else self.node(member.name).address
        change = MembershipCodec.dumps(["add" if add else "rem", member.name, [member.name, address]])
        self._proposals.append((bytes((library._COMMAND_TYPE.MEMBERSHIP,)) + change, proposed))  # noqa: SLF001

    def install(self, meta: SnapshotMeta) -> None:
        """Begin again from a snapshot that the leader sent, already restored into the state machine."""
        self._journal.rebase(meta)
        self._SyncObj__raftLastApplied = meta.index
        self._SyncObj__raftCommitIndex = max(self.commit_index, meta.index)
        self.adopt_members(meta.members)

    def adopt_members(self, members: tuple[Member, ...]) -> None:
        """The membership as of a snapshot; an address that we know by ourselves is the newer one."""
        known = {node.id: node for node in self.otherNodes}
        others = [member for member in members if member.name != self.selfNode.id]
        nodes = [known.get(member.name) or MemberNode((member.name, member.address)) for member in others]
        self._SyncObj__updateClusterConfiguration(nodes)
        self._on_members()

    # What others ask -------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def leading(self) -> bool:
        return bool(self._isLeader())

    @property
    def leader(self) -> str | None:
        """Whom this node believes to lead; it may be out of date."""
        node = self._getLeader()
        return None if node is None else str(node.id)

    @property
    def followed(self) -> str | None:
        """Who leads (this node included), unless it is silent: nobody else is helped into its office.

        Silent is who was not heard for the shortest election timeout (Ongaro's thesis, section 4.2.3).
        """
        silent = not self.leading and self._clock() - self._leader_heard_at >= self.conf.raftMinTimeout
        return None if silent else self.leader

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def settled(self) -> bool:
        """Whether a leader has applied the first entry of its own term, and so every entry before it."""
        return self.leading and self.applied_index >= self._SyncObj__noopIDx

    def members(self) -> tuple[Member, ...]:
        """The replicas as of the last membership entry in the log, this one included, by name."""
        nodes = [self.selfNode, *self.otherNodes]
        return tuple(sorted((Member(node.id, node.address) for node in nodes), key=lambda member: member.name))

    def node(self, name: str) -> MemberNode:
        """The library's own object: what it keeps by node is then found by identity, not by comparing."""
        known = self._known.get(name)
        if known is None:
            others = {node.id: node for node in self._SyncObj__otherNodes}
            known = self._known[name] = others.get(name) or MemberNode(name)
        return known

    def is_member(self, name: str) -> bool:
        return self.node(name) in self._SyncObj__otherNodes

    def next_index(self, name: str) -> int:
        return int(self._SyncObj__raftNextIndex.get(self.node(name), 0))

    def set_next_index(self, name: str, index: int) -> None:
        self._SyncObj__raftNextIndex[self.node(name)] = index

    @property
    def transfers(self) -> Transfers:
        return self._transfers

    @property
    def membership_open(self) -> bool:
        """Whether a membership entry is in the log that is not applied yet."""
        ahead = self._journal.slice(self.applied_index + 1, self._journal.last_index - self.applied_index)
        return any(self._is_membership(command) for command, _, _ in ahead)

    def _change_members(self, command: bytes) -> bool:
        """Let a change take effect, unless an earlier one is not applied yet: the library forgets to look."""
        return not self.membership_open and bool(self._SyncObj__changeCluster(MembershipCodec.loads(command[1:])))

    @staticmethod
    def _is_membership(command: bytes) -> bool:
        return bool(command[0] == library._COMMAND_TYPE.MEMBERSHIP)  # noqa: SLF001

    # What the library calls ------------------------------------------------------------------------------

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """In the place of the library's loop: never beyond our own disk, and exactly once an entry.

        The library's advances only after the callback, so an exception there applies an entry again, for ever.
        """
        reachable = min(self.commit_index, self._journal.durable_index)
        count = min(reachable - self.applied_index, APPLY_ENTRIES_MAX)
        if count > 0:
            for command, index, term in self._journal.slice(self.applied_index + 1, count):
                results = self._apply_entry(index, command)
                self._SyncObj__raftLastApplied = index
                proposed_term, proposed = self._logged.pop(index, (None, None))
                if proposed is not None and proposed_term == term:
                    proposed(results, FAIL_REASON.SUCCESS)
        return False

    def _apply_entry(self, index: int, command: bytes) -> Any:
        """Membership entries took effect when they were appended (Ongaro's thesis, section 4.1)."""
        return self._apply(index, command[1:]) if command[0] == library._COMMAND_TYPE.REGULAR else None  # noqa: SLF001

    def _state_changed(self, _old: int, new: int) -> None:
        if new != library._RAFT_STATE.LEADER:  # noqa: SLF001
            self._logged.clear()
            self._transfers.cancel_all()
        self._on_state()

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """In the place of the library's, which stops half-way when time is short, and at a follower forwards."""
        queued, self._proposals = self._proposals, []
        for command, proposed in queued:
            if not self.leading:
                proposed(None, FAIL_REASON.NOT_LEADER)
            elif self._is_membership(command) and not self._change_members(command):
                proposed(None, FAIL_REASON.REQUEST_DENIED)
            else:
                index = self._journal.last_index + 1
                self._journal.add(command, index, self.term)
                self._logged[index] = (self.term, proposed)

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802
        """Whether it is of any use to stand. The library counts strangers, whose votes would not count."""
        others = self._SyncObj__otherNodes
        return not others or not others.isdisjoint(self._SyncObj__connectedNodes)

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """Snapshots are taken by the node, off the loop."""

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        conf = self.conf
        return float(conf.raftMinTimeout + (conf.raftMaxTimeout - conf.raftMinTimeout) * self._dice.random())
