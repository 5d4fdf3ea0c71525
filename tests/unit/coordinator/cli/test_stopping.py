"""Work without an event loop is stopped as Ctrl-C stops it."""

from __future__ import annotations

import os
import signal

import pytest

from coordinator.cli.stopping import stoppable


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_the_work_and_nothing_afterwards(number: signal.Signals) -> None:
    """Goal: what is open inside is closed, and the handlers are those from before."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        _work(number)
    assert signal.getsignal(number) is before


def _work(interrupted_by: signal.Signals) -> None:
    with stoppable():
        os.kill(os.getpid(), interrupted_by)
        signal.pause()
