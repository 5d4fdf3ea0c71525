"""Capabilities documents are read once for all; nobody waits for an old one, or for a participant that is gone."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.participants.documents import CAPABILITIES_RETRY_S, CAPABILITIES_TIMEOUT_S, Documents
from coordinator.ports import CallFailed
from participant.wire import Capabilities
from tests.support.virtual import virtually

REFRESH_S = 30.0


class Participant:
    """Gives its documents in turn: an exception is one that cannot be read; an event has to be set first."""

    def __init__(self, *documents: Capabilities | Exception) -> None:
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._documents = list(documents)
        self.known = Documents(self._read, REFRESH_S)

    async def _read(self, name: str) -> Capabilities:
        self.reads += 1
        await self.gate.wait()
        document = self._documents.pop(0) if len(self._documents) > 1 else self._documents[0]
        if isinstance(document, Exception):
            raise document
        return document

    async def is_gone(self) -> bool:
        """Whether we are told so at once."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(CallFailed):
            await self.known.current("bank-a")
        return loop.time() == began


NEW, OLD = Capabilities("bank-a"), Capabilities("bank-a", arrays=False)


def test_many_who_want_it_read_it_once_and_then_it_is_kept() -> None:
    async def scene() -> None:
        bank = Participant(NEW)
        assert await asyncio.gather(*(bank.known.current("bank-a") for _ in range(10))) == [NEW] * 10
        await asyncio.sleep(REFRESH_S / 2)
        assert await bank.known.current("bank-a") == NEW
        assert bank.reads == 1

    virtually(scene())


def test_an_old_one_serves_until_a_new_one_is_there() -> None:
    """Goal: no transaction waits for a document that is merely old."""

    async def scene() -> None:
        bank = Participant(OLD, NEW)
        await bank.known.current("bank-a")
        await asyncio.sleep(REFRESH_S)
        bank.gate.clear()
        assert await bank.known.current("bank-a") == OLD
        assert bank.known.last("bank-a") == OLD
        bank.gate.set()
        await asyncio.sleep(0.001)
        assert bank.known.last("bank-a") == NEW
        assert bank.reads == 2

    virtually(scene())


def test_a_participant_that_is_gone_is_waited_for_once() -> None:
    """Seen red without the memory of a failure: each transaction waited for a reading of its own."""

    async def scene() -> None:
        bank = Participant(CallFailed("gone"), NEW)
        assert await bank.is_gone()
        for _ in range(10):
            assert await bank.is_gone()
        assert bank.reads == 1
        await asyncio.sleep(CAPABILITIES_RETRY_S)
        assert await bank.known.current("bank-a") == NEW

    virtually(scene())


def test_while_one_finds_out_the_others_are_told_what_is_known() -> None:
    """Goal: a participant that swallows packets costs one transaction its time, not all that come meanwhile."""

    async def scene() -> None:
        bank = Participant(CallFailed("gone"), NEW)
        await bank.is_gone()
        await asyncio.sleep(CAPABILITIES_RETRY_S)
        bank.gate.clear()
        finder = asyncio.ensure_future(bank.known.current("bank-a"))
        await asyncio.sleep(0)
        assert await bank.is_gone()
        assert bank.known.last("bank-a") is None
        bank.gate.set()
        assert await finder == NEW

    virtually(scene())


def test_nobody_waits_long_for_the_first() -> None:
    async def scene() -> None:
        bank = Participant(NEW)
        bank.gate.clear()
        began = asyncio.get_running_loop().time()
        with pytest.raises(CallFailed, match="within 1 s"):
            await bank.known.current("bank-a")
        assert asyncio.get_running_loop().time() - began == pytest.approx(CAPABILITIES_TIMEOUT_S)
        assert await bank.is_gone()
        bank.gate.set()
        await asyncio.sleep(0.001)
        assert await bank.known.current("bank-a") == NEW, "it came late, and counts"
        assert bank.reads == 1

    virtually(scene())


def test_a_call_alone_gets_the_document_read_too() -> None:
    """Goal: a leader that took transactions over sends arrays before anybody begins a new one."""

    async def scene() -> None:
        bank = Participant(NEW)
        assert bank.known.last("bank-a") is None
        await asyncio.sleep(0.001)
        assert bank.known.last("bank-a") == NEW

    virtually(scene())


def test_one_in_doubt_is_read_again() -> None:
    async def scene() -> None:
        bank = Participant(NEW, OLD)
        await bank.known.current("bank-a")
        bank.known.doubt("bank-a")
        bank.known.last("bank-a")
        await asyncio.sleep(0.001)
        assert bank.known.last("bank-a") == OLD

    virtually(scene())


def test_the_end_leaves_no_reading_behind() -> None:
    async def scene() -> None:
        bank = Participant(NEW)
        bank.gate.clear()
        bank.known.last("bank-a")
        await asyncio.sleep(0)
        await bank.known.stop()
        assert len(asyncio.all_tasks()) == 1

    virtually(scene())
