"""What stands between the wire and the library: every message passes here, in both directions. Sans-IO.

The library (pysyncobj 0.3.17) takes promises of its peers and of its own disk for granted that do not hold. Each
gap is closed by changing what it sees or what it says, never by changing it. `docs/internals/divergence.md` lists
the gaps; `tests/defects/` shows each of them on the stock library and closed here.

Outbound, `send`:
- Everything that promises something about our disk (votes, candidacies, acknowledgements) is *held* until what it
  reflects is durable. A leader's appends promise nothing and leave at once, so leader and followers write together.
- Acknowledgements are stamped with the term, and say only what was verified.

Inbound, `receive`:
- The library truncates its log on every overlapping append. So an append is cut down to what is really new; it
  reaches the library either as an extension of its log or as a true conflict (Ongaro & Ousterhout 2014, figure 2,
  AppendEntries rules 3 and 4).
- Acknowledgements of an older term, votes of strangers and repeated votes are dropped; a later term ends an office.
- While a leader is heard, candidates are not: what they could bring is only unrest (Ongaro's thesis, section 4.2.3).
  Otherwise members are, and strangers whose log goes beyond ours: one of those may be a member, and the entry that says
  so one that we lack (section 4.1). A stranger with nothing new is one that nobody has added yet.
- A leader counts followers without looking whether the entry is on *its own* disk. So an acknowledgement is
  delivered no further than our own durable index; the rest follows when the disk has caught up.
- A refusal names the first entry of the conflicting term, so that a leader steps back a term at a time, not an
  entry at a time; refusals of an earlier burst of appends are not obeyed twice.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Protocol

from pysyncobj.transport import Transport

from raftlog.errors import InvariantError, invariant
from raftlog.journal import RaftJournal
from raftlog.messages import Message, MessageError, check
from raftlog.transfers import Transfers

__all__ = ["BACKLOG_BYTES_MAX", "CoreView", "Guard", "Wire"]

BACKLOG_BYTES_MAX = 8 << 20  # appends to one follower that have not left yet


class Wire(Protocol):
    """Where messages leave. `send` queues without waiting; False: the peer is not connected."""

    def send(self, peer: str, message: Message) -> bool: ...
    def backlog_bytes(self, peer: str) -> int: ...


class CoreView(Protocol):
    """What the guard asks of the Raft core."""

    @property
    def term(self) -> int: ...
    @property
    def leading(self) -> bool: ...
    @property
    def followed(self) -> str | None: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    def node(self, name: str) -> Any: ...
    def is_member(self, name: str) -> bool: ...
    def next_index(self, name: str) -> int: ...
    def set_next_index(self, name: str, index: int) -> None: ...
    @property
    def transfers(self) -> Transfers: ...
    def yield_to(self, term: int) -> None: ...


class Guard(Transport):  # type: ignore[misc]  # the library has no types
    """The library's transport, and the only way in."""

    ready = True

    def __init__(self, core: CoreView, journal: RaftJournal, wire: Wire) -> None:
        super().__init__(core, None, None)
        self._core = core
        self._journal = journal
        self._wire = wire
        self.counters: Counter[str] = Counter()
        self._flushes_started = 0
        self._flushes_done = 0
        self._held: deque[tuple[int, str, Message]] = deque()
        self._early: dict[str, Message] = {}  # acknowledgements that are ahead of our own disk, newest a peer
        self._bursts: Counter[str] = Counter()  # appends to a peer since its last refusal count as one burst
        self._votes: set[tuple[int, str]] = set()
        self._burst: int | None = None  # of the append being answered
        self._verified: int | None = None  # last index that the append being answered has verified
        self._step_back: int | None = None  # first index of the conflicting term, in the append being refused
        self.behind = False  # some follower wants more than it was sent: do not wait for the heartbeat

    # Outbound --------------------------------------------------------------------------------------------

    def send(self, node: Any, message: Message) -> bool:
        """Called by the library. Takes the message over; it may leave later."""
        match message["type"]:
            case "append_entries":
                return self._send_append(node.id, message)
            case "next_node_idx":
                self._hold(node.id, self._acknowledgement(message))
            case "request_vote" | "response_vote":
                self._hold(node.id, message)
            case other:  # forwarding commands is done above us, where the three outcomes are kept apart
                raise InvariantError(f"the library sends {other!r}")
        return True

    def _send_append(self, peer: str, message: Message) -> bool:
        """An append as it is; to a follower that needs a snapshot, pieces of that in its place.

        The library would send those itself, in a busy loop. So it is led to believe that the follower is up to date
        (`set_next_index`), until the follower's own word says where it is.
        """
        transfers = self._core.transfers
        message["burst"] = self._bursts[peer]
        # A node that was alone commits at once; whom it takes in must not apply what it could still forget.
        message["commit_index"] = min(message["commit_index"], self._journal.durable_index)
        if "serialized" in message:
            transfers.begin(peer)
            self._core.set_next_index(peer, self._journal.last_index + 1)
        if not transfers.active(peer):
            if message["entries"] and self._wire.backlog_bytes(peer) > BACKLOG_BYTES_MAX:
                # Enough is on its way. What is left out here is a gap, which the follower refuses when it gets there.
                self._core.set_next_index(peer, self._journal.last_index + 1)
                message["entries"] = []
            return self._wire.send(peer, message)
        heartbeat = {key: message[key] for key in ("type", "term", "commit_index", "burst")}
        piece = transfers.next_piece(peer)
        sent = self._wire.send(peer, {**heartbeat, "serialized": piece})
        while sent and piece is not None and (piece := transfers.next_piece(peer)) is not None:
            sent = self._wire.send(peer, {**heartbeat, "serialized": piece})
        return sent

    def flush_started(self) -> None:
        """The journal's queue was handed to the disk."""
        self._flushes_started += 1

    def flush_done(self) -> None:
        """...and is durable: say what was held for it, and hear what came early."""
        self._flushes_done += 1
        while self._held and self._held[0][0] <= self._flushes_done:
            _, peer, message = self._held.popleft()
            self._wire.send(peer, message)
        early, self._early = self._early, {}
        for peer, message in early.items():
            if self._core.is_member(peer):  # it may have been removed since
                self._on_acknowledgement(peer, message)

    def _hold(self, peer: str, message: Message) -> None:
        """Send once everything that the journal has queued by now is durable."""
        awaited = self._flushes_started + (1 if self._journal.dirty else 0)
        if awaited > self._flushes_done or self._held:
            self._held.append((awaited, peer, message))
        else:
            self._wire.send(peer, message)

    def _acknowledgement(self, message: Message) -> Message:
        following = message["next_node_idx"]
        if message["success"] and self._verified is not None:
            following = self._verified + 1
        elif message["reset"] and self._step_back is not None:
            following = min(following, self._step_back)
        stamps = {"term": self._core.term, "burst": self._burst, "received": message.get("received", 0)}
        return {**message, **stamps, "next_node_idx": following}

    # Inbound ---------------------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message) -> None:
        """One message from an authenticated peer. Nonsense is dropped and counted; it never gets further."""
        try:
            check(message)
        except MessageError:
            self.counters["malformed"] += 1
            return
        kind = message["type"]
        if kind == "append_entries":  # who leads or stands may be a member that we have not heard of yet
            self._on_append(peer, message)
        elif kind == "request_vote":
            self._on_candidate(peer, message)
        elif not self._core.is_member(peer):
            self.counters["stranger"] += 1
        elif kind == "next_node_idx":
            self._on_acknowledgement(peer, message)
        else:
            self._on_vote(peer, message)

    def _deliver(self, peer: str, message: Message) -> None:
        self._onMessageReceived(self._core.node(peer), message)

    def _on_candidate(self, peer: str, message: Message) -> None:
        """Hear who stands, its term included, only if nobody else leads.

        Else whoever was removed, or cut off in one direction, would depose one leader after the other.
        """
        if self._core.followed not in (None, peer):
            self.counters["needless_candidacy"] += 1
            return
        theirs = (message["last_log_term"], message["last_log_index"])
        if not self._core.is_member(peer) and theirs <= (self._journal.last_term, self._journal.last_index):
            self.counters["stranger"] += 1
            return
        self._deliver(peer, message)

    def _on_vote(self, peer: str, message: Message) -> None:
        vote = (message["term"], peer)
        if message["term"] != self._core.term or vote in self._votes:
            self.counters["stale_vote"] += 1
            return
        self._votes = {held for held in self._votes if held[0] == self._core.term} | {vote}
        self._deliver(peer, message)

    def _on_acknowledgement(self, peer: str, message: Message) -> None:
        if self._core.leading and message["term"] > self._core.term:
            self._core.yield_to(message["term"])
            return
        if message["term"] != self._core.term or not self._core.leading:
            self.counters["stale_acknowledgement"] += 1
            return
        if self._core.transfers.acknowledged(peer, message["received"], satisfied=message["success"]):
            self.behind = True
        following = message["next_node_idx"]
        if message["reset"]:
            if message["burst"] != self._bursts[peer]:
                self.counters["stale_refusal"] += 1
                message = {**message, "reset": False}
            else:
                self._bursts[peer] += 1
                self.behind = True
                message = {**message, "next_node_idx": min(following, self._journal.last_index + 1)}
        elif message["success"] and following - 1 > self._journal.durable_index:
            self._early[peer] = message
            message = {**message, "next_node_idx": self._journal.durable_index + 1}
        pipelined = self._core.next_index(peer)
        self._deliver(peer, message)
        if message["success"] and message["received"]:
            # A snapshot says where the follower is; before, we pretended. Asking it again is no way out: it may name
            # an entry that the snapshot covers, because its conflicting term begins there, and get the snapshot again.
            self._core.set_next_index(peer, following)
        elif not message["reset"]:  # the library steps back at every answer, to what it acknowledges
            self._core.set_next_index(peer, max(pipelined, self._core.next_index(peer)))

    def _on_append(self, peer: str, message: Message) -> None:
        if message["term"] < self._core.term:
            self.counters["stale_append"] += 1
            refusal = {"type": "next_node_idx", "next_node_idx": 0, "reset": False, "success": False}
            stamps = {"term": self._core.term, "burst": message["burst"], "received": 0}
            self._hold(peer, {**refusal, **stamps})  # or a leader would never learn of a term that it must exceed
            return
        self._burst, self._verified, self._step_back = message["burst"], None, None
        try:
            if "prevLogIdx" not in message:
                self._on_snapshot_piece(peer, message)
            else:
                self._deliver(peer, self._trimmed(message))
        finally:
            self._burst, self._verified, self._step_back = None, None, None

    def _on_snapshot_piece(self, peer: str, message: Message) -> None:
        """The library sees a heartbeat that commits nothing; the snapshot itself never passes through it."""
        self._deliver(peer, {**message, "serialized": None, "commit_index": 0})
        piece = message["serialized"]
        answer: Message = {"type": "next_node_idx", "next_node_idx": 0, "reset": False, "success": False}
        if piece is not None:
            reached = self._core.transfers.take(peer, piece)
            if reached is not None:
                answer |= {"next_node_idx": reached + 1, "success": True}
            answer["received"] = piece["offset"] + len(piece["data"])
        self._hold(peer, self._acknowledgement(answer))

    def _trimmed(self, message: Message) -> Message:
        """The append as an extension of our log, a true conflict, or a gap that the library refuses by itself."""
        previous, previous_term = message["prevLogIdx"], message["prevLogTerm"]
        entries = [tuple(entry) for entry in message["entries"]]
        if previous is None:
            return {**message, "entries": []}  # a leader that does not know where we are; the library refuses
        verified = previous + len(entries)
        journal = self._journal
        if previous < journal.first_index:
            # All up to our first entry is committed, so a leader of this term has the same (figure 3, Leader
            # Completeness). What lies before it is no news.
            entries = entries[journal.first_index - previous :]
            previous = journal.first_index
            previous_term = journal.term_at(previous)
        held = journal.term_at(previous)
        if held is None or held != previous_term:
            if held is not None:
                self._step_back = journal.first_of_run(previous, self._core.commit_index + 1)
            return {**message, "entries": []}
        matching = 0
        while matching < len(entries) and journal.term_at(entries[matching][1]) == entries[matching][2]:
            matching += 1
        self._verified = verified
        end = previous + matching
        if matching == len(entries):
            # Nothing new. An empty append at the end of our own log makes the library truncate nothing.
            entries, previous, previous_term = [], journal.last_index, journal.last_term
        else:
            if end < journal.last_index:
                invariant(end >= self._core.commit_index, f"entry {end + 1} is committed and would be truncated")
            entries, previous, previous_term = entries[matching:], end, journal.term_at(end)
        return {
            **message,
            "entries": entries,
            "prevLogIdx": previous,
            "prevLogTerm": previous_term,
            "commit_index": min(message["commit_index"], verified),
        }
