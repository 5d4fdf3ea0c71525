"""What a message is, and what its parts may be. Sans-IO.

Its id is made of the branch that has published it and a number: the same in each run of the action, and in each
sending.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from participant.errors import WireError
from participant.ids import BranchKey

__all__ = [
    "BODY_BYTES_MAX",
    "ENVELOPE_BYTES",
    "ID_CHARS_MAX",
    "KEY_CHARS_MAX",
    "SUBJECT_CHARS_MAX",
    "Message",
    "check_group",
    "check_key",
    "check_subject",
    "id_of",
    "packed",
    "received",
]

BODY_BYTES_MAX = 262_144  # as JSON
KEY_CHARS_MAX = 256
SUBJECT_CHARS_MAX = 128
ID_CHARS_MAX = 200
ENVELOPE_BYTES = 2_048  # what a message has beside its body, at most: its id, subject and key

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_GROUP = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Message(NamedTuple):
    """`subject` says what has happened, `key` to whom ("": to nobody). `text` is its body as JSON."""

    id: str
    subject: str
    key: str
    text: str

    @property
    def body(self) -> Any:
        """What was published. Raises WireError: whoever has sent it need not be of ours."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise WireError("body", f"is not JSON: {error}") from error


def id_of(key: BranchKey, number: int) -> str:
    """The id of a branch's message."""
    return f"{key}/{number}"


def packed(body: Any) -> str:
    """A body as it is kept and sent. Raises WireError if it is no JSON value, or too large."""
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError("body", f"is not a JSON value: {error}") from error
    if size > BODY_BYTES_MAX:
        raise WireError(
            "body", f"has {size:,} bytes as JSON; at most {BODY_BYTES_MAX:,}: send where to find it instead"
        )
    return text


def received(id: str, subject: str, key: str, text: str) -> Message:  # noqa: A002 - as in `Message`
    """A message as it has come, from whomever: in a form that every database can keep."""
    if len(id) > ID_CHARS_MAX:
        id = hashlib.blake2b(id.encode("utf-8", "replace"), digest_size=32).hexdigest()  # noqa: A001
    return Message(
        *(part.replace("\0", "\N{REPLACEMENT CHARACTER}") for part in (id, subject, key[:KEY_CHARS_MAX], text))
    )


def check_subject(subject: str) -> None:
    """Raises WireError."""
    if len(subject) > SUBJECT_CHARS_MAX or _SUBJECT.fullmatch(subject) is None:
        raise WireError(
            "subject",
            f"must be words of A-Z a-z 0-9 _ - with dots between, not {subject!r:.80}, such as orders.created",
        )


def check_key(key: str) -> None:
    """Raises WireError."""
    if len(key) > KEY_CHARS_MAX or _UNPRINTABLE.search(key) is not None:
        raise WireError("key", f"must be text of at most {KEY_CHARS_MAX} printable characters, not {key!r:.80}")


def check_group(group: str) -> None:
    """Raises WireError."""
    if _GROUP.fullmatch(group) is None:
        raise WireError("group", f"must be 1 to 32 of A-Z a-z 0-9 _ -, not {group!r:.80}")
