"""Notices in the ledger: a transaction is finished when its application has heard of the end, and not before."""

from __future__ import annotations

import pytest

from coordinator.ledger.commands import BY_VOTES, Begin, Decide, DropNotice, End, Forget, Notified
from coordinator.ledger.records import BranchRecord, Decision, Notice, Path, Phase, TransactionRecord
from coordinator.ledger.table import Accepted, Ledger, Rejected
from coordinator.ledger.transitions import Why
from coordinator.ledger.untold import host_of

BRANCH = BranchRecord("a", "bank-a", "debit", b"")
BEGIN = Begin("t", b"d", Path.CLASSIC, (BRANCH,), 1_000, 1, notify="http://a")
COMMIT = Decide("t", Decision.COMMIT, BY_VOTES, 2)
END = End("t", ("a",))


DROP = DropNotice("t", "dropped by ann: it is gone")


def after(*commands: Begin | Decide | DropNotice | End | Notified) -> Ledger:
    ledger = Ledger()
    for command in commands:
        assert isinstance(ledger.execute(command), Accepted)
    return ledger


def record(ledger: Ledger) -> TransactionRecord:
    found = ledger.get("t")
    assert found is not None
    return found


def test_it_is_open_until_the_application_has_heard_of_the_end() -> None:
    """Whoever leads takes it up; nobody forgets it. Red when `finished` looks at the branches alone."""
    ledger = after(BEGIN, COMMIT, Notified("t", Notice.DECIDED), END)
    assert (record(ledger).phase, record(ledger).notified) == (Phase.COMMITTED, Notice.DECIDED)
    assert [each.gid for each in ledger.unfinished()] == ["t"]
    assert (len(ledger.untold), ledger.finished_before(9, limit=9)) == (1, ())
    ledger.execute(Forget(("t",)))
    assert record(ledger).notify == "http://a"
    ledger.execute(Notified("t", Notice.ENDED))
    assert (ledger.unfinished(), len(ledger.untold), ledger.finished_before(9, limit=9)) == ((), 0, ("t",))
    ledger.execute(Forget(("t",)))
    assert ledger.get("t") is None


def test_repeats_and_what_comes_late_change_nothing() -> None:
    ledger = after(BEGIN, COMMIT, END, Notified("t", Notice.ENDED))
    revision = ledger.revision
    for notice in (Notice.ENDED, Notice.DECIDED):
        assert ledger.execute(Notified("t", notice)) == Accepted(record(ledger))
    assert (ledger.revision, record(ledger).notified) == (revision, Notice.ENDED)


@pytest.mark.parametrize(
    ("commands", "command", "why"),
    [
        ((), Notified("t", Notice.DECIDED), Why.UNKNOWN_GID),
        ((BEGIN,), Notified("t", Notice.DECIDED), Why.UNDECIDED),
        ((BEGIN, COMMIT), Notified("t", Notice.ENDED), Why.NO_NOTICE),
        ((BEGIN._replace(notify=""), COMMIT), Notified("t", Notice.DECIDED), Why.NO_NOTICE),
        ((), DROP, Why.UNKNOWN_GID),
        ((BEGIN,), DROP, Why.UNDECIDED),
        ((BEGIN._replace(notify=""), COMMIT), DROP, Why.NO_NOTICE),
        ((BEGIN, COMMIT, END, Notified("t", Notice.ENDED)), DROP, Why.NO_NOTICE),
    ],
)
def test_what_is_not_so_is_rejected(
    commands: tuple[Begin | Decide, ...], command: Notified | DropNotice, why: Why
) -> None:
    result = after(*commands).execute(command)
    assert isinstance(result, Rejected)
    assert result.reason is why


def test_what_is_owed_comes_back_with_the_snapshot() -> None:
    ledger, other = after(BEGIN, COMMIT, END), Ledger()
    other.restore(ledger.snapshot())
    assert (len(other.untold), other.unfinished()) == (1, ledger.unfinished())
    assert other.execute(Notified("t", Notice.ENDED)) == ledger.execute(Notified("t", Notice.ENDED))
    assert (len(other.untold), other.finished_before(9, limit=9)) == (0, ("t",))


def test_what_an_operator_gives_up_is_owed_no_more() -> None:
    """Goal: it is finished, takes no room, and may be forgotten; who and why stand in the record. The first word
    counts, and what is taken after all changes nothing any more."""
    ledger = after(BEGIN, COMMIT, Notified("t", Notice.DECIDED), END)
    assert ledger.execute(DROP) == Accepted(record(ledger))
    assert (record(ledger).notify, record(ledger).notified) == ("http://a", Notice.DECIDED)
    revision = ledger.revision
    for late in (DROP, DROP._replace(word="dropped by bob: x"), Notified("t", Notice.ENDED)):
        assert ledger.execute(late) == Accepted(record(ledger))
    assert (ledger.revision, record(ledger).notice_dropped) == (revision, DROP.word)
    assert (ledger.unfinished(), len(ledger.untold), ledger.finished_before(9, limit=9)) == ((), 0, ("t",))
    other = Ledger()
    other.restore(ledger.snapshot())
    assert (record(other), len(other.untold)) == (record(ledger), 0)
    assert other.execute(Forget(("t",))) == Accepted(None)


def test_what_is_given_up_before_the_end_is_not_told_at_the_end_either() -> None:
    ledger = after(BEGIN, COMMIT, DROP)
    assert (record(ledger).notice_owed, len(ledger.unfinished())) == (Notice.NONE, 1)
    ledger.execute(END)
    assert (record(ledger).notice_owed, ledger.unfinished(), len(ledger.untold)) == (Notice.NONE, (), 0)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a", "a"),
        ("https://A:81/b://c", "a:81"),
        ("http://a?b/c", "a"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://[", "["),
        ("a", ""),
    ],
)
def test_any_text_has_a_host(url: str, host: str) -> None:
    """Goal: no command makes a replica raise. Seen red with `urlsplit`, which refuses some."""
    assert host_of(url) == host


def test_untold_transactions_are_counted_for_each_host() -> None:
    ledger = Ledger()
    for gid, url in (("a1", "http://a/x"), ("a2", "http://A/y?z"), ("b", "http://b:81/"), ("n", "")):
        for command in (BEGIN._replace(gid=gid, notify=url), COMMIT._replace(gid=gid), END._replace(gid=gid)):
            ledger.execute(command)
    urls = ("http://a/", "http://b:81/x", "http://b/")
    assert (len(ledger.untold), [ledger.untold.at(url) for url in urls]) == (3, [2, 1, 0])
    ledger.execute(Notified("b", Notice.ENDED))
    ledger.execute(DROP._replace(gid="a1"))
    assert (len(ledger.untold), [ledger.untold.at(url) for url in urls]) == (1, [1, 0, 0])
