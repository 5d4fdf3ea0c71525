"""Notices to an application as signed webhooks: what is sent, how it is signed and verified, and where it may go.

The signature scheme is that of Standard Webhooks 1.0.0 (symmetric, `v1`): HMAC-SHA256 over `id.timestamp.body`, so that
every library of that name verifies a notice, too. Time is an argument.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_core import from_json

from coordinator.errors import Unverified
from coordinator.ledger.records import Notice, Phase
from coordinator.wire import Outcome
from coordinator.wire_base import Message

__all__ = [
    "SECRET_BYTES_MAX",
    "SECRET_BYTES_MIN",
    "SECRET_PREFIX",
    "TOLERANCE_S",
    "NoticeData",
    "NoticeView",
    "admits",
    "id_of",
    "secret_of",
    "signed_headers",
    "verified",
]

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # of the form, not of any secret
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64
TOLERANCE_S = 300  # between the clocks of who signs and of who verifies, and the way from one to the other

_ID, _TIMESTAMP, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_VERSION = "v1"
_ID_BYTES = 16
_DEFAULT_PORTS = {"http": 80, "https": 443}


class NoticeData(Message):
    """What the record says when it is sent. `*_at_ms` are wall-clock milliseconds of the leader at that time."""

    gid: str
    key: str | None
    outcome: Outcome = Field(strict=False)
    phase: Phase = Field(strict=False)
    reason: str | None
    branch: str | None = Field(description="The branch that refused, if one did.")
    begun_at_ms: int
    decided_at_ms: int


class NoticeView(Message):
    """One notice. `type` is *transaction.decided* or *transaction.ended*."""

    type: str
    data: NoticeData


def secret_of(text: str) -> bytes:
    """The secret's bytes. Raises ValueError, which says what is wrong and never what was given."""
    try:
        secret = b64decode(text.strip().removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        secret = b""
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"a secret is {SECRET_PREFIX} and {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes in base64"
        )
    return secret


def id_of(gid: str, begun_at_ms: int, notice: Notice) -> str:
    """The same for every attempt, by whichever leader; another one if the gid is used anew after it was forgotten. A
    digest, because an id must not contain a full stop."""
    return "msg_" + blake2b(f"{gid} {begun_at_ms} {notice}".encode(), digest_size=_ID_BYTES).hexdigest()


def signed_headers(id_: str, body: bytes, secret: bytes, at_s: int) -> dict[str, str]:
    """The headers of one attempt, made at the wall-clock second `at_s`."""
    signature = f"{_VERSION},{_sign(id_, str(at_s), body, secret)}"
    return {_ID: id_, _TIMESTAMP: str(at_s), _SIGNATURE: signature}


def verified(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], *, now_s: float, tolerance_s: float = TOLERANCE_S
) -> NoticeView:
    """The notice that was signed with one of `secrets`, not longer ago than `tolerance_s`, nor so far ahead.

    Raises: Unverified; ValueError for a secret that is none.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        id_, timestamp, signatures = given[_ID], given[_TIMESTAMP], given[_SIGNATURE]
    except KeyError as error:
        raise Unverified(f"the header {error.args[0]} is missing") from None
    expected = [f"{_VERSION},{_sign(id_, timestamp, body, secret_of(secret))}".encode() for secret in secrets]
    offered = [signature.encode(errors="replace") for signature in signatures.split()]
    if not any(hmac.compare_digest(one, other) for one in expected for other in offered):
        raise Unverified("no signature is one of these secrets")
    if not timestamp.isdecimal() or abs(now_s - int(timestamp)) > tolerance_s:
        raise Unverified(f"it was signed at {timestamp}, more than {tolerance_s:g} s from now")
    try:
        return NoticeView.model_validate(from_json(body), extra="ignore")
    except (ValueError, ValidationError) as error:
        raise Unverified(f"it is signed, but no notice: {error}") from error


def admits(prefix: str, url: str) -> bool:
    """Whether `url` lies below `prefix`: the same scheme, host and port, and a path that begins with all of its."""
    ours, theirs = urlsplit(prefix), urlsplit(url)
    if _origin(prefix) != _origin(url):
        return False
    path = ours.path.rstrip("/")
    return (theirs.path or "/").startswith(f"{path}/") or (theirs.path == path and not ours.path.endswith("/"))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _sign(id_: str, timestamp: str, body: bytes, secret: bytes) -> str:
    return b64encode(hmac.digest(secret, f"{id_}.{timestamp}.".encode(errors="replace") + body, sha256)).decode()
