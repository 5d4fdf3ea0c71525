"""What the stock library does to its user's code and its callers, and ours does not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from raftlog.config import Timing
from tests.defects.conftest import MakeOurs, MakeStock
from tests.support.ours import Register
from tests.support.world import Answer, Settings, World

# 8. An exception in the user's code is retried for ever ----------------------------------------------------------


def the_state_machine_raises(world: World) -> None:
    world.elect("a")
    world.settle()
    world.put("a", Register.POISON)
    world.settle()
    if "a" in world.up:
        world.put("a", b"behind")
    world.settle(rounds=10)


def test_stock_applies_a_command_that_raises_again_and_again_and_nothing_behind_it(stock: MakeStock) -> None:
    world = stock("abc")
    the_state_machine_raises(world)
    assert world.state("a").count(Register.POISON) > 5
    assert b"behind" not in world.state("a")
    assert world.leads("a")  # and nobody notices


def test_ours_stops_the_node_at_the_first_exception(ours: MakeOurs) -> None:
    world = ours("abc")
    the_state_machine_raises(world)
    assert world.up == {"b", "c"}
    world.elect("b", "c")  # the entry is committed, so the next leader meets it too
    world.settle()
    assert world.state("a") == world.state("b") == [Register.POISON]
    assert world.up == {"c"}
    assert [type(error) for _, error in world.failures] == [ZeroDivisionError] * 2


def a_caller_raises_when_it_is_answered(world: World) -> None:
    def bug() -> None:
        raise ZeroDivisionError("a bug in the caller")

    world.elect("a")
    world.settle()
    world.put("a", b"once", bug)
    world.settle()


def test_stock_applies_a_command_twice_when_its_callback_raises(stock: MakeStock) -> None:
    """The index moves on after the callback, so the next tick applies the entry once more: here, not elsewhere."""
    world = stock("abc")
    a_caller_raises_when_it_is_answered(world)
    assert world.state("a") == [b"once", b"once"]
    assert world.state("b") == [b"once"]


def test_ours_applies_it_once(ours: MakeOurs) -> None:
    world = ours("abc")
    a_caller_raises_when_it_is_answered(world)
    world.elect("b", "c")
    world.settle()
    assert [world.state(name) for name in "abc"] == [[b"once"]] * 3


# 12. Whoever reaches the port can run code -----------------------------------------------------------------------


class Payload:
    """Unpickling it makes a directory: it could as well do anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


def a_stranger_sends_a_command(world: World, payload: bytes) -> None:
    world.elect("a")
    world.settle()
    world.hear("a", "stranger", {"type": "apply_command", "command": b"\0" + payload})
    entry = (b"\0" + payload, world.last_index("b") + 1, world.term("b"))
    append = {"type": "append_entries", "term": world.term("b"), "commit_index": entry[1], "burst": 0}
    world.hear("b", "a", append | {"entries": [entry], "prevLogIdx": entry[1] - 1, "prevLogTerm": entry[2]})
    world.settle()


def test_stock_runs_what_a_message_says(stock: MakeStock, tmp_path: Path) -> None:
    world = stock("abc")
    a_stranger_sends_a_command(world, pickle.dumps(Payload(tmp_path / "owned")))
    assert (tmp_path / "owned").is_dir()


def test_ours_runs_nothing_that_a_message_says(ours: MakeOurs, tmp_path: Path) -> None:
    """Not even when a member says it: the bytes of an entry are msgpack of a known version, or the node stops."""
    world = ours("abc")
    a_stranger_sends_a_command(world, pickle.dumps(Payload(tmp_path / "owned")))
    assert not (tmp_path / "owned").exists()
    assert "b" not in world.up


# 13. What sounds like "no" may mean "yes" ------------------------------------------------------------------------


def a_leader_is_lost_with_commands_in_flight(world: World) -> None:
    """One was proposed at the leader, one at a follower; `c` gets both, the callers are not answered in time."""
    world.elect("a")
    world.settle()
    world.put("b", b"at the follower")
    world.tick("b")
    world.deliver("b", "a")
    world.put("a", b"at the leader")
    world.tick("a")
    world.tick("a")
    world.deliver("a", "c")
    world.isolate("a")
    world.elect("c", "b")
    world.settle("b", "c")
    world.join_up()
    world.settle()


def test_stock_says_not_committed_of_what_is_committed(stock: MakeStock) -> None:
    """`LEADER_CHANGED`: "leader has changed without command commit", says the documentation."""
    world = stock("abc")
    a_leader_is_lost_with_commands_in_flight(world)
    assert world.told(Answer.REFUSED) == [b"at the follower"]
    assert b"at the follower" in world.state("b")


def test_ours_refuses_before_the_log_and_does_not_know_after_it(ours: MakeOurs) -> None:
    world = ours("abc")
    a_leader_is_lost_with_commands_in_flight(world)
    assert world.answers == {b"at the follower": Answer.REFUSED, b"at the leader": Answer.UNKNOWN}
    assert [world.state(name) for name in "abc"] == [[b"at the leader"]] * 3


def test_ours_refuses_what_it_still_has_in_hand_when_it_is_deposed(ours: MakeOurs) -> None:
    """The library would forward it to the new leader. Nobody may: its caller is told that it was not proposed."""
    world = ours("abc")
    world.elect("a")
    world.settle()
    world.isolate("a")
    world.elect("b", "c")
    world.put("a", b"in hand")
    world.link("a", "b")
    world.tick("b")
    world.deliver("b", "a")
    world.settle()
    assert world.answers == {b"in hand": Answer.REFUSED}
    assert [world.state(name) for name in "abc"] == [[], [], []]
    assert world.failures == []


# 14. A leader that nobody hears goes on leading ------------------------------------------------------------------


def a_leader_is_cut_off_for_two_seconds(world: World) -> None:
    world.elect("a")
    world.settle()
    world.isolate("a")
    world.elect("b", "c")
    world.put("b", b"new")
    for _ in range(10):
        world.tick()
        world.exchange("b", "c")


def test_stock_believes_for_thirty_seconds_that_it_leads(stock: MakeStock) -> None:
    """And answers reads from a state that has been overtaken; there is no other kind of read."""
    world = stock("abc", Settings(lease_s=30.0))  # the library's default
    a_leader_is_cut_off_for_two_seconds(world)
    assert world.leads("a")
    assert world.told(Answer.APPLIED) == world.state("b") == [b"new"]
    assert world.state("a") == []


def test_ours_steps_down_within_its_lease(ours: MakeOurs) -> None:
    """Reads do not depend on it: see the barriers in `tests/contract/test_log.py`."""
    world = ours("abc", Settings(lease_s=Timing().lease_s))
    a_leader_is_cut_off_for_two_seconds(world)
    assert not world.leads("a")
    assert world.told(Answer.APPLIED) == world.state("b") == [b"new"]
