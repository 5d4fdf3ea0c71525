"""In process, a participant is called as it is."""

from __future__ import annotations

import pytest

from coordinator.participants.local import LocalParticipants
from coordinator.ports import CallFailed
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Operation, Verb
from tests.support.participants import Clerk

PREPARE = Operation(Verb.PREPARE, BranchKey("g", "b1"), "do", 1)


async def test_a_known_name_is_called_and_an_unknown_one_fails() -> None:
    clerk = Clerk("bank-a")
    participants = LocalParticipants({"bank-a": clerk})
    assert participants.known("bank-a")
    assert (await participants.capabilities("bank-a")).name == "bank-a"
    assert await participants.call("bank-a", PREPARE) == Answer(BranchState.PREPARED)
    assert not participants.known("nobody")
    for asked in (participants.call("nobody", PREPARE), participants.capabilities("nobody")):
        with pytest.raises(CallFailed):
            await asked


async def test_an_object_put_in_anothers_place_is_the_one_that_is_called() -> None:
    """Goal: a test or the simulator restarts a participant without the coordinator's knowledge."""
    objects = {"bank-a": Clerk("bank-a")}
    participants = LocalParticipants(objects)
    objects["bank-a"] = Clerk("bank-a")
    await participants.call("bank-a", PREPARE)
    assert objects["bank-a"].states
