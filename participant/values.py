"""What a body or a result may be, and its canonical bytes. Sans-IO.

A value is what JSON and msgpack share, plus byte strings: null, booleans, 64-bit integers, finite floats, text,
bytes, lists, and maps with text keys. The canonical bytes are msgpack with sorted keys, so that two requests
that mean the same have the same digest, whoever encoded them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgpack

from participant.errors import WireError

__all__ = ["DEPTH_MAX", "DIGEST_BYTES", "canonical", "digest_of", "merged", "packed", "unpacked"]

DEPTH_MAX = 64  # lists and maps within each other; the same as the coordinator's
DIGEST_BYTES = 16

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def canonical(value: Any, field: str) -> bytes:
    """The one encoding of `value`. Raises WireError, naming `field` and the path within it."""
    packed: bytes = msgpack.Packer().pack(_checked(value, field, DEPTH_MAX))
    return packed


def packed(value: Any, field: str) -> bytes:
    """`canonical`, but null is no bytes at all."""
    return b"" if value is None else canonical(value, field)


def unpacked(data: bytes) -> Any:
    """The inverse of `packed`."""
    return msgpack.unpackb(data) if data else None


def merged(body: bytes, fields: Mapping[str, bytes]) -> bytes:
    """The packed map `body` with these packed values as fields of it.

    Raises WireError if it is no map, or nothing.
    """
    value = unpacked(body) or {}
    if not isinstance(value, dict):
        raise WireError("body", "must be a map, because results go into it")
    return canonical({**value, **{name: unpacked(data) for name, data in fields.items()}}, "body")


def digest_of(action: str | None, body: bytes) -> bytes:
    """What identifies a request: the action and the canonical bytes of its body."""
    name: bytes = msgpack.Packer().pack(action)
    return hashlib.blake2b(name + body, digest_size=DIGEST_BYTES).digest()


def _checked(value: Any, field: str, depth: int) -> Any:
    match value:
        case str():
            return _checked_text(value, field)
        case None | bool() | bytes():
            return value
        case int():
            if not _INT_MIN <= value <= _INT_MAX:
                raise WireError(field, "an integer must fit into 64 bits; send larger ones as text")
            return value
        case float():
            if not math.isfinite(value):
                raise WireError(field, "a number must be finite")
            return value
        case msgpack.ExtType():  # a tuple, too
            raise WireError(field, "msgpack extension types are not JSON values")
        case dict() | list() | tuple():
            if depth == 0:
                raise WireError(field, f"lists and maps are nested more than {DEPTH_MAX} deep")
            return _checked_nested(value, field, depth - 1)
    raise WireError(field, f"{type(value).__name__} is not a JSON value")


def _checked_nested(value: dict[Any, Any] | list[Any] | tuple[Any, ...], field: str, depth: int) -> Any:
    if not isinstance(value, dict):
        return [_checked(item, f"{field}[{i}]", depth) for i, item in enumerate(value)]
    for key in value:
        if not isinstance(key, str):
            raise WireError(field, f"the keys of a map must be text, not {type(key).__name__}")
        _checked_text(key, field)
    return {key: _checked(value[key], f"{field}.{key}", depth) for key in sorted(value)}


def _checked_text(text: str, field: str) -> str:
    if text.isascii():  # known without looking
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WireError(field, "text must be valid Unicode without lone surrogates") from None
    return text
