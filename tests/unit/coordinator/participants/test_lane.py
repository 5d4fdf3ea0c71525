"""When requests leave a lane, what is in them, and that nobody's trouble is anybody else's. No HTTP, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgpack
import pytest

from coordinator.participants import lane
from coordinator.participants.lane import OPERATIONS_PER_REQUEST_MAX, PATIENCE_S, Lane, Request
from coordinator.ports import CallFailed
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb
from tests.support.virtual import virtually

YES = {"state": "prepared"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1"
LONG_S = 60.0  # of virtual time


def prepare(gid: str, body: object = None) -> Operation:
    return Operation(Verb.PREPARE, BranchKey(gid, "b"), "do", body)


def commit(gid: str) -> Operation:
    return Operation(Verb.COMMIT, BranchKey(gid, "b"))


class Carried:
    """One request under way, in the hands of the test."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.operations: list[dict[str, Any]] = msgpack.unpackb(request.array)
        self.end = asyncio.get_running_loop().create_future()

    @property
    def gids(self) -> list[str]:
        return [operation["gid"] for operation in self.operations]

    def answer(self, *indexes: int, form: object = YES) -> None:
        """The response begins, or goes on."""
        self.request.begin()
        for index in indexes:
            self.request.answer(index, form)

    def finish(self) -> None:
        """Answer everything, and end."""
        self.answer(*range(len(self.operations)))
        self.end.set_result(None)


class Post:
    """A lane whose requests go nowhere but to `sent`."""

    def __init__(self, requests_max: int = 8, **capabilities: Any) -> None:
        self.sent: list[Carried] = []
        self.document: Capabilities | None = Capabilities("bank-a", **capabilities)
        self.lane = Lane("bank-a", self._send, lambda: self.document, requests_max)

    async def _send(self, request: Request) -> None:
        carried = Carried(request)
        self.sent.append(carried)
        await carried.end

    async def put(self, *operations: Operation) -> list[asyncio.Future[Answer]]:
        """Ask, in one turn of the loop; everything that leaves at once has left then."""
        futures = [self.lane.put(operation) for operation in operations]
        await settled()
        return futures


async def settled() -> None:
    """Until nothing happens any more without time passing, of which little passes."""
    await asyncio.sleep(PATIENCE_S / 1_000)


def states(futures: Iterable[asyncio.Future[Answer]]) -> list[str]:
    """What has become of futures so far."""
    return [
        "waits" if not each.done() else "unknown" if each.exception() is not None else each.result().state.value
        for each in futures
    ]


def test_what_is_ready_together_leaves_together_and_at_once() -> None:
    """Seen red with a request for each `put`."""

    async def scene() -> None:
        post = Post()
        futures = [post.lane.put(prepare(f"g{i}", i)) for i in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)  # no time passes
        assert [operation["body"] for operation in post.sent[0].operations] == [0, 1, 2]
        post.sent[0].finish()
        assert [await future for future in futures] == [Answer(BranchState.PREPARED)] * 3

    virtually(scene())


def test_a_trace_is_named_only_to_who_knows_the_field() -> None:
    """Goal: an older participant refuses fields that it does not know, and would never vote. Red without the look at
    the document."""

    async def scene() -> None:
        for knows in (True, False):
            post = Post(trace=knows)
            await post.put(commit("a")._replace(trace=TRACE), commit("b"))
            assert [operation.get("trace") for operation in post.sent[0].operations] == [TRACE if knows else None, None]
            post.sent[0].finish()
        unknown = Post()
        unknown.document = None
        await unknown.put(commit("a")._replace(trace=TRACE))
        assert not unknown.sent[0].request.is_array
        assert unknown.sent[0].request.operations[0].trace == TRACE  # a header says it, which is understood or ignored
        unknown.sent[0].finish()

    virtually(scene())


def test_while_a_request_is_silent_the_rest_is_collected() -> None:
    """Seen red without `_silent`: three requests."""

    async def scene() -> None:
        post = Post()
        await post.put(prepare("a"))
        await post.put(prepare("b"))
        await post.put(prepare("c"))
        assert [carried.gids for carried in post.sent] == [["a"]]
        post.sent[0].finish()
        await settled()
        assert [carried.gids for carried in post.sent] == [["a"], ["b", "c"]]

    virtually(scene())


@pytest.mark.parametrize("how", ["first answer", "empty beginning", "failure"])
def test_the_next_request_leaves_as_soon_as_the_answer_begins_or_ends(how: str) -> None:
    """Goal: a straggler (b waits for a row) delays nobody behind it. Red if `begin` does not advance the lane."""

    async def scene() -> None:
        post = Post()
        first = await post.put(prepare("a"), prepare("b"))
        await post.put(commit("c"))
        match how:
            case "first answer":
                post.sent[0].answer(0)
            case "empty beginning":
                post.sent[0].answer()
            case "failure":
                post.sent[0].end.set_exception(CallFailed("cut"))
        await settled()
        assert [carried.gids for carried in post.sent] == [["a", "b"], ["c"]]
        assert states(first)[1] == ("unknown" if how == "failure" else "waits")

    virtually(scene())


def test_a_participant_that_stays_silent_is_not_waited_for_long() -> None:
    """Goal: it may wait for a row that only the next request frees, and may not know how to begin an answer before it
    has all of it. Red without the timer: the commit left with the end of the first."""

    async def scene() -> None:
        post = Post()
        await post.put(prepare("waits"))
        await post.put(commit("holder"))
        await asyncio.sleep(PATIENCE_S)
        assert [carried.gids for carried in post.sent] == [["waits"], ["holder"]]

    virtually(scene())


def test_an_answer_reaches_who_asked_before_the_others_are_there() -> None:
    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"), prepare("b"), prepare("c"))
        post.sent[0].answer(2)
        assert states(futures) == ["waits", "waits", "prepared"]
        post.sent[0].answer(0, form={"state": "aborted", "reason": "no money"})
        assert states(futures) == ["aborted", "waits", "prepared"]

    virtually(scene())


def test_an_answer_that_cannot_be_read_is_one_operations_trouble() -> None:
    """Seen red when `Answer.from_map` raised through `answer`."""

    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"), prepare("b"))
        post.sent[0].answer(0, form={"state": "perhaps"})
        post.sent[0].answer(1)
        assert states(futures) == ["unknown", "prepared"]

    virtually(scene())


@pytest.mark.parametrize("index", [-1, 2, 0, True, 1.0, "1", None, [1]])
def test_an_index_is_an_open_operations(index: object) -> None:
    """0 was answered before, True is no index though it is an int. Red with any of the three checks removed."""

    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"), prepare("b"))
        post.sent[0].answer(0)
        with pytest.raises(CallFailed, match="was not asked, or twice"):
            post.sent[0].request.answer(index, YES)
        assert states(futures) == ["prepared", "waits"]

    virtually(scene())


def test_a_whole_answer_has_as_many_answers_as_operations() -> None:
    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"), prepare("b"))
        for forms in ([YES], [YES] * 3, {"0": YES}, None):
            with pytest.raises(CallFailed, match="a list of 2 answers"):
                post.sent[0].request.answer_all(forms)
        post.sent[0].request.answer_all([YES, YES])
        assert states(futures) == ["prepared", "prepared"]

    virtually(scene())


def test_what_a_request_leaves_unanswered_is_unknown_and_what_it_answered_counts() -> None:
    """Red if `_over` does not fail the rest: the last future waits for ever."""

    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"), prepare("b"))
        post.sent[0].answer(0)
        post.sent[0].end.set_result(None)
        await settled()
        assert states(futures) == ["prepared", "unknown"]
        with pytest.raises(CallFailed, match="unanswered"):
            await futures[1]

    virtually(scene())


def test_a_mistake_of_our_own_is_unknown_too() -> None:
    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"))
        post.sent[0].end.set_exception(ZeroDivisionError())
        await settled()
        assert states(futures) == ["unknown"]
        assert states(await post.put(prepare("b"))) == ["waits"], "and the lane goes on"

    virtually(scene())


def test_an_operation_that_cannot_be_sent_is_not_and_the_others_are() -> None:
    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a", {1, 2}), prepare("b", 2**70), prepare("c", "\ud800"), prepare("d"))
        assert post.sent[0].gids == ["d"]
        assert states(futures) == ["unknown", "unknown", "unknown", "waits"]

    virtually(scene())


def test_whoever_gives_up_in_the_queue_is_not_sent_and_under_way_not_told() -> None:
    """Seen red: `InvalidStateError` for the answer of one that had given up, and the others unanswered."""

    async def scene() -> None:
        post = Post()
        under_way = await post.put(prepare("a"), prepare("b"))
        queued = await post.put(prepare("c"), prepare("d"))
        under_way[0].cancel()
        queued[0].cancel()
        assert post.sent[0].request.is_awaited
        post.sent[0].answer(0, 1)
        await settled()
        assert not under_way[1].cancelled()
        assert under_way[1].result() == Answer(BranchState.PREPARED)
        assert post.sent[1].gids == ["d"]
        queued[1].cancel()
        assert not post.sent[1].request.is_awaited

    virtually(scene())


# Limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operations_max", "sizes"), [(2, [2, 2, 1]), (1, [1] * 5), (0, [1] * 5), (1_000, [5])])
def test_a_request_has_no_more_operations_than_the_participant_takes(operations_max: int, sizes: list[int]) -> None:
    async def scene() -> None:
        post = Post(operations_max=operations_max)
        await post.put(*(prepare(f"g{i}") for i in range(5)))
        for carried in post.sent:  # grows meanwhile
            carried.finish()
            await settled()
        assert [len(carried.operations) for carried in post.sent] == sizes

    virtually(scene())


def test_a_request_has_no_more_operations_than_we_send() -> None:
    async def scene() -> None:
        post = Post(operations_max=1_000)
        await post.put(*(prepare(f"g{i}") for i in range(OPERATIONS_PER_REQUEST_MAX + 1)))
        assert len(post.sent[0].operations) == OPERATIONS_PER_REQUEST_MAX

    virtually(scene())


def test_a_request_is_no_larger_than_the_participant_takes() -> None:
    """The last one is larger than that by itself: it travels alone, so that nobody's connection ends for it. Seen red
    when the first of an array was of any size."""

    async def scene() -> None:
        post = Post(operations_max=3, body_bytes_max=100)
        limit_bytes = Capabilities("", operations_max=3, body_bytes_max=100).array_bytes_max
        await post.put(prepare("a", b"x" * 3_000), prepare("b", b"x" * 300), prepare("c", b"x" * 9_000))
        for carried in post.sent:
            carried.finish()
            await settled()
        assert [carried.gids for carried in post.sent] == [["a"], ["b"], ["c"]]
        assert [carried.request.is_array for carried in post.sent] == [True, True, False]
        assert len(post.sent[0].request.array) <= limit_bytes

    virtually(scene())


def test_a_request_is_no_larger_than_we_send(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(lane, "REQUEST_BYTES_MAX", 1_000)
        post = Post()
        await post.put(prepare("a", b"x" * 400), prepare("b", b"x" * 400), prepare("c", b"x" * 400))
        array = post.sent[0].request.array
        assert post.sent[0].gids == ["a", "b"]
        assert len(array) <= 1_000

    virtually(scene())


def test_no_more_requests_are_open_than_there_may_be() -> None:
    """Stragglers keep requests open. Seen red without the limit."""

    async def scene() -> None:
        post = Post(requests_max=2)
        for i in range(4):
            await post.put(commit(f"g{i}"))
            for carried in post.sent:
                carried.answer()
            await settled()
        assert [carried.gids for carried in post.sent] == [["g0"], ["g1"]]
        post.sent[0].finish()
        await settled()
        assert post.sent[2].gids == ["g2", "g3"]

    virtually(scene())


def test_operations_that_wait_for_rows_never_keep_out_those_that_free_them() -> None:
    """Goal: no standstill in which every request is held open by prepares that wait for a commit in the queue. Seen
    red with one line for both: the commit stayed in it."""

    async def scene() -> None:
        post = Post(requests_max=4)
        for i in range(6):
            await post.put(prepare(f"waits-{i}"))
            for carried in post.sent:
                carried.answer()
            await settled()
        assert len(post.sent) == 3
        await post.put(commit("holder"))
        assert post.sent[3].gids == ["holder"]

    virtually(scene())


def test_both_lines_take_turns_in_a_request() -> None:
    """Goal: neither many commits nor many prepares keep the others waiting. Red without the turns."""

    async def scene() -> None:
        post = Post(operations_max=4)
        await post.put(*(commit(f"c{i}") for i in range(9)), prepare("p0"), prepare("p1"))
        assert sorted(post.sent[0].gids) == ["c0", "c1", "p0", "p1"]

    virtually(scene())


def test_a_full_queue_fails_at_once_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red if those that have given up count: nobody would get in until the participant is back."""

    async def scene() -> None:
        monkeypatch.setattr(lane, "OPERATIONS_QUEUED_MAX", 2)
        post = Post(requests_max=1)
        await post.put(prepare("a"))
        queued = await post.put(prepare("b"), prepare("c"), prepare("d"))
        assert states(queued) == ["waits", "waits", "unknown"]
        with pytest.raises(CallFailed, match="2 operations wait"):
            await queued[2]
        assert states(await post.put(commit("e"))) == ["waits"], "what ends a branch has a line of its own"
        queued[0].cancel()
        await post.put(prepare("f"))
        post.sent[0].finish()
        await settled()
        assert sorted(post.sent[1].gids) == ["c", "e", "f"]

    virtually(scene())


@pytest.mark.parametrize("document", [None, Capabilities("bank-a", arrays=False)])
def test_without_arrays_each_operation_travels_alone_and_at_once(document: Capabilities | None) -> None:
    async def scene() -> None:
        post = Post(requests_max=4)
        post.document = document
        await post.put(prepare("a"), prepare("b"), prepare("c"))
        assert [carried.gids for carried in post.sent] == [["a"], ["b"], ["c"]]
        assert not any(carried.request.is_array for carried in post.sent)

    virtually(scene())


def test_the_end_leaves_nobody_waiting() -> None:
    """One is under way, one is queued, and one has not even begun to travel."""

    async def scene() -> None:
        post = Post()
        futures = await post.put(prepare("a"))
        futures += await post.put(prepare("b"))
        post.document = None
        post.lane._break_silence()
        futures.append(post.lane.put(prepare("c")))
        await asyncio.sleep(0)
        await post.lane.stop()
        await settled()
        assert states(futures) == ["unknown"] * 3

    virtually(scene())
