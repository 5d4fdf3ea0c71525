"""A configuration that cannot work is refused once, at the start, with the field's name."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any

import pytest

from raftlog.config import LogConfig, Security, Timing, split_address
from raftlog.errors import ConfigError
from raftlog.port import Member

MEMBERS = (Member("n1", "127.0.0.1:1"), Member("n2", "[::1]:2"), Member("n3", "host.example:65535"))
SECRET = b"sixteen bytes at least"
GOOD = LogConfig("c", "n1", MEMBERS, Security(secret=SECRET))


def test_a_good_configuration_passes() -> None:
    """`validate` raises on a bad one."""
    GOOD.validate()
    replace(GOOD, members=MEMBERS[:1]).validate()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cluster": ""}, "the cluster has no name"),
        ({"name": "n4"}, "'n4' is not among the members"),
        ({"members": (*MEMBERS, Member("n1", "h:3"))}, "two members share a name"),
        ({"members": tuple(Member(f"n{n}", "h:1") for n in range(1, 11))}, "10 members; at most 9"),
        ({"members": (*MEMBERS, Member("", "h:3"))}, "member name ''"),
        ({"members": (*MEMBERS, Member("n" * 65, "h:3"))}, "1 to 64 bytes"),
        ({"members": (*MEMBERS, Member("n4", "h"))}, "'h' is not an address"),
        ({"snapshot_entries": 3}, "snapshot_entries must be at least 4"),
        ({"snapshot_bytes": 4_095}, "snapshot_bytes at least 4096"),
        ({"timing": Timing(heartbeat_s=0)}, "heartbeat_s must be positive"),
        ({"security": Security()}, "a shared secret or mutual TLS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_named(change: dict[str, Any], why: str) -> None:
    """Red, each of them, when its check is removed from `LogConfig.validate`."""
    with pytest.raises(ConfigError, match=why):
        replace(GOOD, **change).validate()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"heartbeat_s": -1.0}, "heartbeat_s must be positive"),
        ({"election_min_s": 0.3}, "election_min_s must be more than three times heartbeat_s"),
        ({"election_max_s": 0.4}, "election_max_s must be more than election_min_s"),
        ({"lease_s": 0.2}, "lease_s must be more than twice heartbeat_s"),
        ({"silence_s": 0.7}, "silence_s must be at least election_max_s"),
        ({"redial_s": 0.0}, "redial_s must be positive"),
        ({"heartbeat_s": float("nan")}, "heartbeat_s must be positive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_timings_that_contradict_each_other_are_named(change: dict[str, float], why: str) -> None:
    """Red, each of them, when its check is removed from `Timing.validate`."""
    with pytest.raises(ConfigError, match=why):
        replace(Timing(), **change).validate()


def test_the_two_ways_to_prove_a_name_exclude_each_other() -> None:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    Security(tls_server=server, tls_client=client).validate()
    for security, why in [
        (Security(secret=SECRET, tls_server=server, tls_client=client), "not both"),
        (Security(tls_server=server), "both a server and a client"),
        (Security(tls_client=client), "both a server and a client"),
        (Security(secret=SECRET[:15]), "shorter than 16 bytes"),
    ]:
        with pytest.raises(ConfigError, match=why):
            security.validate()


def test_a_secret_is_not_printed() -> None:
    """Red when the field's `repr=False` is removed."""
    assert "sixteen" not in repr(GOOD)


@pytest.mark.parametrize(
    ("address", "pair"),
    [("h:1", ("h", 1)), ("127.0.0.1:65535", ("127.0.0.1", 65_535)), ("[::1]:80", ("::1", 80))],
)
def test_addresses_are_split_at_the_last_colon(address: str, pair: tuple[str, int]) -> None:
    assert split_address(address) == pair


@pytest.mark.parametrize("address", ["", "h", ":1", "h:", "h:0", "h:65536", "h:-1", "h:x", "h:1.5", "h: 1"])
def test_what_is_no_address_is_refused_with_a_hint(address: str) -> None:
    with pytest.raises(ConfigError, match="write host:port"):
        split_address(address)
