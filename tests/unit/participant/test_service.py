"""The service: limits, and that whatever a branch's row must know is asked there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from participant.errors import BranchConflict, ConfigError, WireError
from participant.ids import BranchKey
from participant.resource import ResourceLimits
from participant.rm.memory import Memory, Transaction
from participant.service import ParticipantService, ServiceLimits
from participant.wire import Answer, BranchState, Operation, Verb

KEY = BranchKey("g", "b")
LIMITS = ServiceLimits(body_bytes_max=100, operations_max=4, in_flight_max=2)


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body["key"], body.get("value", 1))


def prepare(gid: str, body: Any = None, action: str = "put") -> Operation:
    return Operation(Verb.PREPARE, BranchKey(gid, "b"), action, body or {"key": gid})


async def all_of(service: ParticipantService, operations: Sequence[Operation | WireError]) -> list[Answer]:
    """The answers to an array, in its order; each operation is answered once."""
    pairs = [pair async for answered in service.perform_all(operations) for pair in answered]
    assert sorted(index for index, _ in pairs) == list(range(len(operations)))
    return [answer for _, answer in sorted(pairs, key=lambda pair: pair[0])]


@pytest.fixture
async def service() -> AsyncIterator[ParticipantService]:
    resource = Memory(SimDisk(), limits=ResourceLimits(lock_wait_s=30, branches_max=3))
    await resource.open()
    yield ParticipantService("shop", resource, {"put": put}, LIMITS)
    await resource.close()


async def test_every_verb_reaches_the_branch(service: ParticipantService) -> None:
    work = Operation(Verb.WORK, KEY, "put", {"key": "x"})
    assert (await service.perform(work)).state is BranchState.WORKING
    for verb, state in [
        (Verb.OUTCOME, BranchState.WORKING),
        (Verb.PREPARE, BranchState.PREPARED),
        (Verb.PREVENT, BranchState.PREPARED),
        (Verb.COMMIT, BranchState.COMMITTED),
        (Verb.ABORT, BranchState.COMMITTED),
    ]:
        assert (await service.perform(Operation(verb, KEY))).state is state
    one = Operation(Verb.COMMIT, BranchKey("g2", "b"), "put", {"key": "y"}, one_phase=True)
    assert (await service.perform(one)).state is BranchState.COMMITTED


async def test_an_unknown_action_is_a_durable_no(service: ParticipantService) -> None:
    """A no, not an error: an error would be unknown to the coordinator, which would ask until its deadline."""
    answer = await service.perform(prepare("g", action="steal"))
    assert answer == Answer(BranchState.ABORTED, "shop has no action 'steal'; it has put")
    assert (await service.perform(prepare("g"))).state is BranchState.ABORTED


async def test_an_action_that_was_taken_away_does_not_undo_a_yes(service: ParticipantService) -> None:
    """Red if the service says no by itself, instead of asking the branch's row through `prevent`."""
    await service.perform(prepare("g"))
    answer = await service.perform(prepare("g", action="steal"))
    assert answer.state is BranchState.PREPARED


async def test_a_body_that_is_too_large_is_a_durable_no(service: ParticipantService) -> None:
    answer = await service.perform(prepare("g", {"key": "x" * 200}))
    assert answer.state is BranchState.ABORTED
    assert "takes at most 100" in answer.reason


async def test_a_body_that_is_no_value_is_an_error(service: ParticipantService) -> None:
    with pytest.raises(WireError, match="64 bits"):
        await service.perform(prepare("g", {"key": 2**70}))


async def test_one_bad_operation_never_fails_the_others(service: ParticipantService) -> None:
    await service.perform(prepare("bound"))
    operations = [prepare("a"), WireError("operations[1].verb", "no such verb"), prepare("bound", {"key": "z"})]
    answers = await all_of(service, operations)
    assert [answer.state for answer in answers] == [BranchState.PREPARED, BranchState.UNKNOWN, BranchState.UNKNOWN]
    assert "no such verb" in answers[1].reason
    assert "bound to another" in answers[2].reason
    with pytest.raises(BranchConflict):
        await service.perform(prepare("bound", {"key": "z"}))


async def test_an_array_has_a_limit(service: ParticipantService) -> None:
    with pytest.raises(WireError, match="at most 4, not 5"):
        service.read_array([Operation(Verb.OUTCOME, KEY).to_map()] * 5)


async def test_past_its_limit_of_requests_it_asks_to_come_again(service: ParticipantService) -> None:
    await service.perform(prepare("holder", {"key": "x"}))
    waiting = [asyncio.ensure_future(service.perform(prepare(f"w{i}", {"key": "x"}))) for i in range(2)]
    await asyncio.sleep(0)
    refused = await service.perform(Operation(Verb.OUTCOME, KEY))
    assert refused.retry
    assert refused.state is BranchState.UNKNOWN
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not (await service.perform(Operation(Verb.OUTCOME, KEY))).retry, "whoever leaves makes room"


async def test_a_decision_is_never_turned_away(service: ParticipantService) -> None:
    """It frees the rows that those in flight wait for. Seen red: under load it stood outside until they gave up."""
    await service.perform(prepare("holder", {"key": "x"}))
    waiting = [asyncio.ensure_future(service.perform(prepare(f"w{i}", {"key": "x"}))) for i in range(2)]
    await asyncio.sleep(0)
    committed = await service.perform(Operation(Verb.COMMIT, BranchKey("holder", "b")))
    assert committed == Answer(BranchState.COMMITTED)
    assert (await waiting[0]).state is BranchState.READ_ONLY
    await asyncio.gather(*waiting)


async def test_past_its_limit_of_branches_it_asks_new_ones_to_come_again(service: ParticipantService) -> None:
    for gid in ("a", "b", "c"):
        assert (await service.perform(prepare(gid))).state is BranchState.PREPARED
    refused = await service.perform(prepare("d"))
    assert (refused.state, refused.retry) == (BranchState.UNKNOWN, True)
    assert (await service.perform(prepare("a"))).state is BranchState.PREPARED, "a repeat is not a new one"
    await service.perform(Operation(Verb.COMMIT, BranchKey("a", "b")))
    assert (await service.perform(prepare("d"))).state is BranchState.PREPARED


async def test_capabilities_name_the_actions_and_the_limits(service: ParticipantService) -> None:
    capabilities = service.capabilities()
    assert (capabilities.name, capabilities.actions) == ("shop", ("put",))
    assert (capabilities.operations_max, capabilities.body_bytes_max) == (4, 100)


@pytest.mark.parametrize("name", ["body_bytes_max", "operations_max", "in_flight_max"])
def test_a_limit_of_nothing_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ServiceLimits(**{name: 0})
