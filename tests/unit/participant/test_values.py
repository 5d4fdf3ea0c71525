"""What a body may be, and that equal bodies have equal digests."""

from __future__ import annotations

import msgpack
import pytest

from participant.errors import WireError
from participant.values import DEPTH_MAX, canonical, digest_of


def test_the_order_of_keys_does_not_change_the_digest() -> None:
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert digest_of("x", canonical(one, "body")) == digest_of("x", canonical(two, "body"))


def test_another_action_or_body_has_another_digest() -> None:
    digests = {digest_of(action, canonical(body, "b")) for action in ("x", None) for body in (1, "1", None, [1])}
    assert len(digests) == 8


def test_golden_bytes() -> None:
    """The digest is stored with prepared branches: another encoding would refuse their repeats after an upgrade."""
    assert canonical({"b": [1, 2.5, None, True], "a": "ä", "c": b"\x00"}, "body").hex() == (
        "83a161a2c3a4a1629401cb4004000000000000c0c3a163c40100"
    )
    assert digest_of("debit", b"\x80").hex() == "80e2d2ebec73730290842840af95a493"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        ("\ud800", "surrogates"),
        ({"\ud800": 1}, "surrogates"),
        ({1: 2}, "must be text, not int"),
        ({1, 2}, "set is not a JSON value"),
        (msgpack.ExtType(1, b"x"), "extension"),
        (msgpack.Timestamp(1), "Timestamp is not"),
    ],
)
def test_what_is_no_value_is_refused_with_its_place(value: object, why: str) -> None:
    with pytest.raises(WireError, match=why) as error:
        canonical({"deep": [None, value]}, "body")
    assert error.value.field.startswith("body.deep[1]")


def test_nesting_is_bounded() -> None:
    value: object = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    canonical(value, "body")
    with pytest.raises(WireError, match="nested"):
        canonical([value], "body")
