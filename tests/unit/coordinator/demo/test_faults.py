"""Which faults strike, and when."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from coordinator.demo.faults import FaultKind, schedule

BANKS = ("bank-a", "bank-b")


@given(st.integers(0, 100_000), st.integers())
def test_every_fault_strikes_once_and_while_the_clients_work(transfers: int, seed: int) -> None:
    """Goal: three leaders killed, one paused, each bank killed once; each in its own stretch of the transfers.

    A fault that waited for more answers than the clients may work for would wait for ever. Seen red with `until` set
    to the begin of the stretch.
    """
    faults = schedule(transfers, BANKS, Random(seed))
    kinds = Counter((fault.kind, fault.bank) for fault in faults)
    assert kinds == {
        (FaultKind.KILL_LEADER, None): 3,
        (FaultKind.PAUSE_LEADER, None): 1,
        (FaultKind.KILL_BANK, "bank-a"): 1,
        (FaultKind.KILL_BANK, "bank-b"): 1,
    }
    done = 0
    for fault in faults:
        assert done <= fault.after <= fault.until
        done = fault.until
    assert done == transfers


@given(st.integers(0, 100_000), st.integers())
def test_every_database_server_is_killed_once(transfers: int, seed: int) -> None:
    """Goal: one more fault for each bank that has a server, in a stretch of its own; none for a file."""
    faults = schedule(transfers, BANKS, Random(seed), servers=["bank-b"])
    killed = [fault for fault in faults if fault.kind is FaultKind.KILL_DATABASE]
    assert [fault.bank for fault in killed] == ["bank-b"]
    assert len(faults) == len(schedule(transfers, BANKS, Random(seed))) + 1


def test_a_seed_draws_the_same_faults_again() -> None:
    """Goal: `--seed` repeats a run's faults."""
    assert schedule(2_000, BANKS, Random(7)) == schedule(2_000, BANKS, Random(7))
    assert schedule(2_000, BANKS, Random(7)) != schedule(2_000, BANKS, Random(8))
