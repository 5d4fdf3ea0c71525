"""Commands and their bytes: what one version of the code has logged, the next must read."""

from __future__ import annotations

import msgpack
import pytest

from coordinator.ledger.commands import (
    COMMANDS_VERSION,
    Begin,
    Command,
    Decide,
    Diverge,
    DropNotice,
    End,
    Extend,
    Forget,
    Heard,
    Notified,
    Precommit,
    Progress,
    Return,
    decode,
    encode,
)
from coordinator.ledger.errors import CommandError
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Delivery,
    Mode,
    Notice,
    Path,
    Reporting,
    Retry,
    StepRecord,
    WorkflowRecord,
)

STEP = StepRecord(Mode.TCC, ("b1",), "confirm", "cancel", (("room", "b1"),), Retry(3, 100, 10_000))
STEPS = Begin(
    gid="t1",
    digest=b"\x01\x02",
    path=Path.STEPS,
    branches=(BranchRecord("b2", "bank-a", "try", b"\x80", step=STEP),),
    deadline_ms=10_000,
    at_ms=5,
    trace="00-1-2-01",
)
DELAY = StepRecord(Mode.FORWARD, (), None, None, (), Retry(1, 2, 3), not_before_ms=500)
DELAYED = Begin("t1", b"", Path.STEPS, (BranchRecord("b3", "bank-a", "say", b"", step=DELAY),), 1, 2)
WORKFLOW = Begin("t1", b"\x01", Path.STEPS, (), 10_000, 5, workflow=WorkflowRecord("book", b"\x80"))
LONG = StepRecord(
    Mode.SAGA, (), None, "undo", (), Retry(1, 2, 3, jitter_percent=0), reporting=Reporting("token", "secret")
)
IN_LINE = StepRecord(Mode.FORWARD, (), None, None, (), Retry(1, 2, 3), delivery=Delivery("k", 4, 5))
SENT = Begin("t1", b"", Path.STEPS, (BranchRecord("b5", "bank-a", "say", b"", step=IN_LINE),), 1, 2)
REPORTED = Begin("t1", b"", Path.STEPS, (BranchRecord("b4", "bank-a", "begin", b"", step=LONG),), 1, 2)
BEGIN = Begin(
    gid="t1",
    digest=b"\x01\x02",
    path=Path.CLASSIC,
    branches=(BranchRecord("b1", "bank-a", "debit", b"\x07"), BranchRecord("b2", "bank-b", None, b"", works=3)),
    deadline_ms=10_000,
    at_ms=1_700_000_000_000,
)

# Logs hold these bytes. They change under a new version only.
GOLDEN: list[tuple[Command, str]] = [
    (
        BEGIN,
        (
            "980201a27431c4020102a7636c61737369639295a26231a662616e6b2d61a56465626974c40107c095a26232a662616e6b2d62"
            "c0c40003cd2710cf0000018bcfe56800"
        ),
    ),
    (
        Begin("t2", b"", Path.STAGED, (), 1, 2, trace="00-ab"),
        "990201a27432c400a6737461676564900102a530302d6162",
    ),
    (
        Begin("t2", b"", Path.STAGED, (), 1, 2, key="order-7"),
        "9a0201a27432c400a6737461676564900102a0a76f726465722d37",
    ),
    (
        Begin("t2", b"", Path.STAGED, (), 1, 2, notify="http://a"),
        "9b0201a27432c400a6737461676564900102a0a0a8687474703a2f2f61",
    ),
    (Notified("t1", Notice.ENDED), "940207a27431a5656e646564"),
    (Decide("t1", Decision.COMMIT, "votes", 5, done=("b2",)), "990202a27431a6636f6d6d6974a5766f74657305a0c091a26232"),
    (
        Decide("t1", Decision.ABORT, "operator ann", 6, reason="no", culprit="b1"),
        "990202a27431a561626f7274ac6f70657261746f7220616e6e06a26e6fa2623190",
    ),
    (End("t1", ("b1", "b2")), "940203a2743192a26231a26232"),
    (Forget(("t1", "t2")), "93020492a27431a27432"),
    (Precommit("t1"), "93020ca27431"),
    (DropNotice("t1", "ann"), "94020da27431a3616e6e"),
    (
        Begin("t3", b"", Path.UNSAFE_COMMIT_ON_SILENCE, (), 1, 2),
        ("980201a27433c400d92474687265652d70686173652d756e736166652d636f6d6d69742d6f6e2d73696c656e6365900102"),
    ),
    (
        STEPS,
        (
            "980205a27431c40201029196a26232a662616e6b2d61a3747279c40180c096a374636391a26231a7636f6e6669726da66361"
            "6e63656c9192a4726f6f6da26231930364cd2710cd271005a930302d312d322d3031"
        ),
    ),
    (
        DELAYED,
        "970205a27431c4009196a26233a662616e6b2d61a3736179c400c097a7666f727761726490c0c09093010203cd01f40102",
    ),
    (
        REPORTED,
        (
            "970205a27431c4009196a26234a662616e6b2d61a5626567696ec400c098a47361676190c0a4756e646f9094010203000092"
            "a5746f6b656ea67365637265740102"
        ),
    ),
    (
        SENT,
        ("970205a27431c4009196a26235a662616e6b2d61a3736179c400c099a7666f727761726490c0c0909301020300c093a16b04050102"),
    ),
    (Progress("t1", "b5", 2, Heard.SET_ASIDE, b"\xa1x"), "970206a27431a2623502a9736574206173696465c402a178"),
    (Progress("t1", "b5", 2, Heard.REDELIVERED, b"\xa1x"), "970206a27431a2623502ab726564656c697665726564c402a178"),
    (Progress("t1", "b5", 2, Heard.DROPPED, b"\xa1x"), "970206a27431a2623502a764726f70706564c402a178"),
    (Progress("t1", "b4", 1, Heard.BEGUN), "970206a27431a2623401a5626567756ec400"),
    (Progress("t1", "b4", 1, Heard.REPORTED, b"\x07"), "970206a27431a2623401a87265706f72746564c40107"),
    (Progress("t1", "b4", 1, Heard.DECLINED, b"\xa1x"), "970206a27431a2623401a86465636c696e6564c402a178"),
    (Progress("t1", "b2", 1, Heard.DONE, b"\x07"), "970206a27431a2623201a4646f6e65c40107"),
    (Progress("t1", "b2", 2, Heard.UNSETTLED), "970206a27431a2623202a9756e736574746c6564c400"),
    (Progress("t1", "s2", 1, Heard.GIVEN_UP, b"no"), "970206a27431a2733201a8676976656e207570c4026e6f"),
    (WORKFLOW, "980208a27431c40101a4626f6f6bc40180cd271005"),
    (WORKFLOW._replace(trace="00-ab", key="k"), "9a0208a27431c40101a4626f6f6bc40180cd271005a530302d6162a16b"),
    (
        WORKFLOW._replace(key="k", notify="http://a"),
        "9b0208a27431c40101a4626f6f6bc40180cd271005a0a16ba8687474703a2f2f61",
    ),
    (
        Extend("t1", 1, b"\x01", DELAYED.branches[0], 7),
        "970209a2743101c4010196a26233a662616e6b2d61a3736179c400c097a7666f727761726490c0c09093010203cd01f407",
    ),
    (Return("t1", 2, b"\x07", 8, ("s1",)), "97020aa2743102c401070891a27331"),
    (Diverge("t1", "other"), "94020ba27431a56f74686572"),
]


@pytest.mark.parametrize(("command", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_the_bytes_of_version_2_never_change(command: Command, golden: str) -> None:
    """Red as soon as a field is added, moved or renamed without a new COMMANDS_VERSION."""
    assert encode(command).hex() == golden
    assert decode(bytes.fromhex(golden)) == command
    assert COMMANDS_VERSION == 2


def bad(*array: object) -> bytes:
    packed: bytes = msgpack.packb(array)
    return packed


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x93\x01", "not msgpack"),
        (encode(BEGIN) + b"\x00", "not msgpack"),
        (msgpack.packb("begin"), "an array of at least"),
        (msgpack.packb({1: 2}, strict_types=True), "not msgpack"),
        (bad(1), "an array of at least"),
        (bad(1, 4, ("t1",)), "version 1; this replica reads version 2"),
        (bad(2, 99, ("t1",)), "the tag 99"),
        (bad(2, True, ("t1",)), "the tag True"),
        (bad(2, [1], ("t1",)), "the tag"),
        (bad(2, 4), "FORGET has 0 fields instead of 1"),
        (bad(2, 4, ("t1",), 1), "FORGET has 2 fields instead of 1"),
        (bad(2, 4, "t1"), "FORGET holds str in field 0 instead of tuple"),
        (bad(2, 4, (b"t1",)), "a list of names holds bytes"),
        (bad(2, 3, 1, ("b1",)), "END holds int in field 0 instead of str"),
        (bad(2, 2, "t1", "maybe", "votes", 5, "", None, ()), "'maybe' is not a decision"),
        (bad(2, 2, "t1", "commit", "votes", True, "", None, ()), "DECIDE holds bool in field 3 instead of int"),
        (bad(2, 2, "t1", "commit", "votes", 5, "", 1, ()), "instead of str or NoneType"),
        (bad(2, 1, "t1", b"", "scenic", (), 1, 1), "'scenic' is not a path"),
        (bad(2, 1, "t1", b"", "classic", (), 1), "BEGIN has 5 fields instead of 6"),
        (bad(2, 1, "t1", b"", "classic", (), 1, 1, b"00"), "BEGIN holds bytes in field 6 instead of str"),
        (bad(2, 1, "t1", b"", "classic", (), 1, 1, "00", 1), "BEGIN holds int in field 7 instead of str"),
        (bad(2, 1, "t1", b"", "classic", (), 1, 1, "", "", "", ""), "fields instead of 6"),
        (bad(2, 7, "t1", ""), "'' is not a notice"),
        (bad(2, 1, "t1", b"", "classic", ("b1",), 1, 1), "a branch is an array, not str"),
        (bad(2, 1, "t1", b"", "classic", (("b1",),), 1, 1), "branch has 1 fields instead of 5"),
        (bad(2, 1, "t1", b"", "classic", (("b1", "p", None, "text", None),), 1, 1), "branch holds str in field 3"),
        (bad(2, 1, "t1", b"", "classic", (("b1", "p", None, b"", True),), 1, 1), "branch holds bool in field 4"),
    ],
)
def test_bytes_that_are_no_command_are_named(data: bytes, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        decode(data)


@pytest.mark.parametrize(
    "command",
    [Forget(("\ud800",)), End("t", ("\ud800",)), Decide("t", Decision.ABORT, "votes", 2**64)],
)
def test_a_value_without_bytes_is_refused_before_it_is_proposed(command: Command) -> None:
    with pytest.raises(CommandError, match=f"{type(command).__name__} cannot be encoded"):
        encode(command)


def test_the_proposer_stamps_what_carries_a_time() -> None:
    """Red when a command that waited for its proposal keeps the time 0."""
    decision = decode(encode(Decide("t1", Decision.COMMIT, "votes", 0), 7))
    begin = decode(encode(BEGIN._replace(at_ms=0), 8))
    assert isinstance(decision, Decide)
    assert isinstance(begin, Begin)
    assert (decision.at_ms, begin.at_ms) == (7, 8)
    for timeless in (End("t1", ("b1",)), Forget(("t1",))):
        assert encode(timeless, 7) == encode(timeless)
