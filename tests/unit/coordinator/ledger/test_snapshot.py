"""Snapshots: canonical, cut anywhere, and never half-believed."""

from __future__ import annotations

import hashlib

import msgpack
import pytest

from coordinator.ledger import snapshot
from coordinator.ledger.commands import Begin, decode, encode
from coordinator.ledger.errors import SnapshotError
from coordinator.ledger.records import BranchRecord, Notice, Path, Phase, TransactionRecord, WorkflowRecord

FULL = TransactionRecord(
    gid="t1",
    digest=b"\x01",
    path=Path.STAGED,
    phase=Phase.ABORTING,
    branches=(
        BranchRecord("b1", "bank-a", "debit", b"body"),
        BranchRecord("b2", "bank-b", None, b"", ended=True, works=3),
    ),
    deadline_ms=10,
    begun_at_ms=1,
    decided_at_ms=2,
    decided_by="votes",
    reason="no money",
    culprit="b1",
    revision=7,
)
PLAIN = TransactionRecord("t0", b"", Path.CLASSIC, Phase.PREPARING, (), 0, 3)

# A replica may have to read what an older one has written.
GOLDEN = (
    "94ae636f6d6d6974642d6c6564676572020702"
    "9ca27430c400a7636c6173736963a9707265706172696e6790000300a0a0c000"
    "9ca27431c40101a6737461676564a861626f7274696e6792"
    "96a26231a662616e6b2d61a56465626974c404626f6479c2c0"
    "96a26232a662616e6b2d62c0c400c303"
    "0a0102a5766f746573a86e6f206d6f6e6579a2623107"
)


TRACED = TransactionRecord("t2", b"", Path.STAGED, Phase.PREPARING, (), 0, 3, trace="00-ab")


KEYED = TransactionRecord("t3", b"", Path.STAGED, Phase.PREPARING, (), 0, 3, key="order-7")


def whole(*records: TransactionRecord, revision: int = 7) -> bytes:
    return b"".join(snapshot.encode(revision, records))


def test_the_names_of_branches_are_the_same_objects_in_every_record() -> None:
    """Goal: they are few, and a hundred thousand records have no copies of their own. Seen red without `shared_names`,
    here and in `commands`."""
    begin = encode(Begin("t2", b"", Path.STAGED, FULL.branches, 10, 1))
    of_log, again = decode(begin), decode(begin)
    _, (of_snapshot,) = snapshot.decode([whole(FULL)])
    assert isinstance(of_log, Begin)
    assert isinstance(again, Begin)
    for others in (again.branches, of_snapshot.branches):
        for branch, other in zip(of_log.branches, others, strict=True):
            assert branch.branch is other.branch
            assert branch.participant is other.participant
            assert branch.action is other.action


def sealed(*values: object) -> bytes:
    """A snapshot with an honest digest and whatever inside."""
    content = b"".join(msgpack.packb(value) for value in values)
    return content + msgpack.packb(hashlib.sha256(content).digest())


def test_every_field_comes_back() -> None:
    assert snapshot.decode([whole(FULL, PLAIN)]) == (7, [PLAIN, FULL])


def test_a_trace_comes_back_and_costs_nothing_where_there_is_none() -> None:
    """Goal: what an older replica has written is read, and without traces it reads what we write."""
    assert snapshot.decode([whole(FULL, TRACED)]) == (7, [FULL, TRACED])
    longer = len(whole(TRACED)) - len(whole(TRACED._replace(trace="")))
    assert longer == len(msgpack.packb("00-ab"))


def test_a_key_comes_back_with_or_without_a_trace() -> None:
    both = KEYED._replace(gid="t4", trace="00-ab")
    assert snapshot.decode([whole(KEYED, both)]) == (7, [KEYED, both])


def test_whom_to_notify_and_what_it_has_heard_come_back() -> None:
    owed = KEYED._replace(key="", notify="http://a")
    told = owed._replace(gid="t4", notified=Notice.ENDED)
    run = owed._replace(gid="t5", workflow=WorkflowRecord("book", b""))
    dropped = owed._replace(gid="t6", notice_dropped="ann")
    _, records = snapshot.decode([whole(owed, told, run, dropped)])
    assert records == [owed, told, run, dropped]
    assert [type(record.notified) for record in records] == [Notice] * 4


def test_the_same_records_in_another_order_give_the_same_bytes() -> None:
    assert whole(FULL, PLAIN) == whole(PLAIN, FULL)


def test_the_bytes_of_version_2_never_change() -> None:
    content = bytes.fromhex(GOLDEN)
    assert whole(FULL, PLAIN) == content + b"\xc4\x20" + hashlib.sha256(content).digest()


def test_an_empty_ledger_has_a_snapshot_too() -> None:
    assert snapshot.decode([whole(revision=0)]) == (0, [])


def test_chunks_are_bounded_and_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 32)
    chunks = list(snapshot.encode(7, (FULL, PLAIN)))
    assert len(chunks) == 3
    assert b"".join(chunks) == whole(FULL, PLAIN)
    data = b"".join(chunks)
    assert snapshot.decode(data[i : i + 1] for i in range(len(data))) == (7, [PLAIN, FULL])


def test_encoding_waits_until_it_is_consumed() -> None:
    """So that capturing a large ledger costs the log's tick next to nothing."""
    records: list[TransactionRecord] = [PLAIN]
    chunks = snapshot.encode(0, records)
    records.append(FULL)
    assert snapshot.decode(chunks) == (0, [PLAIN, FULL])


def test_any_damaged_byte_is_found() -> None:
    data = whole(FULL, PLAIN)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        with pytest.raises(SnapshotError):
            snapshot.decode([bytes(damaged)])


def test_any_torn_end_is_found() -> None:
    data = whole(FULL, PLAIN)
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            snapshot.decode([data[:length]])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (sealed(), "expected 'commitd-ledger' version 2"),
        (sealed(("other", 1, 0, 0)), "is 'other' version 1"),
        (sealed(("commitd-ledger", 1, 0, 0)), "version 1; expected"),
        (sealed(("commitd-ledger", 2, 0, 2), ()), "holds 1 records instead of 2"),
        (sealed(("commitd-ledger", 2, 0, 1), ("t",)), "does not hold what it should"),
        (sealed(("commitd-ledger", 2, 0, 1), 5), "does not hold what it should"),
        (sealed(5), "does not hold what it should"),
        (sealed(("commitd-ledger", 2, 0, 1), ("t", b"", "scenic", "preparing", (), 0, 1)), "'scenic'"),
    ],
)
def test_an_intact_snapshot_of_something_else_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(SnapshotError, match=says):
        snapshot.decode([data])
