"""Logs: JSON for programs, text for people; ours and the standard library's alike."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from threading import Thread

import pytest
import structlog

from participant import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_off_a_terminal_every_line_is_one_json_object_with_its_fields() -> None:
    stream = io.StringIO()
    logs.setup(stream, node="n1")
    structlog.get_logger("coordinator.x").info("call.unknown", gid="g", branch="b1", term=3)
    logging.getLogger("raftlog.y").warning("peer %s is gone", "n2")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert {"event": "call.unknown", "gid": "g", "branch": "b1", "term": 3, "node": "n1"}.items() <= ours.items()
    assert {"event": "peer n2 is gone", "level": "warning", "node": "n1"}.items() <= theirs.items()
    assert {"timestamp", "logger", "level"} <= ours.keys()


def test_a_line_from_another_thread_names_its_node_too() -> None:
    """Goal: no line without its origin, wherever it comes from. Red when `node` is a context variable: a thread, and
    whatever it calls back in the event loop, begins with an empty context."""
    stream = io.StringIO()
    logs.setup(stream, node="n1")
    thread = Thread(target=structlog.get_logger("x").info, args=("leadership.leads",))
    thread.start()
    thread.join()
    assert json.loads(stream.getvalue())["node"] == "n1"


def test_a_traceback_is_a_field_of_its_line() -> None:
    stream = io.StringIO()
    logs.setup(stream)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        structlog.get_logger("x").exception("driver.failed", gid="g")
    (line,) = stream.getvalue().splitlines()
    assert "ZeroDivisionError" in json.loads(line)["exception"]


def test_on_a_terminal_it_is_text() -> None:
    stream = Terminal()
    logs.setup(stream)
    structlog.get_logger("x").info("replica.serves", url="http://h")
    assert "replica.serves" in stream.getvalue()
    with pytest.raises(ValueError, match=r".*"):
        json.loads(stream.getvalue())


def test_what_is_below_the_level_is_left_out() -> None:
    stream = io.StringIO()
    logs.setup(stream, level=logs.Level.WARNING)
    structlog.get_logger("x").info("quiet")
    assert stream.getvalue() == ""
