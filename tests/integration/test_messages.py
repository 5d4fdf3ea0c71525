"""Messages over real databases and brokers: delivered if and only if the transaction commits, in order, once."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from participant import Reject, ResourceLimits
from participant.errors import ConfigError
from participant.ids import BranchKey
from participant.kit import Participant
from participant.messages import Message, outbox, patience
from participant.messages.broker import Done, Published, Refused, Unknown
from participant.rm.memory import Memory
from participant.testing.servers import Redis
from participant.wire import BranchState, Operation, Verb
from tests.support.brokers import BROKERS, Line, ToldBroker, line_on
from tests.support.shops import (
    DATABASES,
    abort,
    ask,
    commit,
    dead,
    has_heard,
    heard,
    is_empty,
    make_reader,
    make_shop,
    order,
    prepare,
    until,
)

PATIENT = ResourceLimits(lock_wait_s=30.0, deadlock_wait_s=30.0)


@pytest.fixture(params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """Where a participant on this kind of database keeps its data, empty."""
    return str(tmp_path) if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_dsn"))


@pytest.fixture
def line(redis: Redis) -> Line:
    return line_on(redis)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again at once."""
    monkeypatch.setattr(patience, "PAUSE_MIN_S", 0.001)


def told(sent: ToldBroker) -> list[tuple[int, int]]:
    """What was sent, as (change, number)."""
    return [(message.body["change"], message.body["number"]) for message in sent.sent]


@pytest.fixture(params=BROKERS)
def any_line(request: pytest.FixtureRequest) -> Line:
    return line_on(request.getfixturevalue(request.param))


async def test_a_commit_is_delivered_and_an_abort_is_not(kind: str, place: str, any_line: Line, tmp_path: Any) -> None:
    """In both phases, and in one."""
    line = any_line
    reader = make_reader("sqlite", str(tmp_path / "reader"), line.subscription())
    shop = make_shop(kind, place, line.broker())
    async with shop.serving() as serving, reader.serving():
        service = serving.service
        assert (await prepare(service, "yes", order(line, "a", 2))).state is BranchState.PREPARED
        assert (await prepare(service, "undone", order(line, "b"))).state is BranchState.PREPARED
        assert (await commit(service, "no", order(line, "c", no=True))).state is BranchState.ABORTED
        await abort(service, "undone")
        await commit(service, "yes")
        await commit(service, "at-once", order(line, "d"))
        await until(lambda: has_heard(reader, 3))
        assert await heard(reader) == {"yes/b/0": 1, "yes/b/1": 1, "at-once/b/0": 1}
        await until(lambda: is_empty(shop))
        assert (await service.measures())["outbox"] == {"waiting": 0, "oldest_s": 0.0, "dead": 0}


async def test_a_branch_that_commits_late_is_delivered_after_those_that_came_before(
    kind: str, place: str, line: Line
) -> None:
    """Its row has the smallest number of all.

    Seen red (PostgreSQL) with a relay that remembered how far it had come.
    """
    broker = ToldBroker()
    shop = make_shop(kind, place, broker)
    async with shop.serving() as serving:
        await prepare(serving.service, "early", order(line, "a"))
        for number in range(5):
            await commit(serving.service, f"later-{number}", order(line, f"other-{number}"))
        await until(lambda: is_empty(shop))
        assert [message.id for message in broker.sent] == [f"later-{number}/b/0" for number in range(5)]
        await commit(serving.service, "early")
        await until(lambda: is_empty(shop))
    assert [message.id for message in broker.sent][5:] == ["early/b/0"]


async def test_a_prepared_branch_keeps_no_other_publisher_waiting(kind: str, place: str, line: Line) -> None:
    """All publish under the same subject and key, and nobody has committed."""
    limits = ResourceLimits(lock_wait_s=0.5, deadlock_wait_s=0.1)
    shop = make_shop(kind, place, ToldBroker(), limits)

    @shop.action("say")
    async def say(tx: Any, body: Any) -> None:
        await outbox.publish(tx, line.subject, body, key="same")

    async with shop.serving() as serving:
        keys = [BranchKey(f"gid-{number}", "b") for number in range(12)]
        says = [Operation(Verb.PREPARE, key, "say", {"change": 0, "number": 0}) for key in keys]
        answers = await asyncio.gather(*map(serving.service.perform, says))
        assert {answer.state for answer in answers} == {BranchState.PREPARED}
        await asyncio.gather(*(serving.service.perform(Operation(Verb.COMMIT, key)) for key in keys))
        await until(lambda: is_empty(shop))


async def test_messages_about_one_row_come_in_the_order_of_its_changes(
    kind: str, place: str, line: Line, quick: None
) -> None:
    """Six callers change one order at once, prepared and at once; whoever waited for the row has run again.

    The broker takes nothing until all have committed, and then refuses a third for now. Seen red with rows sorted by
    their ids, and with a lane that went on after an unknown answer.
    """
    failed: set[str] = set()
    is_there = False

    def answer(message: Message) -> Published:
        if not is_there or (zlib.crc32(message.id.encode()) % 3 == 0 and message.id not in failed):
            failed.add(message.id)
            return Unknown("not now")
        taken.append(message)
        return Done()

    taken: list[Message] = []
    broker = ToldBroker(answer)
    shop = make_shop(kind, place, broker, PATIENT)

    async def change(service: Any, caller: int) -> None:
        for number in range(8):
            gid = f"{9 - number}-of-{caller}"  # in another order than that of time
            if number % 2:
                assert (await commit(service, gid, order(line, "one", 2))).state is BranchState.COMMITTED
            else:
                assert (await prepare(service, gid, order(line, "one", 2))).state is BranchState.PREPARED
                await commit(service, gid)

    async with shop.serving() as serving:
        await commit(serving.service, "made", order(line, "one", 0))
        async with asyncio.TaskGroup() as group:
            for caller in range(6):
                group.create_task(change(serving.service, caller))
        failed.clear()
        is_there = True
        await until(lambda: is_empty(shop))
    sent = [(message.body["change"], message.body["number"]) for message in taken]
    assert sent == [(change, number) for change in range(2, 50) for number in range(2)]


async def test_an_action_that_runs_again_publishes_under_the_same_ids(kind: str, place: str, line: Line) -> None:
    """It waits for a row, and has published before that."""
    runs: list[list[str]] = []
    broker = ToldBroker()
    shop = make_shop(kind, place, broker, PATIENT)

    @shop.action("tell")
    async def tell(tx: Any, body: Any) -> None:
        told_ids = [await outbox.publish(tx, line.subject, {"change": 0, "number": 0}) for _ in range(2)]
        runs.append(told_ids)
        await shop._actions["order"](tx, body)

    async with shop.serving() as serving:
        await commit(serving.service, "made", order(line, "a", 0))
        await prepare(serving.service, "first", order(line, "a"))
        telling = asyncio.ensure_future(
            serving.service.perform(Operation(Verb.PREPARE, BranchKey("second", "b"), "tell", order(line, "a")))
        )
        await until(lambda: _waits(serving.service))
        await commit(serving.service, "first")
        assert (await telling).state is BranchState.PREPARED
        await commit(serving.service, "second")
        await until(lambda: is_empty(shop))
    assert runs == [["second/b/0", "second/b/1"]] * 2
    assert {message.id for message in broker.sent} == {"first/b/0", "second/b/0", "second/b/1", "second/b/2"}


async def test_an_interactive_branch_counts_its_messages_over_all_of_its_work(
    kind: str, place: str, line: Line
) -> None:
    """Seen red (SQLite) with numbers that began anew with each work."""
    broker = ToldBroker()
    shop = make_shop(kind, place, broker)
    key = BranchKey("gid", "b")
    async with shop.serving() as serving:
        for seq in range(3):
            work = Operation(Verb.WORK, key, "order", order(line, "a", 2), seq=seq)
            answer = await serving.service.perform(work)
            assert answer.result == [f"gid/b/{2 * seq}", f"gid/b/{2 * seq + 1}"]
        await serving.service.perform(Operation(Verb.PREPARE, key, works=3))
        await commit(serving.service, "gid")
        await until(lambda: is_empty(shop))
    assert [message.id for message in broker.sent] == [f"gid/b/{number}" for number in range(6)]


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
async def test_of_two_relays_one_sends_and_the_other_takes_over(kind: str, place: str, line: Line, quick: None) -> None:
    """Two processes serve one database. The broker of the first one takes nothing for a while, but it is its turn.

    Seen red with a lease that nobody saw.
    """
    is_there = True
    first, second = ToldBroker(lambda _: Done() if is_there else Unknown("not now")), ToldBroker()
    shop, other = make_shop(kind, place, first), make_shop(kind, place, second)
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(shop.serving())
        await commit(serving.service, "a", order(line, "a"))
        await until(lambda: is_empty(shop))
        async with other.serving() as also:
            is_there = False
            await commit(also.service, "b", order(line, "a"))
            await until(lambda: _was_sent(first, "b/b/0", 11))  # the other one has looked meanwhile
            is_there = True
            await until(lambda: is_empty(shop))
        assert second.sent == []
        await stack.aclose()
        async with other.serving() as also:
            await commit(also.service, "c", order(line, "a"))
            await until(lambda: is_empty(other))
    assert [message.id for message in second.sent] == ["c/b/0"]


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
async def test_relays_that_both_think_it_is_their_turn_break_no_order(
    kind: str, place: str, line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Four at once, as clocks may lead them to. What each message's first sending was, is in order; the rest are
    repeats, and the broker knows them.

    Seen red with lanes that sent all of a key at once.
    """

    async def take_always(*_: Any) -> bool:
        return True

    monkeypatch.setattr("participant.messages.tables.take_lease", take_always)
    monkeypatch.setattr("participant.messages.tables._lease", _nobody)
    reader = make_reader("sqlite", str(tmp_path / "reader"), line.subscription())
    shops = [make_shop(kind, place, line.broker(), PATIENT) for _ in range(4)]
    async with AsyncExitStack() as stack:
        serving = [await stack.enter_async_context(shop.serving()) for shop in shops]
        await stack.enter_async_context(reader.serving())
        await commit(serving[0].service, "made", order(line, "a", 0))
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                service = serving[number % 4].service
                group.create_task(commit(service, f"gid-{number}", order(line, "a")))
        await until(lambda: has_heard(reader, 60))
        assert set((await heard(reader)).values()) == {1}
    assert [message.body["change"] for message in await _all_on(line, 60)] == list(range(2, 62))


async def test_what_no_broker_takes_is_kept_with_the_reason_and_the_next_goes_on(
    kind: str, place: str, line: Line
) -> None:
    """Seen red without the row in `message_dead`."""

    def answer(message: Message) -> Published:
        return Refused("too ugly") if message.body["number"] == 1 else Done()

    broker = ToldBroker(answer)
    shop = make_shop(kind, place, broker)
    async with shop.serving() as serving:
        await commit(serving.service, "gid", order(line, "a", 3))
        await until(lambda: is_empty(shop))
        assert await dead(shop) == {"gid/b/1": "too ugly"}
        assert (await serving.service.measures())["outbox"] == {"waiting": 0, "oldest_s": 0.0, "dead": 1}
    assert told(broker) == [(1, 0), (1, 1), (1, 2)]


async def test_a_subject_that_is_stuck_keeps_no_other_back(kind: str, place: str, quick: None) -> None:
    """More of its rows wait than one look takes. Seen red with looks that left no subject out."""
    broker = ToldBroker(lambda message: Unknown("no") if message.subject == "stuck" else Done())
    shop = make_shop(kind, place, broker)
    async with shop.serving() as serving:
        body = {"name": "a", "subject": "stuck", "messages": 300, "no": False}
        await commit(serving.service, "stuck", body)
        await until(lambda: _sent(broker, "stuck"))
        await commit(serving.service, "free", body | {"name": "b", "subject": "free", "messages": 1})
        await until(lambda: _sent(broker, "free"))
        status = (await serving.service.measures())["outbox"]
        assert status["waiting"] >= 300
        assert {message.body["number"] for message in broker.sent if message.subject == "stuck"} == {0}


async def test_what_is_stuck_for_long_or_dead_is_an_alarm(
    tmp_path: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with an alarm that was never due."""
    monkeypatch.setattr(patience, "ALARM_AFTER_S", 0.01)
    broker = ToldBroker(lambda message: Unknown("no room") if message.subject == "stuck" else Refused("ugly"))
    shop = make_shop("sqlite", str(tmp_path), broker)

    async def were_raised() -> bool:
        return {"outbox.late", "outbox.refused"} <= {entry["event"] for entry in logs}

    with capture_logs() as logs:
        async with shop.serving() as serving:
            for subject in ("stuck", "refused"):
                body = {"name": subject, "subject": subject, "messages": 1, "no": False}
                await commit(serving.service, subject, body)
            await until(were_raised)
    (late,) = [entry for entry in logs if entry["event"] == "outbox.late"]
    assert (late["log_level"], late["subject"], late["why"]) == ("error", "stuck", "no room")


async def test_a_handler_that_fails_is_tried_again_and_has_one_effect(
    kind: str, place: str, line: Line, tmp_path: Any, quick: None
) -> None:
    """Seen red with an acknowledgement in the place of the handling."""
    failures = ["first", "second"]

    def fail(_: Message) -> None:
        if failures:
            raise RuntimeError(failures.pop(0))

    reader = make_reader(kind, place, line.subscription(), fail=fail)
    async with reader.serving():
        await _publish(line, "a")
        await until(lambda: has_heard(reader, 1))
        assert await heard(reader) == {"a": 1}
        assert await dead(reader) == {}


@pytest.mark.parametrize(
    ("error", "tries", "reason"),
    [(RuntimeError("poison"), 3, "RuntimeError: poison"), (Reject("never"), 1, "never")],
)
async def test_what_can_never_be_handled_is_kept_with_the_reason_and_the_next_goes_on(
    error: Exception, tries: int, reason: str, kind: str, place: str, line: Line, quick: None
) -> None:
    """Seen red with `Reject` taken for any other failure."""
    seen: list[str] = []

    def fail(message: Message) -> None:
        seen.append(message.id)
        if message.id == "bad":
            raise error

    reader = make_reader(kind, place, line.subscription(), fail=fail, attempts_max=3)
    async with reader.serving():
        await _publish(line, "bad", "good")
        await until(lambda: has_heard(reader, 1))
        await until(lambda: _is_dead(reader, 1))
        assert await heard(reader) == {"good": 1}
        assert await dead(reader) == {"bad": reason}
    assert seen.count("bad") == tries


async def test_a_body_that_is_no_json_is_kept_with_the_reason(kind: str, place: str, line: Line) -> None:
    reader = make_reader(kind, place, line.subscription())
    async with reader.serving():
        broker = line.broker()
        await broker.open()
        await broker.publish(line.message("bad", text="{"))
        await broker.close()
        await until(lambda: _is_dead(reader, 1))
        assert "is not JSON" in (await dead(reader))["bad"]


async def test_a_message_that_waits_for_rows_is_not_dead_for_it(kind: str, place: str, line: Line, quick: None) -> None:
    """A prepared branch has the row that the handler wants, while three tries end for it.

    Seen red with such tries counted as failures.
    """
    limits = ResourceLimits(lock_wait_s=0.05, deadlock_wait_s=0.05)
    shop = make_shop(kind, place, None, limits)

    @shop.consumer(line.subscription(), attempts_max=1)
    async def handle(tx: Any, message: Message) -> None:
        await shop._actions["order"](tx, order(line, message.body, 0))

    async with shop.serving() as serving:
        await commit(serving.service, "made", order(line, "a", 0))
        await prepare(serving.service, "holder", order(line, "a", 0))
        await _publish(line, "m", text='"a"')
        await until(lambda: _conflicts(serving.service, 3))
        await commit(serving.service, "holder")
        await until(lambda: _changed(shop, 3))
        assert await dead(shop) == {}


async def test_a_broker_that_is_away_at_the_start_is_connected_to_later(kind: str, place: str, tmp_path: Any) -> None:
    async with Redis.running() as server:
        line = line_on(server)
        await server.kill()
        shop = make_shop(kind, place, line.broker())
        reader = make_reader("sqlite", str(tmp_path / "reader"), line.subscription())
        async with shop.serving() as serving, reader.serving():
            await commit(serving.service, "gid", order(line, "a"))
            await server.start()
            await until(lambda: has_heard(reader, 1))


async def test_a_participant_without_the_tables_says_what_to_add(tmp_path: Any) -> None:
    from participant.rm.sqlite import SQLite

    shop = Participant("shop", SQLite(tmp_path / "data.db", schema=""), broker=ToldBroker())
    with pytest.raises(ConfigError, match=r"no tables of messages: add participant\.messages\.outbox\.SQLITE"):
        async with shop.serving():
            pass


async def test_a_participant_in_memory_cannot_publish(tmp_path: Any) -> None:
    shop = Participant("shop", Memory(tmp_path / "data"))

    @shop.action("order")
    async def say(tx: Any, _: Any) -> None:
        await outbox.publish(tx, "orders", {})

    async with shop.serving() as serving:
        answer = await commit(serving.service, "gid", {})
    assert answer.reason.endswith(
        "messages are published by an action, with its tx or session, on SQLite, PostgreSQL or MariaDB"
    )


async def _nobody(_: Any) -> Any:
    from participant.messages.tables import Lease

    return Lease("", 0)


async def _all_on(line: Line, count: int) -> list[Message]:
    """So many messages, in the order of their stream."""
    found: list[Message] = []
    others = line.subscription("others")
    await others.open()
    while len(found) < count:
        found += [delivery.message for delivery in await others.fetch()]
    await others.close()
    return found


async def _publish(line: Line, *names: str, text: str = "null") -> None:
    broker = line.broker()
    await broker.open()
    for name in names:
        assert await broker.publish(line.message(name, "key", text)) == Done()
    await broker.close()


async def _is_dead(participant: Participant, count: int) -> bool:
    return len(await dead(participant)) >= count


async def _sent(broker: ToldBroker, subject: str) -> bool:
    return any(message.subject == subject for message in broker.sent)


async def _was_sent(broker: ToldBroker, name: str, times: int) -> bool:
    return [message.id for message in broker.sent].count(name) >= times


async def _waits(service: Any) -> bool:
    return bool((await service.status()).waiting)


async def _conflicts(service: Any, count: int) -> bool:
    return bool((await service.status()).conflicts >= count)


async def _changed(shop: Participant, count: int) -> bool:
    return await ask(shop, "SELECT changes FROM orders") == [(count,)]
