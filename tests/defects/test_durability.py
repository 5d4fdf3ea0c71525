"""What the stock library loses with its disk, and ours keeps."""

from __future__ import annotations

import pytest

from raftlog.errors import Corrupt
from tests.defects.conftest import MakeOurs, MakeStock
from tests.support.world import Answer, World

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the library's `.meta`


def put_and_settle(world: World, leader: str, prefix: bytes, count: int) -> None:
    for number in range(count):
        world.put(leader, b"%s-%d" % (prefix, number))
    world.settle(rounds=12)


# 1. It acknowledges before anything is on the disk ---------------------------------------------------------------


def power_fails_everywhere(world: World) -> None:
    world.elect("a")
    world.settle()
    put_and_settle(world, "a", b"acknowledged", 20)
    world.power_cut()
    world.elect("a")
    world.settle()


def test_stock_loses_everything_in_a_power_cut(stock: MakeStock) -> None:
    """Its journal is a memory map that is never flushed."""
    world = stock("abc", journal=True)
    power_fails_everywhere(world)
    assert len(world.told(Answer.APPLIED)) == len(world.lost()) == 20


def test_ours_keeps_what_it_acknowledged_in_a_power_cut(ours: MakeOurs) -> None:
    world = ours("abc")
    power_fails_everywhere(world)
    assert len(world.told(Answer.APPLIED)) == 20
    assert world.lost() == []


def test_stock_keeps_it_when_only_the_processes_die(stock: MakeStock) -> None:
    """So the harness does not lose data by itself: what `kill -9` leaves in the page cache is found again."""
    world = stock("abc", journal=True)
    world.elect("a")
    world.settle()
    put_and_settle(world, "a", b"acknowledged", 20)
    world.crash(*"abc")
    world.restart(*"abc")
    world.elect("a")
    world.settle()
    assert len(world.told(Answer.APPLIED)) == 20
    assert world.lost() == []


def a_voter_loses_power(world: World) -> None:
    """`a` wins term 1 with the vote of `b`; `b` forgets, if it can, and `c` stands in term 1 as well."""
    world.isolate("c")
    world.elect("a", "b")
    world.power_cut("b")
    world.isolate("a")
    world.elect("c", "b")


def test_stock_votes_twice_in_one_term(stock: MakeStock) -> None:
    """Term and vote are renamed into place without a sync; what does not parse counts as "nothing yet"."""
    world = stock("abc", journal=True)
    world.meta_survives = False
    a_voter_loses_power(world)
    assert world.leads("a")
    assert world.leads("c")
    assert world.term("a") == world.term("c") == 1


def test_ours_remembers_its_vote(ours: MakeOurs) -> None:
    world = ours("abc")
    a_voter_loses_power(world)
    assert world.leads("a")
    assert world.term("a") == 1
    assert not world.leads("c")


def a_bit_rots(world: World) -> None:
    world.elect("a")
    world.settle()
    put_and_settle(world, "a", b"honest", 1)
    put_and_settle(world, "a", b"later", 1)
    world.crash("a")
    world.rot("a", b"honest-0")
    world.restart("a")


def test_stock_applies_what_rotted_on_its_disk(stock: MakeStock) -> None:
    """Its journal has no checksums."""
    world = stock("abc", journal=True)
    a_bit_rots(world)
    world.elect("b")
    world.settle()
    assert world.state("b")[0] == b"honest-0"
    assert world.state("a")[0] == b"ionest-0"


def test_ours_refuses_to_start_on_what_rotted(ours: MakeOurs) -> None:
    """Something later is whole, so it cannot be the torn end of a write that nobody was told about."""
    world = ours("abc")
    with pytest.raises(Corrupt):
        a_bit_rots(world)


# 5. Its commit index outlives its log ----------------------------------------------------------------------------


def the_tail_of_the_log_is_lost(world: World) -> None:
    """The kernel writes back in time for the early part; the commit index, renamed every second, for all of it."""
    world.elect("a")
    world.settle()
    put_and_settle(world, "a", b"early", 5)
    world.write_back()
    put_and_settle(world, "a", b"late", 30)
    world.answers.clear()
    world.power_cut()
    world.elect("a")
    world.tick("a")
    world.isolate("a")
    for number in range(5):
        world.put("a", b"alone-%d" % number)
    for _ in range(4):
        world.tick("a")


def test_stock_acknowledges_alone_what_no_other_node_has(stock: MakeStock) -> None:
    """The stored commit index points behind the end of the log, so new entries are committed before they exist."""
    world = stock("abc", journal=True)
    the_tail_of_the_log_is_lost(world)
    assert len(world.told(Answer.APPLIED)) == 5
    assert len(world.lost("b", "c")) == 5


def test_ours_acknowledges_nothing_alone(ours: MakeOurs) -> None:
    """The commit index is volatile (Ongaro & Ousterhout 2014, figure 2), and nothing acknowledged was lost."""
    world = ours("abc")
    the_tail_of_the_log_is_lost(world)
    assert world.leads("a")
    assert world.told(Answer.APPLIED) == []
    assert len(world.state("a")) == 35


# 6. Its log is thrown away after a crash between dump and trim ---------------------------------------------------


def followers_die_between_snapshot_and_trim(world: World) -> None:
    """The leader commits with their acknowledgements and dies for good; they come back with what they had."""
    world.elect("a")
    world.settle()
    put_and_settle(world, "a", b"early", 20)
    for number in range(10):
        world.put("a", b"acknowledged-%d" % number)
    while len(world.told(Answer.APPLIED)) < 30:  # the followers have it all, and do not know that it is committed
        for follower in "bc":
            world.deliver("a", follower)
            world.deliver(follower, "a")
        world.tick("a")
    world.isolate("a")
    world.snapshot("b", "c", trim=False)
    world.crash("b", "c")
    world.crash("a")
    world.restart("b", "c")
    world.elect("b", "c")
    world.settle("b", "c")


def test_stock_throws_its_log_away_after_a_crash_between_dump_and_trim(stock: MakeStock) -> None:
    """At load, a dump that does not begin where the journal does clears the journal, newer entries included."""
    world = stock("abc", journal=True, fullDumpFile="{directory}/{name}.dump")
    followers_die_between_snapshot_and_trim(world)
    assert len(world.told(Answer.APPLIED)) == 30
    assert len(world.lost("b", "c")) == 10


def test_ours_keeps_every_entry_behind_a_snapshot(ours: MakeOurs) -> None:
    world = ours("abc")
    followers_die_between_snapshot_and_trim(world)
    assert len(world.told(Answer.APPLIED)) == 30
    assert world.lost("b", "c") == []


# 7. Compaction with a journal and without a dump file loses everything -------------------------------------------


def everybody_compacts_and_restarts(world: World) -> None:
    world.elect("a")
    world.settle()
    put_and_settle(world, "a", b"acknowledged", 30)
    world.snapshot(*"abc")
    world.crash(*"abc")
    world.restart(*"abc")
    world.elect("a")
    world.settle()


def test_stock_compacts_a_durable_log_into_memory(stock: MakeStock) -> None:
    """A journal is configured and no dump file: compaction deletes entries on the disk that only RAM still holds."""
    world = stock("abc", journal=True)
    everybody_compacts_and_restarts(world)
    assert len(world.told(Answer.APPLIED)) == len(world.lost()) == 30


def test_ours_trims_its_log_only_behind_a_durable_snapshot(ours: MakeOurs) -> None:
    world = ours("abc")
    everybody_compacts_and_restarts(world)
    assert len(world.told(Answer.APPLIED)) == 30
    assert world.lost() == []
