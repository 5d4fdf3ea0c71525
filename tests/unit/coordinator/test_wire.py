"""The messages of the API: strict, closed, bounded; two encodings of the same thing."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgpack
import pytest

from coordinator.errors import Invalid, Malformed
from coordinator.wire import (
    BRANCHES_MAX,
    DEADLINE_LONG_MAX_MS,
    DEADLINE_MIN_MS,
    Encoding,
    Outcome,
    OutcomeView,
    ResolveRequest,
    TransactionRequest,
    decode,
    encode,
    handle_of,
    new_gid,
    pack_body,
    parse,
    unpack_body,
)
from coordinator.wire_queries import KEY_BYTES_MAX, NOTIFY_CHARS_MAX, ListQuery
from participant.wire import WORKS_MAX

GOOD: dict[str, Any] = {"gid": "g", "branches": [{"participant": "bank-a", "action": "debit", "body": {"n": 1}}]}


def wrong_fields(model: Any, value: Any) -> list[str]:
    with pytest.raises(Invalid) as refused:
        parse(model, value)
    return [wrong.field for wrong in refused.value.fields]


def with_branch(**fields: Any) -> dict[str, Any]:
    return {"branches": [{"participant": "bank-a"} | fields]}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "branches"),
        ({"branches": []}, "branches"),
        ({"branches": [{"participant": "a"}] * (BRANCHES_MAX + 1)}, "branches"),
        ({"branches": {}}, "branches"),
        (GOOD | {"gid": "not a name"}, "gid"),
        (GOOD | {"gid": ".."}, "gid"),
        (GOOD | {"gid": "x" * 65}, "gid"),
        (GOOD | {"gid": 7}, "gid"),
        (GOOD | {"deadline_ms": DEADLINE_MIN_MS - 1}, "deadline_ms"),
        (GOOD | {"deadline_ms": DEADLINE_LONG_MAX_MS + 1}, "deadline_ms"),
        (GOOD | {"deadline_ms": "1000"}, "deadline_ms"),
        (GOOD | {"deadline_ms": 1000.5}, "deadline_ms"),
        (GOOD | {"deadlin_ms": 1000}, "deadlin_ms"),
        (with_branch(participant=""), "branches.0.participant"),
        (with_branch(participant=None), "branches.0.participant"),
        (with_branch(branch="a/b"), "branches.0.branch"),
        (with_branch(action=1), "branches.0.action"),
        (with_branch(unknown=1), "branches.0.unknown"),
        (with_branch(works=0), "branches.0.works"),
        (with_branch(works=WORKS_MAX + 1), "branches.0.works"),
        (with_branch(works=True), "branches.0.works"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_a_wrong_request_is_refused_by_the_name_of_its_field(value: Any, field: str) -> None:
    assert wrong_fields(TransactionRequest, value) == [field]


def test_every_wrong_field_is_named_at_once() -> None:
    value = {"gid": "", "branches": [{"participant": ""}], "deadline_ms": 0}
    assert wrong_fields(TransactionRequest, value) == ["gid", "branches.0.participant", "deadline_ms"]


def test_a_resolution_needs_a_name_and_a_reason() -> None:
    assert wrong_fields(ResolveRequest, {"decision": "maybe"}) == ["decision", "operator", "reason"]


@pytest.mark.parametrize("key", ["", "two\nlines", "\x00", "é" * (KEY_BYTES_MAX // 2) + "x", 7])
def test_a_key_is_a_line_of_bounded_bytes(key: Any) -> None:
    assert wrong_fields(TransactionRequest, {"branches": [{"participant": "bank"}], "key": key}) == ["key"]


def test_a_key_may_be_any_text_of_the_application() -> None:
    key = "Bestellung 4711 / é" + "x" * (KEY_BYTES_MAX - 20)
    assert parse(TransactionRequest, {"branches": [{"participant": "bank"}], "key": key}).key == key
    assert parse(ListQuery, {"key": key}).key == key


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.example/hook",
        "ftp://shop.example",
        "http://user@shop.example/",
        "http://shop.example/#x",
        "http://shop.example/a/../b",
        "http://shop.example/a/%2e%2E/b",
        "http://shop.example/a%5c..",
        "http://shop.example/a b",
        "http://shop.example:0/",
        "http://shop.example:99999/",
        "http://shöp.example/",
        "http://shop.example/" + "x" * NOTIFY_CHARS_MAX,
    ],
)
def test_whom_to_notify_is_a_plain_url(url: str) -> None:
    """Goal: what is compared with the configuration is what is sent to; nothing is resolved in between."""
    assert wrong_fields(TransactionRequest, {"branches": [{"participant": "bank"}], "notify": url}) == ["notify"]


def test_numbers_in_a_query_are_read_from_text_and_a_cursor_must_be_one() -> None:
    assert parse(ListQuery, {"limit": "7", "phase": ["preparing"]}).limit == 7
    assert wrong_fields(ListQuery, {"limit": "0", "cursor": "x", "begun_after_ms": "-1"}) == [
        "begun_after_ms",
        "limit",
        "cursor",
    ]


@pytest.mark.parametrize("encoding", Encoding)
def test_a_message_survives_both_encodings(encoding: Encoding) -> None:
    view = OutcomeView(gid="g", outcome=Outcome.ABORTED, reason="no money: é", branch="b1", handle=None)
    assert parse(OutcomeView, decode(encode(view, encoding), encoding)) == view


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", Encoding.JSON),
        (b"{", Encoding.JSON),
        (b'{"a": NaN}', Encoding.JSON),
        (b'{"a": "\\ud800"}', Encoding.JSON),
        (b"\xff\xfe", Encoding.JSON),
        (b"[" * 100_000, Encoding.JSON),
        (b"", Encoding.MSGPACK),
        (b"\xc1", Encoding.MSGPACK),
        (b"\x01\x01", Encoding.MSGPACK),
        (b"\x81\x01\x01", Encoding.MSGPACK),
        (b"\xa1\xff", Encoding.MSGPACK),
        (b"\x91" * 100_000, Encoding.MSGPACK),
        (b"\xdd\xff\xff\xff\xff", Encoding.MSGPACK),
    ],
)
def test_bytes_that_are_not_what_they_say_are_malformed(data: bytes, encoding: Encoding) -> None:
    with pytest.raises(Malformed, match="the body is"):
        decode(data, encoding)


def test_a_body_comes_back_as_it_went_in() -> None:
    body = {"text": "é", "bytes": b"\x00\xff", "list": [1, -2, 3.5, None, True, 2**64 - 1]}
    assert unpack_body(pack_body(body, "body")) == body
    assert unpack_body(b"") is None


def test_a_gid_is_a_uuid_of_version_7_and_sorts_by_its_time() -> None:
    gids = [new_gid(at_ms, chance) for at_ms, chance in [(1, 2**80 - 1), (2, 0), (2**47, 5)]]
    assert gids == sorted(gids)
    assert {UUID(gid).version for gid in gids} == {7}
    assert {UUID(gid).variant for gid in gids} == {UUID(int=2 << 62).variant}
    assert handle_of("g") == "/v1/transactions/g"


def test_golden_bytes_of_version_1() -> None:
    """Goal: an answer of today is understood by a client of yesterday. Change these only with the API's version."""
    view = OutcomeView(gid="g", outcome=Outcome.DECIDING, reason=None, branch=None, handle="/v1/transactions/g")
    assert encode(view, Encoding.JSON) == (
        b'{"gid":"g","outcome":"deciding","reason":null,"branch":null,"handle":"/v1/transactions/g"}'
    )
    assert msgpack.unpackb(encode(view, Encoding.MSGPACK)) == {
        "gid": "g",
        "outcome": "deciding",
        "reason": None,
        "branch": None,
        "handle": "/v1/transactions/g",
    }
