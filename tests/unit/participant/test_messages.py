"""Messages: what may be published, when a failure is tried again, and work in lanes. No broker and no database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from participant.errors import ActionError, WireError
from participant.ids import BranchKey
from participant.messages import outbox
from participant.messages.lanes import in_lanes
from participant.messages.message import BODY_BYTES_MAX, ID_CHARS_MAX, Message, received
from participant.messages.patience import ALARM_AFTER_S, ALARM_INTERVAL_S, PAUSE_MAX_S, PAUSE_MIN_S, Trouble, pause_s
from participant.resource import OpenBranch


class Recorder:
    """What `publish` needs, and nothing else: as a session of another library could be."""

    dialect = "sqlite"

    def __init__(self) -> None:
        self.branch: OpenBranch | None = OpenBranch(BranchKey("gid", "b1"))
        self.rows: list[Any] = []

    async def execute(self, sql: str, values: Any) -> None:
        assert sql.startswith("INSERT INTO message_outbox ")
        self.rows.append(values)


async def test_a_message_is_a_row_under_the_name_of_its_branch() -> None:
    tx = Recorder()
    ids = [await outbox.publish(tx, "orders.created", {"ä": [1]}, key="17"), await outbox.publish(tx, "orders", None)]
    assert ids == ["gid/b1/0", "gid/b1/1"]
    assert tx.rows == [("gid", "b1", 0, "orders.created", "17", '{"ä":[1]}'), ("gid", "b1", 1, "orders", "", "null")]


@pytest.mark.parametrize(
    ("subject", "body", "key", "said"),
    [
        ("", None, "", "subject: must be words"),
        ("orders..created", None, "", "subject: must be words"),
        ("orders.>", None, "", "subject: must be words"),
        ("x" * 129, None, "", "subject: must be words"),
        ("orders", {"a": object()}, "", "body: is not a JSON value"),
        ("orders", float("nan"), "", "body: is not a JSON value"),
        ("orders", "\ud800", "", "body: is not a JSON value"),
        ("orders", b"bytes", "", "body: is not a JSON value"),
        ("orders", "x" * BODY_BYTES_MAX, "", "body: has 262,146 bytes as JSON"),
        ("orders", None, "x" * 257, "key: must be text of at most 256"),
        ("orders", None, "a\nb", "key: must be text"),
    ],
)
async def test_what_cannot_be_sent_is_refused_at_once(subject: str, body: Any, key: str, said: str) -> None:
    """Goal: before it is a row, so that no broker ever has to."""
    tx = Recorder()
    with pytest.raises(ActionError, match=f"its message cannot be sent: {said}"):
        await outbox.publish(tx, subject, body, key=key)
    assert tx.rows == []


async def test_nested_too_deeply_is_refused() -> None:
    body: list[Any] = []
    for _ in range(100_000):
        body = [body]
    with pytest.raises(ActionError, match="body: is not a JSON value"):
        await outbox.publish(Recorder(), "orders", body)


async def test_a_branch_publishes_so_many_messages_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MESSAGES_MAX", 2)
    tx = Recorder()
    for _ in range(2):
        await outbox.publish(tx, "orders", None)
    with pytest.raises(ActionError, match="a branch publishes at most 2 messages"):
        await outbox.publish(tx, "orders", None)


async def test_a_view_publishes_nothing() -> None:
    tx = Recorder()
    tx.branch = None
    with pytest.raises(ActionError, match="published by an action"):
        await outbox.publish(tx, "orders", None)


def test_a_message_of_somebody_else_fits_into_every_database() -> None:
    odd = received("x" * (ID_CHARS_MAX + 1), "orders", "k" * 300, "a\0b")
    assert len(odd.id) <= ID_CHARS_MAX
    assert len(odd.key) == 256
    assert "\0" not in odd.text
    assert received("x" * ID_CHARS_MAX, "orders", "", "1") == Message("x" * ID_CHARS_MAX, "orders", "", "1")
    with pytest.raises(WireError, match="body: is not JSON"):
        _ = odd.body


def test_pauses_double_up_to_their_limit_and_are_shortened_at_random() -> None:
    assert [pause_s(tried, 0.0) for tried in (1, 2, 3)] == [PAUSE_MIN_S, 2 * PAUSE_MIN_S, 4 * PAUSE_MIN_S]
    assert pause_s(10**9, 0.0) == PAUSE_MAX_S
    assert pause_s(10**9, 0.999) > PAUSE_MAX_S / 2


def test_trouble_becomes_an_alarm_when_it_has_lasted_and_again_when_it_lasts_on() -> None:
    trouble = Trouble.after(None, 100.0, 0.0)
    assert not trouble.is_alarming(100.0)
    again = Trouble.after(trouble, 100.0 + ALARM_AFTER_S, 0.0)
    assert (again.since, again.tried) == (100.0, 2)
    assert again.is_alarming(100.0 + ALARM_AFTER_S)
    alarmed = again._replace(alarmed_at=100.0 + ALARM_AFTER_S)
    assert not alarmed.is_alarming(100.0 + ALARM_AFTER_S + 1.0)
    assert alarmed.is_alarming(100.0 + ALARM_AFTER_S + ALARM_INTERVAL_S)


async def test_lanes_run_beside_each_other_each_in_order_until_its_first_no() -> None:
    done: list[tuple[str, int]] = []
    b_has_begun = asyncio.Event()

    async def work(item: tuple[str, int]) -> bool:
        if item[0] == "a":
            await b_has_begun.wait()
        b_has_begun.set()
        done.append(item)
        return item != ("a", 1)

    await in_lanes([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)], lambda item: item[0], work, 2)
    assert [item for item in done if item[0] == "a"] == [("a", 0), ("a", 1)]
    assert [item for item in done if item[0] == "b"] == [("b", 0), ("b", 1)]


async def test_no_more_lanes_work_at_once_than_may() -> None:
    at_once, most = 0, 0

    async def work(_: int) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return True

    await in_lanes(range(10), lambda item: item, work, 3)
    assert most == 3


async def test_what_work_raises_is_raised() -> None:
    async def work(_: int) -> bool:
        raise WireError("x", "y")

    with pytest.raises(WireError):
        await in_lanes([1, 2], lambda item: item, work, 1)
