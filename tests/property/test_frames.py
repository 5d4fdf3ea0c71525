"""Frames against every way in which bytes may be cut, and every damage that can be drawn."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.errors import FrameError
from raftlog.frames import Channel, Framing

SECRET = b"the secret of the cluster"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), min_size=1, max_size=6)


def open_pair(secret: bytes | None = SECRET) -> tuple[Channel, Channel]:
    one = Channel("c", "n2", secret, b"1" * 32, dialing=True, expected="n1")
    two = Channel("c", "n1", secret, b"2" * 32, dialing=False, expected=None)
    to_one = list(two.receive(one.greeting()))
    to_two = list(one.receive(two.greeting()))
    for channel, proofs in ((one, to_one), (two, to_two)):
        for proof in proofs:
            assert isinstance(proof, bytes)
            assert list(channel.receive(proof)) == []
    return one, two


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(st.binary(max_size=100), max_size=10), st.lists(st.integers(0, 2_000)))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    framing = Framing(100)
    stream = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    out: list[bytes] = []
    for piece in in_pieces(stream, cuts):
        framing.feed(piece)
        while (frame := framing.next_frame()) is not None:
            out.append(frame)
    assert out == frames


@given(MESSAGES, st.lists(st.integers(0, 5_000)), st.sampled_from([SECRET, None]))
def test_messages_come_out_as_they_went_in(messages: list[Any], cuts: list[int], secret: bytes | None) -> None:
    one, two = open_pair(secret)
    stream = b"".join(one.encode(message) for message in messages)
    assert [item for piece in in_pieces(stream, cuts) for item in two.receive(piece)] == messages


@given(MESSAGES, st.data())
def test_whatever_is_changed_on_the_way_nothing_false_comes_out(messages: list[Any], data: st.DataObject) -> None:
    """A byte changed, left out or put in: what was sent before it arrives, and nothing after it.

    Red when the tag is not compared, or does not cover the sequence number.
    """
    one, two = open_pair()
    frames = [one.encode(message) for message in messages]
    stream = b"".join(frames)
    at = data.draw(st.integers(0, len(stream) - 1))
    match data.draw(st.sampled_from(["change", "leave out", "put in", "swap"])):
        case "change":
            bad = stream[:at] + bytes((stream[at] ^ data.draw(st.integers(1, 255)),)) + stream[at + 1 :]
        case "leave out":
            bad = stream[:at] + stream[at + 1 :]
        case "put in":
            bad = stream[:at] + data.draw(st.binary(min_size=1, max_size=5)) + stream[at:]
        case _:
            first = data.draw(st.integers(0, len(frames) - 1))
            second = data.draw(st.integers(0, len(frames) - 1))
            frames[first], frames[second] = frames[second], frames[first]
            bad = b"".join(frames)
    heard: list[Any] = []
    with suppress(FrameError):
        heard.extend(two.receive(bad))
    assert heard == messages[: len(heard)]


@given(st.lists(st.binary(max_size=200), max_size=5), st.sampled_from([SECRET, None]), st.booleans())
def test_noise_is_refused_or_waited_for_but_never_believed(
    pieces: list[bytes], secret: bytes | None, dialing: bool
) -> None:
    """Nothing but FrameError, whatever comes. Red when `_unpack` lets another error through."""
    channel = Channel("c", "n1", secret, b"2" * 32, dialing=dialing, expected=None)
    with suppress(FrameError):
        for piece in pieces:
            for frame in (piece, len(piece).to_bytes(4, "big") + piece):
                assert all(isinstance(item, bytes) for item in channel.receive(frame))
    assert not channel.open


@given(st.binary(max_size=60).filter(lambda tail: tail != b""))
def test_noise_on_a_proven_connection_is_refused(noise: bytes) -> None:
    _, two = open_pair()
    with pytest.raises(FrameError):
        list(two.receive(len(noise).to_bytes(4, "big") + noise))
