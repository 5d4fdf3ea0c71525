"""Notices in a running cluster, and their lines: at least once, over takeovers, and nobody waits for a slow host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from coordinator.driver.admission import Admission
from coordinator.driver.notices import AT_ONCE_MAX, SILENT, Notices, letter_of
from coordinator.effects import TellEnded
from coordinator.errors import GidReused, Invalid, Overloaded
from coordinator.ledger.records import BranchRecord, Notice, Path, Phase, TransactionRecord
from coordinator.ports import CallFailed, Letter
from coordinator.wire import Outcome, TransactionRequest
from coordinator.wire_queries import DropNoticeRequest
from participant.wire import Verb
from tests.support.application import Application
from tests.support.cluster import WAIT_S, cluster, recorded, request
from tests.support.virtual import virtually

URL = "http://shop/hook"
RECORD = TransactionRecord(
    "g", b"d", Path.CLASSIC, Phase.COMMITTING, (BranchRecord("a", "bank-a", None, b""),), 1_000, 1, 2, notify=URL
)


def asked(gid: str, url: str = URL, *names: str) -> TransactionRequest:
    return request(*(names or ("bank-a", "bank-b")), gid=gid).model_copy(update={"notify": url, "key": "order-7"})


async def test_an_application_is_told_of_the_decision_and_of_the_end() -> None:
    application = Application()
    async with cluster(notifier=application) as made:
        leader = made.replicas["n1"]
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await leader.transactions.begin(asked("g"), WAIT_S)
        await recorded(leader, "g", lambda record: record.notified is Notice.DECIDED)
        made.clerks["bank-b"].release(Verb.COMMIT)
        await recorded(leader, "g", lambda record: record.finished)
    assert [(notice.type, notice.data.phase) for notice in application.taken] == [
        ("transaction.decided", "committing"),
        ("transaction.ended", "committed"),
    ]
    assert {(n.data.gid, n.data.key, n.data.outcome) for n in application.taken} == {
        ("g", "order-7", Outcome.COMMITTED)
    }
    assert len(set(application.ids)) == 2


async def test_an_abort_says_why_and_who() -> None:
    application = Application()
    async with cluster(notifier=application, prevent=False) as made:
        made.clerks["bank-b"].refuse("no money")
        await made.replicas["n1"].transactions.begin(asked("g"), WAIT_S)
        await recorded(made.replicas["n1"], "g", lambda record: record.finished)
    last = application.taken[-1].data
    assert (last.outcome, last.phase, last.reason, last.branch) == ("aborted", "aborted", "no money", "b2")


async def test_what_was_not_taken_is_told_by_the_next_leader() -> None:
    """Goal: a notice outlives its leader, and keeps its id. Red when what is owed is a fact of one leader."""
    application = Application()
    application.away = True
    async with cluster(notifier=application) as made:
        await made.replicas["n1"].transactions.begin(asked("g"), WAIT_S)
        await recorded(made.replicas["n2"], "g", lambda record: record.ended)
        await application.came(2)
        await made.crash("n1")
        application.away = False
        second = await made.lead("n2")
        record = await recorded(second, "g", lambda record: record.finished)
    assert record.notified is Notice.ENDED
    assert [notice.type for notice in application.taken] == ["transaction.ended"]


async def test_a_url_that_is_not_allowed_is_refused_before_anything_is_begun() -> None:
    async with cluster(notifier=Application()) as made:
        transactions = made.replicas["n1"].transactions
        with pytest.raises(Invalid, match="notify: is not allowed"):
            await transactions.begin(asked("g", "http://elsewhere/"), WAIT_S)
        assert made.replicas["n1"].ledger.get("g") is None
        await transactions.begin(asked("g"), WAIT_S)
        with pytest.raises(GidReused):
            await transactions.begin(asked("g", "http://shop/another"), WAIT_S)


async def test_a_cluster_that_allows_no_url_says_so() -> None:
    async with cluster() as made:
        with pytest.raises(Invalid, match=r"notify\.allow"):
            await made.replicas["n1"].transactions.begin(asked("g"), WAIT_S)
    with pytest.raises(CallFailed, match=r"notify\.allow"):
        await SILENT.send(Letter(URL, "msg_1", b""))


async def test_one_application_that_is_gone_takes_no_room_of_another_and_what_is_dropped_takes_none() -> None:
    """Goal: each host has its own share, and an operator can free it."""
    application = Application()
    application.away = True
    async with cluster(notifier=application, admission=Admission(untold_per_host_max=1)) as made:
        leader = made.replicas["n1"]
        await leader.transactions.begin(asked("g"), WAIT_S)
        await recorded(leader, "g", lambda record: record.ended)
        with pytest.raises(Overloaded, match="untold_per_host_max"):
            await leader.transactions.begin(asked("h"), WAIT_S)
        await leader.transactions.begin(asked("i", "http://office/"), WAIT_S)
        drop = DropNoticeRequest(operator="ann", reason="gone")
        assert (await leader.transactions.drop_notice("g", drop)).notice_dropped == "dropped by ann: gone"
        await leader.transactions.begin(asked("h"), WAIT_S)


async def test_what_was_dropped_before_the_end_is_never_told() -> None:
    application = Application()
    async with cluster(notifier=application) as made:
        leader = made.replicas["n1"]
        application.away = True
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await leader.transactions.begin(asked("g"), WAIT_S)
        await recorded(leader, "g", lambda record: record.phase is Phase.COMMITTING)
        await leader.transactions.drop_notice("g", DropNoticeRequest(operator="ann", reason="gone"))
        application.away = False
        made.clerks["bank-b"].release(Verb.COMMIT)
        record = await recorded(leader, "g", lambda record: record.finished)
    assert (record.notified, application.taken) == (Notice.NONE, [])


async def test_with_too_many_untold_only_those_that_want_to_be_told_are_refused() -> None:
    application = Application()
    application.away = True
    async with cluster(notifier=application, admission=Admission(untold_max=1)) as made:
        leader = made.replicas["n1"]
        await leader.transactions.begin(asked("g"), WAIT_S)
        await recorded(leader, "g", lambda record: record.ended)
        with pytest.raises(Overloaded, match="untold_max"):
            await leader.transactions.begin(asked("h"), WAIT_S)
        assert (await leader.transactions.begin(request("bank-a", gid="i"), WAIT_S)).decision is not None


class Slow:
    """A notifier that takes what it is given when it is told to."""

    def __init__(self) -> None:
        self.under_way: list[tuple[Letter, asyncio.Future[None]]] = []

    def refusal(self, _: str) -> str:
        return ""

    def send(self, letter: Letter) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way.append((letter, future))
        return future


def telling(
    notices: Notices, events: list[TellEnded], is_wanted: Callable[[], bool] = lambda: True
) -> Callable[[str, str], None]:
    def tell(gid: str, url: str) -> None:
        notices.tell(RECORD._replace(gid=gid, notify=url), Notice.DECIDED, events.append, is_wanted)

    return tell


async def test_a_slow_host_has_a_line_of_its_own() -> None:
    slow, events = Slow(), list[TellEnded]()
    tell = telling(Notices(slow, 600.0), events)
    for number in range(AT_ONCE_MAX + 1):
        tell(f"g{number}", "http://slow/")
    assert len(slow.under_way) == AT_ONCE_MAX
    tell("h", "http://quick/")
    assert slow.under_way[-1][0].url == "http://quick/"
    slow.under_way[0][1].set_result(None)
    await asyncio.sleep(0)
    assert (len(slow.under_way), events) == (AT_ONCE_MAX + 2, [TellEnded(Notice.DECIDED)])
    assert slow.under_way[-1][0].url == "http://slow/"


async def test_what_is_dropped_while_it_waits_is_not_sent() -> None:
    """Seen red without the question when its turn has come."""
    slow, events, dropped = Slow(), list[TellEnded](), set[str]()
    notices = Notices(slow, 600.0)
    for gid in [*map(str, range(AT_ONCE_MAX)), "unwanted", "wanted"]:
        telling(notices, events, lambda gid=gid: gid not in dropped)(gid, "http://slow/")
    dropped.add("unwanted")
    slow.under_way[0][1].set_result(None)
    await asyncio.sleep(0)
    assert b'"wanted"' in slow.under_way[-1][0].body
    assert len(slow.under_way) == AT_ONCE_MAX + 1


async def test_what_an_operator_drops_while_it_waits_is_not_sent() -> None:
    """Seen red with a driver that sends what it has asked for, whatever the record says by then."""
    slow = Slow()
    async with cluster(notifier=slow) as made:
        leader = made.replicas["n1"]
        gids = [f"g{number}" for number in range(AT_ONCE_MAX + 2)]
        for gid in gids:
            await leader.transactions.begin(asked(gid), WAIT_S)
            await recorded(leader, gid, lambda record: record.ended)
        *_, unwanted, wanted = gids
        await leader.transactions.drop_notice(unwanted, DropNoticeRequest(operator="ann", reason="gone"))
        slow.under_way[0][1].set_result(None)
        await asyncio.sleep(0)
        told = [json.loads(letter.body)["data"]["gid"] for letter, _ in slow.under_way]
    assert told == [*gids[:AT_ONCE_MAX], wanted]


def test_silence_is_no_answer_and_makes_room() -> None:
    async def story() -> None:
        slow, events = Slow(), list[TellEnded]()
        tell = telling(Notices(slow, 5.0), events)
        for number in range(AT_ONCE_MAX + 1):
            tell(f"g{number}", "http://slow/")
        await asyncio.sleep(6.0)
        assert events == [TellEnded(Notice.DECIDED, "no answer within 5 s")] * AT_ONCE_MAX
        assert len(slow.under_way) == AT_ONCE_MAX + 1

    virtually(story())


async def test_whoever_asked_and_has_gone_hears_nothing_more() -> None:
    slow, events = Slow(), list[TellEnded]()
    notices = Notices(slow, 600.0)
    for number in range(AT_ONCE_MAX + 1):
        telling(notices, events)(f"g{number}", "http://slow/")
    under_way = notices.forget_all()
    await asyncio.gather(*under_way, return_exceptions=True)
    assert (len(under_way), len(slow.under_way), events) == (AT_ONCE_MAX, AT_ONCE_MAX, [])


async def test_a_mistake_of_our_own_is_loud_and_the_notice_is_told_again() -> None:
    slow, events = Slow(), list[TellEnded]()
    telling(Notices(slow, 600.0), events)("g", "http://slow/")
    with capture_logs() as logs:
        slow.under_way[0][1].set_exception(ZeroDivisionError("oh"))
        await asyncio.sleep(0)
    assert events == [TellEnded(Notice.DECIDED, "oh")]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["notice.failed"]


def test_a_notice_is_the_same_bytes_whoever_sends_it() -> None:
    assert letter_of(RECORD, Notice.DECIDED) == letter_of(RECORD._replace(revision=9), Notice.DECIDED)
