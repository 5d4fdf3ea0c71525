"""Signed notices: the scheme of Standard Webhooks, what is refused, and where one may be sent."""

from __future__ import annotations

from base64 import b64encode

import pytest

from coordinator.errors import Unverified
from coordinator.ledger.records import Notice
from coordinator.webhooks import (
    SECRET_BYTES_MAX,
    SECRET_BYTES_MIN,
    TOLERANCE_S,
    admits,
    id_of,
    secret_of,
    signed_headers,
    verified,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the standard's reference vector
OTHER = "whsec_" + b64encode(b"x" * 32).decode()
NOW_S = 1_700_000_000
BODY = (
    b'{"type":"transaction.decided","data":{"gid":"g","key":null,"outcome":"committed","phase":"committing",'
    b'"reason":null,"branch":null,"begun_at_ms":1,"decided_at_ms":2,"added later":3},"added later":4}'
)


def signed(secret: str = SECRET, at_s: int = NOW_S) -> dict[str, str]:
    return signed_headers("msg_1", BODY, secret_of(secret), at_s)


def test_a_signature_is_that_of_the_reference_vector() -> None:
    """So that every library of the standard verifies our notices."""
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', secret_of(SECRET), 1_614_265_330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_what_was_signed_is_read() -> None:
    notice = verified(signed(), BODY, [SECRET], now_s=NOW_S)
    assert (notice.type, notice.data.gid, notice.data.outcome) == ("transaction.decided", "g", "committed")
    shouted = {name.upper(): value for name, value in signed().items()}
    assert verified(shouted, BODY, [SECRET], now_s=NOW_S) == notice


def test_while_secrets_change_either_is_good() -> None:
    assert verified(signed(OTHER), BODY, [SECRET, OTHER], now_s=NOW_S).data.gid == "g"
    both = signed() | {"webhook-signature": "v1a,xyz " + signed()["webhook-signature"]}
    assert verified(both, BODY, [SECRET], now_s=NOW_S).data.gid == "g"


@pytest.mark.parametrize(
    ("changed", "body", "why"),
    [
        ({}, BODY + b" ", "no signature"),
        ({"webhook-id": "msg_2"}, BODY, "no signature"),
        ({"webhook-timestamp": str(NOW_S + 1)}, BODY, "no signature"),
        ({"webhook-timestamp": "\udcff"}, BODY, "no signature"),
        ({"webhook-signature": "v1,\udcff"}, BODY, "no signature"),
        ({"webhook-signature": ""}, BODY, "no signature"),
        ({"webhook-signature": signed(OTHER)["webhook-signature"]}, BODY, "no signature"),
    ],
)
def test_whatever_was_changed_is_no_notice(changed: dict[str, str], body: bytes, why: str) -> None:
    with pytest.raises(Unverified, match=why):
        verified(signed() | changed, body, [SECRET], now_s=NOW_S)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_is_missing_is_named(name: str) -> None:
    headers = signed()
    del headers[name]
    with pytest.raises(Unverified, match=name):
        verified(headers, BODY, [SECRET], now_s=NOW_S)


@pytest.mark.parametrize("late_s", [TOLERANCE_S + 1, -TOLERANCE_S - 1])
def test_what_was_signed_long_ago_or_will_be_is_not_taken(late_s: int) -> None:
    """Whoever recorded it cannot send it again later."""
    assert verified(signed(), BODY, [SECRET], now_s=NOW_S + TOLERANCE_S)
    with pytest.raises(Unverified, match="more than 300 s from now"):
        verified(signed(), BODY, [SECRET], now_s=NOW_S + late_s)


def test_what_is_signed_and_no_notice_says_so() -> None:
    with pytest.raises(Unverified, match="no notice"):
        verified(signed_headers("m", b"{}", secret_of(SECRET), NOW_S), b"{}", [SECRET], now_s=NOW_S)


@pytest.mark.parametrize("size", [SECRET_BYTES_MIN - 1, SECRET_BYTES_MAX + 1, 0])
def test_a_secret_of_the_wrong_size_is_refused_and_never_shown(size: int) -> None:
    text = "whsec_" + b64encode(b"s" * size).decode()
    with pytest.raises(ValueError, match="24 to 64 random bytes") as refused:
        secret_of(text)
    assert size == 0 or text not in str(refused.value)


def test_an_id_is_the_same_for_ever_and_has_no_full_stop() -> None:
    """A gid may have one, and then the end of the id and the beginning of the timestamp could be confused."""
    assert id_of("a.b", 7, Notice.ENDED) == id_of("a.b", 7, Notice.ENDED)
    others = {id_of("a.b", 7, Notice.DECIDED), id_of("a.b", 8, Notice.ENDED), id_of("a", 7, Notice.ENDED)}
    assert id_of("a.b", 7, Notice.ENDED) not in others
    assert "." not in id_of("a.b", 7, Notice.ENDED)


@pytest.mark.parametrize(
    ("prefix", "url", "is_below"),
    [
        ("https://shop.example", "https://shop.example/hooks?x=1", True),
        ("https://shop.example/", "https://SHOP.example:443", True),
        ("https://shop.example/hooks", "https://shop.example/hooks", True),
        ("https://shop.example/hooks", "https://shop.example/hooks/a", True),
        ("https://shop.example/hooks/", "https://shop.example/hooks/a", True),
        ("https://shop.example/hooks/", "https://shop.example/hooks", False),
        ("https://shop.example/hooks", "https://shop.example/hooks-of-others", False),
        ("https://shop.example", "https://shop.example.evil.example/", False),
        ("https://shop.example", "http://shop.example/", False),
        ("https://shop.example", "https://shop.example:8443/", False),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/x", True),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9001/x", False),
    ],
)
def test_a_url_is_allowed_below_the_same_host_and_path(prefix: str, url: str, is_below: bool) -> None:
    assert admits(prefix, url) is is_below
