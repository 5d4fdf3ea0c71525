"""What the stock library loses or wastes between replicas, and ours does not."""

from __future__ import annotations

import random

import pytest

from raftlog.core import APPEND_BYTES_MAX
from raftlog.machine import COMMAND_BYTES_MAX, ENTRY_BYTES_MAX
from tests.defects.conftest import MakeOurs, MakeStock
from tests.support.world import Answer, Message, Settings, World

# 2. It truncates acknowledged entries ----------------------------------------------------------------------------

SMALL_APPENDS = Settings(append_bytes=2_000)


def refusals(world: World, follower: str, leader: str) -> int:
    return sum(message.get("reset", False) for message in world.network.in_flight(follower, leader))


def a_link_flaps_and_later_the_leader_dies(world: World) -> None:
    """`c` lags behind; the link between leader and `b` is cut once, with one append in flight. Nothing else."""

    def put(number: int) -> None:
        world.put("a", b"%03d" % number + b"." * 150)

    world.elect("a")
    world.settle()
    for number in range(10):
        put(number)
    world.settle()
    world.isolate("c")
    put(10)
    world.tick("a")
    world.tick("a")
    world.cut("a", "b")  # the append is lost; the leader believes it has arrived
    world.link("a", "b")
    for number in (11, 12):  # each append finds a gap, so each is refused; the refusals travel
        put(number)
        world.tick("a")
        world.tick("a")
        world.deliver("a", "b")
    for number in range(13, 60):
        put(number)
    world.tick("a")
    world.deliver("b", "a", 1)  # the first refusal: the leader sends everything again
    world.tick("a")
    world.deliver("a", "b")  # `b` has it all, and says so
    world.deliver("b", "a", refusals(world, "b", "a"))  # the second refusal, older than that
    world.tick("a")  # the stock leader sends everything yet again
    world.deliver("b", "a")  # the acknowledgements of the first time: committed, and the callers are told
    world.tick("a")
    world.deliver("a", "b", 1)  # the first piece of the repetition
    world.crash("a")
    world.link("b", "c")
    world.elect("b", "c")
    world.settle("b", "c", rounds=20)


def an_old_append_arrives_again(world: World) -> None:
    """A copy of the first append, behind everything that followed it."""
    world.elect("a")
    world.settle()
    world.isolate("c")
    copies: list[Message] = []
    for number in range(10):
        world.put("a", b"%d" % number)
        world.tick("a")
        world.tick("a")
        copies += [message for message in world.network.in_flight("a", "b") if message["entries"]]
        world.deliver("a", "b")
        world.deliver("b", "a")
    world.tick("a")
    world.hear("b", "a", copies[0])
    world.crash("a")
    world.link("b", "c")
    world.elect("b", "c")
    world.settle("b", "c", rounds=20)


def test_stock_truncates_what_an_old_append_does_not_mention(stock: MakeStock) -> None:
    world = stock("abc")
    an_old_append_arrives_again(world)
    assert len(world.told(Answer.APPLIED)) == 10
    assert len(world.lost("b", "c")) == 9


def test_ours_learns_nothing_from_an_old_append(ours: MakeOurs) -> None:
    """Broken on purpose by handing the library every entry of an append, known or not: red."""
    world = ours("abc")
    an_old_append_arrives_again(world)
    assert len(world.told(Answer.APPLIED)) == 10
    assert world.lost("b", "c") == []


def test_stock_truncates_what_a_repeated_append_does_not_mention(stock: MakeStock) -> None:
    world = stock("abc", SMALL_APPENDS)
    a_link_flaps_and_later_the_leader_dies(world)
    assert len(world.told(Answer.APPLIED)) == 60
    assert len(world.lost("b", "c")) > 30


def test_ours_truncates_only_at_a_conflict_of_terms(ours: MakeOurs) -> None:
    world = ours("abc", SMALL_APPENDS)
    a_link_flaps_and_later_the_leader_dies(world)
    assert len(world.told(Answer.APPLIED)) == 60
    assert world.lost("b", "c") == []


# 3. It counts answers of an older term ---------------------------------------------------------------------------


def an_acknowledgement_arrives_two_terms_late(world: World) -> None:
    """`f` acknowledges entries of `l` in term 1, that are overwritten in term 2; `l` hears of it in term 3."""
    world.elect("l")
    world.settle()
    for number in range(8):
        world.put("l", b"overwritten-%d" % number)
    world.tick("l")
    world.tick("l")
    world.deliver("l", "f")  # only `f` gets them, and its acknowledgement is slow
    late = world.network.in_flight("f", "l")
    delayed = list(late)
    late.clear()
    for other in "nxy":
        world.cut("l", other)

    world.elect("n", "x", "y")
    world.link("l", "n")
    for _ in range(4):
        world.tick("n")
        for other in "flxy":
            world.deliver("n", other)
            world.deliver(other, "n")
    late.clear()  # `f` heard nothing from `l` since, so it said nothing: the link keeps its order
    world.link("l", "x")
    world.link("l", "y")
    world.cut("l", "n")

    world.elect("l", "x", "y")
    for number in range(5):
        world.put("l", b"acknowledged-%d" % number)
    world.tick("l")
    world.tick("l")
    world.network.in_flight("l", "f").clear()  # still on their way when `l` dies
    late.extend(delayed)
    world.deliver("f", "l")
    world.deliver("l", "x")
    world.deliver("x", "l")  # two of five have the entries, and a third had others once
    world.tick("l")

    world.crash("l", "x")
    world.join_up("f", "n", "y")
    world.elect("n", "f", "y")
    world.settle("f", "n", "y", rounds=20)


def test_stock_counts_an_acknowledgement_of_entries_that_are_gone(stock: MakeStock) -> None:
    world = stock("lfnxy")
    an_acknowledgement_arrives_two_terms_late(world)
    assert world.leads("n")
    assert len(world.told(Answer.APPLIED)) == len(world.lost("f", "n", "y")) == 5


def test_ours_counts_acknowledgements_of_its_own_term_only(ours: MakeOurs) -> None:
    world = ours("lfnxy")
    an_acknowledgement_arrives_two_terms_late(world)
    assert world.leads("n")
    assert world.told(Answer.APPLIED) == []


# 4. It applies uncommitted commands while it receives a snapshot -------------------------------------------------


def a_deposed_leader_receives_a_snapshot(world: World) -> list[bytes]:
    """Piece by piece, while it still holds commands of its own that no majority ever had: which of them it applies."""
    dice = random.Random(4)
    world.elect("a")
    world.settle()
    world.isolate("a")
    for number in range(5):
        world.put("a", b"never committed-%d" % number)
    world.tick("a")
    world.tick("a")
    world.elect("b", "c")
    world.settle("b", "c")
    for _ in range(40):
        world.put("b", dice.randbytes(30_000))
    world.settle("b", "c")
    world.snapshot("b")
    world.settle("b", "c")
    world.link("a", "b")
    applied: set[bytes] = set()
    for _ in range(100):
        world.tick("b")
        world.deliver("b", "a", 1)
        world.tick("a", after_s=0)
        applied.update(world.state("a"))
        world.deliver("a", "b")
    world.settle("a", "b", "c")
    return [value for value in applied if value.startswith(b"never committed")]


def test_stock_applies_and_acknowledges_its_own_lost_commands(stock: MakeStock) -> None:
    """The commit index of a snapshot's chunk is taken against the log that the snapshot is about to replace."""
    world = stock("abc")
    assert len(a_deposed_leader_receives_a_snapshot(world)) == 5
    assert len(world.lost()) == 5  # their callers were told that all is well


def test_ours_commits_nothing_by_a_piece_of_a_snapshot(ours: MakeOurs) -> None:
    """Broken on purpose by leaving the commit index of a piece as it is: red."""
    world = ours("abc")
    assert a_deposed_leader_receives_a_snapshot(world) == []
    assert len(world.told(Answer.APPLIED)) == 40
    assert world.state("a") == world.state("b") == world.state("c")


# 9. A command whose size meets the chunk limit breaks the followers ----------------------------------------------


def commands_of_awkward_sizes(world: World, sizes: list[int]) -> None:
    world.elect("a")
    world.settle()
    for number, size in enumerate(sizes):
        world.put("a", b"%d" % number + b"." * (size - 1))
    world.put("a", b"behind")
    world.settle(rounds=20)


def test_stock_ends_a_command_before_its_end(stock: MakeStock) -> None:
    """The last chunk is announced by the size of the command, and cut by the size of its pickle, which is larger.

    So there are two last chunks: the followers unpickle half an entry, and raise in the middle of a message. (That
    the second one completes it is luck: nothing is cleared when an exception passes.)
    """
    world = stock("abc", Settings(append_bytes=1_000))
    commands_of_awkward_sizes(world, [1_900])
    assert [(name, type(error)) for name, error in world.failures] == [("b", EOFError), ("c", EOFError)]


def test_ours_never_sends_an_entry_in_pieces(ours: MakeOurs) -> None:
    """Whatever is accepted is smaller than what one append carries."""
    assert ENTRY_BYTES_MAX + 1 < APPEND_BYTES_MAX
    world = ours("abc", Settings(append_bytes=APPEND_BYTES_MAX))
    commands_of_awkward_sizes(world, [COMMAND_BYTES_MAX - 1, COMMAND_BYTES_MAX])
    assert len(world.told(Answer.APPLIED)) == 3
    assert world.failures == []


# 10. A conflicting tail is backed off one entry a heartbeat ------------------------------------------------------


def a_deposed_leader_with_a_long_tail_comes_back(world: World) -> int:
    """How many heartbeats it takes until its log is the leader's."""
    world.elect("a")
    world.settle()
    world.isolate("a")
    for number in range(200):
        world.put("a", b"lost-%d" % number)
    world.tick("a")
    world.tick("a")
    world.elect("b", "c")
    world.settle("b", "c")
    for number in range(220):
        world.put("b", b"new-%d" % number)
    world.settle("b", "c")
    world.elect("c", "b")  # of a later term, and believing that everybody has its last entry
    world.tick("b")
    world.exchange("b", "c")  # ours did not hear `c` while `b` led; but `b` hears of the term, and leaves its office
    world.elect("c", "b")
    world.settle("b", "c")
    world.link("a", "c")
    for heartbeats in range(1_000):
        if world.state("a") == world.state("c"):
            return heartbeats
        world.tick("c")
        world.deliver("c", "a")
        world.tick("a", after_s=0)
        world.deliver("a", "c")
    return 1_000


def test_stock_backs_off_one_entry_a_heartbeat(stock: MakeStock) -> None:
    world = stock("abc")
    assert a_deposed_leader_with_a_long_tail_comes_back(world) > 200


def test_ours_backs_off_one_term_a_heartbeat(ours: MakeOurs) -> None:
    world = ours("abc")
    assert a_deposed_leader_with_a_long_tail_comes_back(world) < 10


# 11. It counts votes without a name, and obeys every stale refusal -----------------------------------------------


@pytest.fixture(params=[("d", "e"), ("b", "b"), ("stranger", "passer-by")], ids=["real", "doubled", "strange"])
def voters(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Who answers the candidate `a`; only the first pair is two votes of members."""
    return tuple(request.param)  # type: ignore[return-value]


def votes_arrive(world: World, voters: tuple[str, str]) -> None:
    world.elect("a", "a")  # it stands, and nobody hears of it
    for voter in voters:
        world.hear("a", voter, {"type": "response_vote", "term": world.term("a")})


def test_stock_wins_with_any_two_votes(stock: MakeStock, voters: tuple[str, str]) -> None:
    """So that, of five members, another candidate may win the same term with the votes of the others."""
    world = stock("abcde")
    votes_arrive(world, voters)
    assert world.leads("a")


def test_ours_wins_with_two_votes_of_two_members_only(ours: MakeOurs, voters: tuple[str, str]) -> None:
    world = ours("abcde")
    votes_arrive(world, voters)
    assert world.leads("a") == (voters == ("d", "e"))


def several_refusals_of_one_gap_arrive(world: World) -> int:
    """How many entries the leader sends to `b` because of them."""
    world.elect("a")
    world.settle()
    world.put("a", b"lost on the way")
    world.tick("a")
    world.tick("a")
    world.cut("a", "b")
    world.link("a", "b")
    for number in range(5):  # five appends behind the gap, five refusals
        world.put("a", b"%d" % number)
        world.tick("a")
        world.tick("a")
    world.deliver("a", "b")
    for number in range(100):
        world.put("a", b"new-%d" % number)
    world.tick("a")
    appends = world.network.in_flight("a", "b")
    appends.clear()  # slow: what is sent from here on is counted, and not delivered yet
    while world.deliver("b", "a", 1):
        world.tick("a")
    return sum(len(message["entries"]) for message in appends)


def test_stock_sends_everything_again_for_each_refusal_of_one_gap(stock: MakeStock) -> None:
    assert several_refusals_of_one_gap_arrive(stock("abc")) > 4 * 106


def test_ours_obeys_one_refusal_of_each_burst(ours: MakeOurs) -> None:
    assert 106 <= several_refusals_of_one_gap_arrive(ours("abc")) <= 107


# 15. It stands for election though nobody hears it who could elect it ------------------------------------------------


def only_a_stranger_is_there(world: World) -> int:
    """A member of today's cluster dials `c`, which has missed that its own members are gone. Its term, later."""
    world.crash("a", "b")
    world.dialled_by("c", "stranger")
    for _ in range(50):
        world.elect("c", "c")
    return world.term("c")


def test_stock_stands_for_ever_before_strangers(stock: MakeStock) -> None:
    """So it is ahead of every leader that comes to tell it of the new members."""
    assert only_a_stranger_is_there(stock("abc")) == 50


def test_ours_stands_before_members_only(ours: MakeOurs) -> None:
    """Broken on purpose by leaving the library its own `__connectedToAnyone`: red."""
    assert only_a_stranger_is_there(ours("abc")) == 0


# 16. A candidate that cannot win stops a leader that works -----------------------------------------------------------


def a_replica_stands_that_does_not_hear_the_leader(world: World) -> None:
    """`c` has lost its link to the leader and lacks an entry; `b` hears both."""
    world.elect("a")
    world.settle()
    world.cut("a", "c")
    world.put("a", b"before")
    world.settle("a", "b")
    world.elect("c", "b")
    world.put("a", b"after")
    world.settle("a", "b")


def test_stock_lets_a_candidate_without_a_chance_stop_the_leader(stock: MakeStock) -> None:
    """`b` takes the candidate's term and hears the leader no more."""
    world = stock("abc")
    a_replica_stands_that_does_not_hear_the_leader(world)
    assert world.told(Answer.APPLIED) == [b"before"]


def test_ours_hears_nobody_who_stands_while_a_leader_is_heard(ours: MakeOurs) -> None:
    """Broken on purpose by delivering every candidacy: red."""
    world = ours("abc")
    a_replica_stands_that_does_not_hear_the_leader(world)
    assert world.told(Answer.APPLIED) == [b"before", b"after"]
    assert world.leads("a")
    assert world.term("a") == 1


# 17. A leader never hears that a member is in a later term -----------------------------------------------------------


def a_member_comes_back_with_a_later_term(world: World) -> None:
    """It stood some times while one direction of its links was dead."""
    world.elect("a")
    world.settle()
    world.cut("a", "c")
    for _ in range(5):
        world.elect("c", "c")
    world.cut("b", "c")
    world.link("a", "c")
    world.settle(rounds=3)
    world.put("a", b"value")
    world.settle()


def test_stock_leaves_a_member_of_a_later_term_without_a_leader(stock: MakeStock) -> None:
    """It refuses in silence, until its own election timeout lets it stand once more."""
    world = stock("abc")
    a_member_comes_back_with_a_later_term(world)
    assert world.leads("a")
    assert world.state("b") == [b"value"]
    assert world.state("c") == []


def test_ours_serves_a_member_of_a_later_term_after_one_election(ours: MakeOurs) -> None:
    """Broken on purpose by dropping stale appends in silence, and by not yielding to what is answered: red."""
    world = ours("abc")
    a_member_comes_back_with_a_later_term(world)
    assert world.leads("a")
    assert world.term("a") == 1 + 5 + 1
    assert world.told(Answer.APPLIED) == [b"value"]
    assert world.state("b") == world.state("c") == [b"value"]
