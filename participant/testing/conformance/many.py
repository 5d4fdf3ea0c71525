"""Promises about many operations in one request, and about the stream; for those who say that they have them."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgpack

from participant.errors import WireError
from participant.ids import BranchKey
from participant.testing.conformance.bench import Bench, Broken, expect, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import REQUEST_TIMEOUT_S, Exchange
from participant.wire import (
    BRANCHES_PATH,
    STREAM_PATH,
    STREAM_PROTOCOL,
    Answer,
    BranchState,
    Capabilities,
    Operation,
    Verb,
)

__all__ = ["MANY"]

OPERATIONS_DEFAULT = Capabilities(name="").operations_max  # of a participant that does not say


async def an_array_is_answered_in_its_order(bench: Bench) -> None:
    keys = [bench.branch() for _ in range(3)]
    operations = [
        _operation(Verb.ABORT, keys[0]),
        _operation(Verb.OUTCOME, keys[1]),
        _prepare(bench, keys[2]),
    ]
    await _expect_states(bench, operations, BranchState.ABORTED, BranchState.UNKNOWN, BranchState.PREPARED)
    operations = [_operation(Verb.COMMIT, keys[2]), _operation(Verb.COMMIT, keys[1]), _operation(Verb.COMMIT, keys[0])]
    await _expect_states(bench, operations, BranchState.COMMITTED, BranchState.UNKNOWN, BranchState.ABORTED)
    expect_state(await bench.outcome(keys[2]), "the array said that it is committed", BranchState.COMMITTED)


async def a_malformed_operation_spoils_no_other(bench: Bench) -> None:
    keys = [bench.branch() for _ in range(2)]
    operations = [
        7,
        _operation(Verb.ABORT, keys[0]),
        {"verb": "forget", "gid": keys[1].gid, "branch": keys[1].branch},
        {"verb": "abort", "gid": "g" * 65, "branch": "b"},
        _prepare(bench, keys[1]),
    ]
    unknown = BranchState.UNKNOWN
    await _expect_states(bench, operations, unknown, BranchState.ABORTED, unknown, unknown, BranchState.PREPARED)


async def an_array_that_is_too_long_is_refused_whole(bench: Bench) -> None:
    said_max = bench.capabilities.get("operations_max")
    limit = said_max if isinstance(said_max, int) else OPERATIONS_DEFAULT
    key = bench.branch()
    said = await bench.talk.post(BRANCHES_PATH, {"operations": [_operation(Verb.ABORT, key)] * (limit + 1)})
    expect(said.is_refusal, f"4xx, because {limit + 1} operations are more than the {limit} that it takes", said)
    expect_state(await bench.outcome(key), "nothing of it was done", BranchState.UNKNOWN)


async def what_is_no_array_is_refused(bench: Bench) -> None:
    forms: tuple[Any, ...] = ({}, [], {"operations": {}}, {"operations": "all"})
    for form in forms:
        said = await bench.talk.post(BRANCHES_PATH, form)
        expect(said.is_refusal, '4xx, because there is no list "operations"', said)


async def the_stream_answers_each_operation_once(bench: Bench) -> None:
    keys = [bench.branch() for _ in range(3)]
    operations = [_operation(Verb.ABORT, keys[0]), 7, _prepare(bench, keys[1]), _operation(Verb.OUTCOME, keys[2])]
    states = (BranchState.ABORTED, BranchState.UNKNOWN, BranchState.PREPARED, BranchState.UNKNOWN)
    exchange = Exchange("GET", bench.talk.url + STREAM_PATH)
    bench.talk.exchanges.append(exchange)
    try:
        async with (
            asyncio.timeout(REQUEST_TIMEOUT_S),
            bench.talk.socket(STREAM_PATH, STREAM_PROTOCOL) as socket,
        ):
            expect(socket.protocol == STREAM_PROTOCOL, f"the subprotocol {STREAM_PROTOCOL}", exchange)
            answers = await _streamed(socket, 7, operations, exchange)
            expect([answers[i].state for i in range(len(states))] == list(states), f"{_words(states)}", exchange)
            commit = [_operation(Verb.COMMIT, keys[1])]
            answers = await _streamed(socket, 8, commit, exchange)
            expect(answers[0].state is BranchState.COMMITTED, "committed, because it was prepared", exchange)
    except TimeoutError:
        raise Broken(f"an answer to each operation within {REQUEST_TIMEOUT_S:g} s", exchange) from None
    except (aiohttp.ClientError, OSError) as error:
        exchange.failure = str(error) or type(error).__name__
        raise Broken(f"a WebSocket with the subprotocol {STREAM_PROTOCOL}", exchange) from error


async def _streamed(socket: Any, number: int, operations: list[Any], exchange: Exchange) -> dict[int, Answer]:
    """Send an array, and take messages until each operation is answered."""
    await socket.send_bytes(msgpack.packb([number, operations]))
    answers: dict[int, Answer] = {}
    while len(answers) < len(operations):
        message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise Broken("a binary message; the connection was ended instead", exchange)
        try:
            said = msgpack.unpackb(message.data)
            exchange.text, exchange.status = repr(said), 101
            expect(said[0] == number and isinstance(said[1], list), f"[{number}, [[index, answer], …]]", exchange)
            for index, form in said[1]:
                expect(index in range(len(operations)) and index not in answers, "each index once", exchange)
                answers[index] = Answer.from_map(form, "answer")
        except (ValueError, TypeError, IndexError, msgpack.UnpackException, WireError) as error:
            raise Broken(f"msgpack of the form [number, [[index, answer], …]] ({error})", exchange) from error
    return answers


async def _expect_states(bench: Bench, operations: list[Any], *states: BranchState) -> None:
    said = await bench.talk.post(BRANCHES_PATH, {"operations": operations})
    listed = said.value.get("answers") if isinstance(said.value, dict) else None
    given = [each.get("state") if isinstance(each, dict) else None for each in listed or ()]
    expect(said.status == 200 and given == list(states), f"answers with the states {_words(states)}", said)


def _words(states: tuple[BranchState, ...]) -> str:
    return ", ".join(states)


def _operation(verb: Verb, key: BranchKey) -> dict[str, Any]:
    return Operation(verb, key).to_map()


def _prepare(bench: Bench, key: BranchKey) -> dict[str, Any]:
    return Operation(Verb.PREPARE, key, bench.action, bench.body).to_map()


MANY = (
    Promise(an_array_is_answered_in_its_order, needs="arrays"),
    Promise(a_malformed_operation_spoils_no_other, needs="arrays"),
    Promise(an_array_that_is_too_long_is_refused_whole, needs="arrays"),
    Promise(what_is_no_array_is_refused, needs="arrays"),
    Promise(the_stream_answers_each_operation_once, needs="stream"),
)
