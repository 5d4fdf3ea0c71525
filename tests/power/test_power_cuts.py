"""Power cuts, at every disk operation of a run: nothing that was promised is lost, and recovery never refuses.

A run (`runs.py`) is watched. Before each disk operation of any node it is noted what has been promised by then, to
clients and to peers, and what a power cut at this moment would leave. Then everything is started from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from raftlog.disk import Disk
from raftlog.messages import Message
from tests.power.cluster import PowerCluster
from tests.power.recovery import Recovered
from tests.power.runs import alone, elections, slow_leader, together
from tests.power.watched import WatchedDisk
from tests.support.survivals import EXTREMES, NOTHING

Run = Callable[[PowerCluster], Awaitable[None]]

ONE = ("n1",)
THREE = ("n1", "n2", "n3")
RUNS = pytest.mark.parametrize(("names", "run"), [(ONE, alone), (THREE, together)], ids=["alone", "together"])


@dataclass
class Watched:
    """A cluster in whose run `before` is called ahead of each disk operation, with the node's name and what it is."""

    names: tuple[str, ...]
    before: Callable[[str, str], None] = lambda _name, _what: None
    operations: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.cluster = PowerCluster({name: SimDisk(Random(name)) for name in self.names}, self._wrap)

    def _wrap(self, name: str, disk: SimDisk) -> Disk:
        def before(what: str) -> None:
            self.operations[what.partition(" ")[0]] += 1
            self.before(name, what)

        return WatchedDisk(disk, before)

    def run(self, run: Run) -> None:
        """And make sure that it did everything that it is for."""
        self.cluster.run(run(self.cluster))
        assert self.operations.keys() == {"open", "append", "sync", "replace", "remove"}
        assert len(self.cluster.acknowledged) > 5


# What is said -------------------------------------------------------------------------------------------------------


class Audit(Watched):
    """Looks at everything that is said, at the moment it leaves: is it still true if the power fails now?"""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.said: Counter[str] = Counter()
        start = self.cluster._start

        async def started(name: str, process: Any) -> None:
            await start(name, process)
            self._overhear(name)

        self.cluster._start = started  # type: ignore[method-assign]

    def recovered(self, name: str) -> Recovered:
        return Recovered.after(name, self.cluster.disks[name], NOTHING)

    def _overhear(self, name: str) -> None:
        log: Any = self.cluster.nodes[name].log
        wire, send = log._core.guard._wire, log._core.guard._wire.send

        def overheard(peer: str, message: Message) -> bool:
            self._judge(name, peer, message)
            return bool(send(peer, message))

        wire.send = overheard

    def _judge(self, name: str, peer: str, message: Message) -> None:
        log: Any = self.cluster.nodes[name].log
        kind = message["type"]
        if kind == "next_node_idx" and message["success"] and message["term"] == log._core.term:
            self._acknowledges(name, message["next_node_idx"] - 1, log._journal)
        elif kind in ("request_vote", "response_vote"):
            voted = name if kind == "request_vote" else peer
            term, vote = self.recovered(name).ballot
            assert term >= message["term"], f"{name} says a {kind} of a term that it would forget"
            assert term > message["term"] or vote == voted, f"{name} could vote again in term {term}"
        else:
            return
        self.said[kind] += 1

    def _acknowledges(self, name: str, index: int, journal: Any) -> None:
        on_disk = self.recovered(name).journal
        assert on_disk.last_index >= index, f"{name} acknowledges {index}, but {on_disk.last_index} is on its disk"
        assert on_disk.term_at(index) in (journal.term_at(index), None), f"{name} acknowledges another entry {index}"


def test_no_message_leaves_before_what_it_promises_is_durable() -> None:
    """Acknowledgements, votes and candidacies, each looked up on the disk at the moment when it leaves.

    Red when `Guard._hold` sends at once, when it does not wait for the batch after the one on its way, and when
    `file.sync()` is removed from `WriteAheadLog.write`.
    """
    audit = Audit(THREE)
    audit.run(together)
    assert audit.said["next_node_idx"] > 50
    assert audit.said["request_vote"] >= 3
    assert audit.said["response_vote"] >= 3


@pytest.mark.parametrize(
    ("names", "run"), [(ONE, alone), (THREE, together), (THREE, slow_leader)], ids=["alone", "together", "slow leader"]
)
def test_nothing_is_applied_or_answered_before_a_majority_would_keep_it(names: tuple[str, ...], run: Run) -> None:
    """On any node, and to any client: each command is looked for on all disks as a power cut would leave them.

    Red when the core applies beyond its own disk; and, with the slow leader, when the guard bounds by that disk neither
    the acknowledgements that a leader counts nor the commit index that it tells its followers.
    """
    watched = Watched(names)
    cluster = watched.cluster

    def would_be_kept(command: bytes) -> None:
        disks = cluster.disks.items()
        kept = [name for name, disk in disks if command in Recovered.after(name, disk, NOTHING).commands()]
        assert len(kept) > len(names) / 2, f"{command!r} would be left on {kept} only"

    class Acknowledged(list[bytes]):
        def append(self, command: bytes) -> None:
            would_be_kept(command)
            super().append(command)

    cluster.applied_one, cluster.acknowledged = would_be_kept, Acknowledged()
    watched.run(run)


# What one disk keeps ------------------------------------------------------------------------------------------------


class Vouched:
    """What one node holds to be durable: the terms of the entries from `first` on, and its ballot."""

    def __init__(self, log: Any) -> None:
        journal = log._journal
        self.first, self.last = journal.first_index, journal.durable_index
        self.terms = {index: journal.term_at(index) for index in range(self.first, self.last + 1)}

    def check(self, recovered: Recovered) -> None:
        journal = recovered.journal
        assert journal.first_index == 0 or journal.last_index >= self.last
        for index, term in self.terms.items():
            if index > journal.first_index:
                assert journal.term_at(index) == term, f"entry {index}"


class Enumeration(Watched):
    """Recovers the node's disk before each of its operations, for each thing that may survive."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names, self._photograph)
        self.count = 0
        self._vouched: dict[str, Vouched] = {}
        self._dice = Random(7)

    def _photograph(self, name: str, what: str) -> None:
        self.count += 1
        node = self.cluster.nodes.get(name)
        if node is not None:  # else it is starting: what it vouched for before still stands
            self._vouched[name] = Vouched(node.log)
        for survival in (*EXTREMES, self._dice, self._dice):
            at = f"operation {self.count}: {name} before {what}, survived: {survival!r}"
            recovered = self._recovered(name, survival, at)
            try:
                if name in self._vouched:
                    self._vouched[name].check(recovered)
                self.check_ballot(name, recovered)
                recovered.lives_on()
            except AssertionError as error:
                raise AssertionError(f"{at}: {error}") from error

    def _recovered(self, name: str, survival: Random, at: str) -> Recovered:
        try:
            return Recovered.after(name, self.cluster.disks[name], survival)
        except Exception as error:
            raise AssertionError(f"{at}: refuses to start: {error}") from error

    def check_ballot(self, name: str, recovered: Recovered) -> None:
        """For those who look at ballots."""


@RUNS
def test_a_power_cut_at_any_operation_leaves_what_the_node_vouched_for(names: tuple[str, ...], run: Run) -> None:
    """On each single disk: it recovers, holds every entry that the node held to be durable, and lives on from there
    through another power cut.

    Red when any sync is removed from `WriteAheadLog` or `SnapshotStore`, when a file gets its name before its content
    is synced, when the journal is trimmed before the snapshot is durable, when a received snapshot is written after
    its record, and when `RaftJournal._join` does not record a snapshot that it began from.
    """
    enumeration = Enumeration(names)
    enumeration.run(run)
    assert enumeration.count > 150


class Ballots(Enumeration):
    """Remembers every vote that was given, and looks at each recovered disk whether it could be given again."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.given: dict[tuple[str, int], str] = {}
        audit = Audit._overhear
        start = self.cluster._start

        async def started(name: str, process: Any) -> None:
            await start(name, process)
            audit(self, name)  # type: ignore[arg-type]

        self.cluster._start = started  # type: ignore[method-assign]

    def _judge(self, name: str, peer: str, message: Message) -> None:
        if message["type"] in ("request_vote", "response_vote"):
            candidate = name if message["type"] == "request_vote" else peer
            before = self.given.setdefault((name, message["term"]), candidate)
            assert before == candidate, f"{name} voted for {before} and {candidate} in term {message['term']}"

    def check_ballot(self, name: str, recovered: Recovered) -> None:
        given = [(term, candidate) for (voter, term), candidate in self.given.items() if voter == name]
        term, vote = recovered.ballot
        for given_term, candidate in given:
            assert term >= given_term, f"{name} voted in term {given_term} and would begin again at {term}"
            assert term > given_term or vote == candidate, f"{name} could vote twice in term {term}"


def test_no_node_votes_twice_in_a_term_whenever_the_power_fails() -> None:
    """Red when votes are not held until the ballot is durable, and when `compact` forgets the ballot."""
    ballots = Ballots(THREE)
    ballots.run(elections)
    assert len(ballots.given) > 12


# What the whole keeps -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    """Every disk as a power cut of all machines at one moment leaves it, and what had been promised by then."""

    at: str
    disks: dict[str, SimDisk]
    acknowledged: list[bytes]
    proposed: list[bytes]

    def develop(self) -> None:
        """Start the nodes again: nothing is lost, doubled or invented; and once more, after another power cut."""
        cluster = PowerCluster(self.disks)

        async def recover() -> None:
            await cluster.start()
            await cluster.applied(b"after")
            await cluster.settle()
            tape = self._checked(cluster)
            for name in self.disks:
                cluster.cut_power(name)
            await cluster.start()
            await cluster.settle()
            assert self._checked(cluster) == tape

        cluster.run(recover())

    def _checked(self, cluster: PowerCluster) -> list[bytes]:
        tape = next(iter(cluster.nodes.values())).tape.commands
        assert tape[-1] == b"after"
        assert len(set(tape)) == len(tape), "applied twice"
        assert set(tape[:-1]) <= set(self.proposed), "nobody proposed this"
        acknowledged = set(self.acknowledged)
        assert [command for command in tape if command in acknowledged] == self.acknowledged, "lost, or out of order"
        return tape


@RUNS
def test_a_power_cut_of_everything_at_any_operation_loses_nothing_acknowledged(
    names: tuple[str, ...], run: Run
) -> None:
    """The whole cluster is started from what is left, goes on, loses its power again, and starts again.

    What survives changes from operation to operation. Red when `file.sync()` is removed from `WriteAheadLog.write`,
    and when `_join` drops the entries behind a snapshot.
    """
    photos: list[Photo] = []
    dice = Random(11)

    def photograph(name: str, what: str) -> None:
        survival = (*EXTREMES, dice)[len(photos) % 5]
        at = f"operation {len(photos)}: {name} before {what}, survived: {survival!r}"
        disks = {name: disk.crash(survival) for name, disk in cluster.disks.items()}
        photos.append(Photo(at, disks, list(cluster.acknowledged), list(cluster.proposed)))

    watched = Watched(names, photograph)
    cluster = watched.cluster
    watched.run(run)
    assert len(photos) > 150
    for photo in photos:
        try:
            photo.develop()
        except BaseException as error:
            raise AssertionError(photo.at) from error
