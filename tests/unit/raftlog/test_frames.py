"""The conversation between two replicas in bytes: who is believed, and what is thrown away."""

from __future__ import annotations

import msgpack
import pytest

from raftlog.errors import FrameError
from raftlog.frames import FRAME_BYTES_MAX, HELLO_BYTES_MAX, PROTOCOL_VERSION, Channel, Framing

SECRET = b"the secret of the cluster"
MESSAGE = {"type": "read_index", "id": 7}


def channel(
    name: str = "n2",
    *,
    dialing: bool = True,
    cluster: str = "c",
    secret: bytes | None = SECRET,
    expected: str | None = None,
    nonce: bytes | None = None,
) -> Channel:
    own = nonce or (name.encode() * 32)[:32]
    return Channel(cluster, name, secret, own, dialing=dialing, expected=expected)


def listener(name: str = "n1", **options: object) -> Channel:
    return channel(name, dialing=False, **options)  # type: ignore[arg-type]


def hear(receiver: Channel, data: bytes) -> tuple[bytes, list[dict[str, object]]]:
    """What it sends back, and the messages it got."""
    items = list(receiver.receive(data))
    reply = b"".join(item for item in items if isinstance(item, bytes))
    return reply, [item for item in items if isinstance(item, dict)]


def shake_hands(one: Channel, two: Channel) -> None:
    """The whole handshake. Raises FrameError where either side does."""
    proof_of_two = hear(two, one.greeting())[0]
    proof_of_one = hear(one, two.greeting())[0]
    assert hear(one, proof_of_two) == (b"", [])
    assert hear(two, proof_of_one) == (b"", [])


@pytest.fixture(params=[SECRET, None], ids=["secret", "tls"])
def pair(request: pytest.FixtureRequest) -> tuple[Channel, Channel]:
    one, two = channel(secret=request.param, expected="n1"), listener(secret=request.param)
    shake_hands(one, two)
    return one, two


def test_after_the_handshake_both_know_who_is_there(pair: tuple[Channel, Channel]) -> None:
    one, two = pair
    assert (one.open, one.peer) == (True, "n1")
    assert (two.open, two.peer) == (True, "n2")


def test_messages_arrive_in_both_directions(pair: tuple[Channel, Channel]) -> None:
    one, two = pair
    for number in range(3):
        assert hear(two, one.encode({"type": "x", "number": number})) == (b"", [{"type": "x", "number": number}])
        assert hear(one, two.encode({"type": "y", "number": number})) == (b"", [{"type": "y", "number": number}])


def test_everything_may_come_a_byte_at_a_time() -> None:
    one, two = channel(), listener()
    replies: dict[Channel, bytes] = {one: b"", two: b""}
    for receiver, data in ((two, one.greeting()), (one, two.greeting())):
        for at in range(len(data)):
            replies[receiver] += hear(receiver, data[at : at + 1])[0]
    for receiver, data in ((two, replies[one]), (one, replies[two])):
        for at in range(len(data)):
            hear(receiver, data[at : at + 1])
    assert one.open
    assert two.open
    encoded = one.encode(MESSAGE)
    heard = [hear(two, encoded[at : at + 1])[1] for at in range(len(encoded))]
    assert heard == [[]] * (len(encoded) - 1) + [[MESSAGE]]


def test_everything_may_come_at_once() -> None:
    """Red when `receive` handles one frame a call."""
    one, two = channel(), listener()
    proof_of_two = hear(two, one.greeting())[0]
    hear(one, two.greeting() + proof_of_two)
    proof_of_one = one._proof(dialing=True)
    framed = len(proof_of_one).to_bytes(4, "big") + proof_of_one
    assert hear(two, framed + one.encode(MESSAGE) + one.encode(MESSAGE)) == (b"", [MESSAGE, MESSAGE])


# Who is not believed ------------------------------------------------------------------------------------------------


def test_who_does_not_know_the_secret_is_not_believed() -> None:
    """By neither side. Red when `_take_proof` does not compare."""
    for one, two in [(channel(), listener(secret=b"another one")), (channel(secret=b"another one"), listener())]:
        proof_of_two = hear(two, one.greeting())[0]
        proof_of_one = hear(one, two.greeting())[0]
        for receiver, proof in ((one, proof_of_two), (two, proof_of_one)):
            with pytest.raises(FrameError, match="does not know the cluster's secret"):
                hear(receiver, proof)
            assert not receiver.open


def test_a_recorded_proof_proves_nothing_another_time() -> None:
    """The other side's nonce is in it. Red when the proof does not cover both hellos."""
    recorded = hear(channel(), listener().greeting())[0]
    again = listener(nonce=b"N" * 32)
    hear(again, channel().greeting())
    with pytest.raises(FrameError):
        hear(again, recorded)


def test_our_own_proof_sent_back_to_us_proves_nothing() -> None:
    """Red when the proof does not say which side gives it."""
    one = channel("n1", expected=None, nonce=b"A" * 32)
    mirrored = hear(one, one.greeting())[0]
    with pytest.raises(FrameError):
        hear(one, mirrored)


def test_a_message_before_the_proof_is_not_heard() -> None:
    """Red when a channel is open from the hello on."""
    for secret in (SECRET, None):
        two = listener(secret=secret)
        hear(two, channel(secret=secret).greeting())
        body = msgpack.packb(MESSAGE)
        with pytest.raises(FrameError):
            hear(two, len(body).to_bytes(4, "big") + body)
        assert not two.open


def test_who_answers_in_the_place_of_another_is_not_believed() -> None:
    """Red when `_take_hello` does not compare names."""
    with pytest.raises(FrameError, match="'n1' answered where 'n3' was dialled"):
        hear(channel(expected="n3"), listener().greeting())


def test_another_cluster_is_told_apart() -> None:
    with pytest.raises(FrameError, match="belongs to cluster 'd', we to 'c'"):
        hear(listener(), channel(cluster="d").greeting())


@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1, "1", None])
def test_another_protocol_version_is_told_apart(version: object) -> None:
    """Older and newer; the line says both, so that an operator sees which node to upgrade."""
    fields = msgpack.unpackb(channel().greeting()[4:])
    hello = msgpack.packb({**fields, "version": version})
    with pytest.raises(FrameError, match=f"speaks version {version!r}, we speak {PROTOCOL_VERSION}"):
        hear(listener(), len(hello).to_bytes(4, "big") + hello)


@pytest.mark.parametrize(
    "change",
    [{"protocol": "http"}, {"name": 7}, {"name": None}, {"nonce": b"short"}, {"nonce": "x" * 32}, {"nonce": None}],
    ids=str,
)
def test_a_hello_that_lacks_something_is_refused(change: dict[str, object]) -> None:
    hello = msgpack.packb({**msgpack.unpackb(channel().greeting()[4:]), **change})
    with pytest.raises(FrameError):
        hear(listener(), len(hello).to_bytes(4, "big") + hello)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01", b"\x01", b"\xc0", b"GET / HTTP/1.1\r\n\r\n"], ids=repr)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        hear(listener(), len(body).to_bytes(4, "big") + body)


def test_garbage_is_refused_at_its_first_four_bytes() -> None:
    with pytest.raises(FrameError, match=f"at most {HELLO_BYTES_MAX}"):
        hear(listener(), b"GET / HTTP/1.1\r\n\r\n")


# What is thrown away ------------------------------------------------------------------------------------------------


def open_pair() -> tuple[Channel, Channel]:
    one, two = channel(), listener()
    shake_hands(one, two)
    return one, two


def test_a_frame_that_was_tampered_with_is_refused_wherever_it_was() -> None:
    """Red when `_take_message` does not compare the tag."""
    frame = open_pair()[0].encode(MESSAGE)
    for at in range(4, len(frame)):
        _, two = open_pair()
        with pytest.raises(FrameError, match="not authentic"):
            hear(two, frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :])


def test_a_frame_that_is_repeated_or_left_out_is_refused() -> None:
    """Red when the tag does not cover the sequence number."""
    one, two = open_pair()
    first, second = one.encode(MESSAGE), one.encode(MESSAGE)
    hear(two, first)
    with pytest.raises(FrameError, match="not authentic"):
        hear(two, first)
    _, two = open_pair()
    with pytest.raises(FrameError, match="not authentic"):
        hear(two, second)


def test_a_frame_of_one_direction_is_refused_in_the_other() -> None:
    """Red when both directions share a key."""
    one, _ = open_pair()
    with pytest.raises(FrameError, match="not authentic"):
        hear(one, one.encode(MESSAGE))


def test_a_frame_of_another_connection_is_refused() -> None:
    frame = open_pair()[0].encode(MESSAGE)
    one, two = channel(nonce=b"B" * 32), listener()
    shake_hands(one, two)
    with pytest.raises(FrameError, match="not authentic"):
        hear(two, frame)


def test_a_frame_too_short_for_its_tag_is_refused() -> None:
    _, two = open_pair()
    with pytest.raises(FrameError, match="not authentic"):
        hear(two, b"\0\0\0\1x")


# Framing ------------------------------------------------------------------------------------------------------------


def test_a_frame_that_is_too_long_is_refused_before_it_arrives() -> None:
    """Red when `next_frame` waits for the whole."""
    framing = Framing(10)
    framing.feed(b"\0\0\0\x0a0123456789")
    assert framing.next_frame() == b"0123456789"
    framing.feed(b"\0\0\0\x0b")
    with pytest.raises(FrameError, match="a frame of 11 bytes where at most 10"):
        framing.next_frame()


def test_only_who_has_proven_itself_may_send_long_frames() -> None:
    """Red when the limit is that of messages from the beginning."""
    stranger = listener()
    with pytest.raises(FrameError):
        hear(stranger, (HELLO_BYTES_MAX + 1).to_bytes(4, "big"))
    one, two = open_pair()
    large = {"type": "x", "data": bytes(FRAME_BYTES_MAX - 100)}
    assert hear(two, one.encode(large))[1] == [large]
    with pytest.raises(FrameError):
        hear(two, (FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_nested_bomb_is_a_refusal() -> None:
    one, two = channel(secret=None), listener(secret=None)
    shake_hands(one, two)
    body = b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(FrameError):
        hear(two, len(body).to_bytes(4, "big") + body)
