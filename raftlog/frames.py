"""Bytes between replicas: who is there, and that nobody else speaks. Sans-IO.

    frame      = length (u32, big endian)  tag  body          length = len(tag) + len(body)
    connection = hello  proof  message*                        both sides, in this order

The hello (msgpack, no tag) names protocol version, cluster, sender and a nonce. With a shared secret, the proof is a
keyed BLAKE2b over both hellos and the sender's role, so neither side can replay or reflect the other's; a key for each
direction is derived in the same way, and every message carries a tag over its sequence number and body. Under mutual
TLS the certificates prove the names and TLS the messages: proof and tags are empty.

Not promised: secrecy without TLS. The shared secret authenticates; it does not encrypt.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from raftlog.errors import FrameError

__all__ = ["FRAME_BYTES_MAX", "HELLO_BYTES_MAX", "PROTOCOL_VERSION", "Channel", "Framing"]

PROTOCOL_VERSION = 1
FRAME_BYTES_MAX = 4 << 20
HELLO_BYTES_MAX = 1_024

_LENGTH = struct.Struct(">I")
_SEQUENCE = struct.Struct(">Q")
_NONCE_BYTES = 32
_TAG_BYTES = 16
_PROOF_BYTES = 32


class Framing:
    """Cuts a byte stream into frames. Raises FrameError before it buffers a frame that is too long."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The next whole frame, or None until more bytes are fed."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if length > self.limit_bytes:
            raise FrameError(f"a frame of {length} bytes where at most {self.limit_bytes} are allowed")
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        frame = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        return frame


def _framed(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


class Channel:
    """One connection's conversation, from hello to messages, as bytes in and out.

    `dialing`: whether we opened it. `expected`: the name we dialled, or None when we were dialled. `secret`: None
    under mutual TLS; the owner of the connection then checks `peer` against the certificate.
    """

    def __init__(
        self, cluster: str, name: str, secret: bytes | None, nonce: bytes, *, dialing: bool, expected: str | None
    ) -> None:
        self._cluster = cluster
        self._expected = expected
        self._secret = secret
        self._dialing = dialing
        self._framing = Framing(HELLO_BYTES_MAX)
        fields = {"protocol": "raftlog", "version": PROTOCOL_VERSION, "cluster": cluster, "name": name, "nonce": nonce}
        self._hello: bytes = msgpack.packb(fields)
        self._sent = 0
        self._received = 0
        self._keys: tuple[bytes, bytes] | None = None  # sending, receiving
        self._transcript = b""
        self.peer: str | None = None  # proven only when `open`
        self.open = False

    def greeting(self) -> bytes:
        """What to send first."""
        return _framed(self._hello)

    def receive(self, data: bytes) -> Iterator[bytes | dict[str, Any]]:
        """Feed bytes; yields handshake bytes to send back, and messages once the channel is open.

        Raises: FrameError; the connection must be cut then.
        """
        self._framing.feed(data)
        while (frame := self._framing.next_frame()) is not None:
            if self.peer is None:
                self._take_hello(frame)
                yield _framed(self._proof(dialing=self._dialing))
            elif not self.open:
                self._take_proof(frame)
            else:
                yield self._take_message(frame)

    def encode(self, message: dict[str, Any]) -> bytes:
        """One message as a frame. Only once open."""
        body: bytes = msgpack.packb(message)
        if self._keys is not None:
            body = _tag(self._keys[0], self._sent, body) + body
        self._sent += 1
        return _framed(body)

    def _take_hello(self, frame: bytes) -> None:
        hello = _unpack(frame)
        if hello.get("protocol") != "raftlog" or not isinstance(hello.get("name"), str):
            raise FrameError("the peer does not speak this protocol")
        if hello.get("version") != PROTOCOL_VERSION:
            raise FrameError(f"the peer speaks version {hello.get('version')!r}, we speak {PROTOCOL_VERSION}")
        if hello.get("cluster") != self._cluster:
            raise FrameError(f"the peer belongs to cluster {hello.get('cluster')!r}, we to {self._cluster!r}")
        nonce = hello.get("nonce")
        if not isinstance(nonce, bytes) or len(nonce) != _NONCE_BYTES:
            raise FrameError("the peer sent no nonce")
        if self._expected is not None and hello["name"] != self._expected:
            raise FrameError(f"{hello['name']!r} answered where {self._expected!r} was dialled")
        self.peer = hello["name"]
        pair = (self._hello, frame) if self._dialing else (frame, self._hello)
        self._transcript = b"".join(_framed(part) for part in pair)

    def _proof(self, *, dialing: bool) -> bytes:
        return self._derive(b"proof dial" if dialing else b"proof listen", _PROOF_BYTES) if self._secret else b""

    def _derive(self, purpose: bytes, size: int) -> bytes:
        key = hashlib.blake2b(self._secret or b"", digest_size=32).digest()  # a key of any length to one of 32 bytes
        return hashlib.blake2b(purpose + b"\0" + self._transcript, key=key, digest_size=size).digest()

    def _take_proof(self, frame: bytes) -> None:
        if not hmac.compare_digest(frame, self._proof(dialing=not self._dialing)):
            raise FrameError(f"{self.peer!r} does not know the cluster's secret")
        if self._secret is not None:
            dial, listen = self._derive(b"key dial", 32), self._derive(b"key listen", 32)
            self._keys = (dial, listen) if self._dialing else (listen, dial)
        self._framing.limit_bytes = FRAME_BYTES_MAX
        self.open = True

    def _take_message(self, frame: bytes) -> dict[str, Any]:
        if self._keys is not None:
            tag, frame = frame[:_TAG_BYTES], frame[_TAG_BYTES:]
            if not hmac.compare_digest(tag, _tag(self._keys[1], self._received, frame)):
                raise FrameError(f"a frame of {self.peer!r} is not authentic")
        self._received += 1
        return _unpack(frame)


def _tag(key: bytes, sequence: int, body: bytes) -> bytes:
    digest = hashlib.blake2b(_SEQUENCE.pack(sequence), key=key, digest_size=_TAG_BYTES)
    digest.update(body)
    return digest.digest()


def _unpack(frame: bytes) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(frame)
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameError(f"a frame is not msgpack: {error}") from error
    if not isinstance(value, dict):
        raise FrameError("a frame is not a message")
    return value
