"""The one-phase path, and a gid that an earlier leader began on another path."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.waiters import Known
from coordinator.ledger.records import Decision
from coordinator.wire import InquiryRequest
from participant.ids import BranchKey
from participant.wire import BranchState, Operation, Verb
from raftlog.port import Outcome
from tests.support.cluster import WAIT_S, cluster, request


async def test_a_branch_that_voted_for_an_earlier_leader_is_not_committed_past_its_own_inquiry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The vote and the inquiry bind the branch to the log, so a commit in one phase must not.

    An earlier leader could not read the capabilities, asked for a vote on the classic path, and died before its
    Begin was durable. The participant asks how it ended while the client posts again, in one phase now. Red when a
    PREPARED branch obeys a commit in one phase: the client hears *aborted*, and the bank has committed.
    """
    async with cluster() as made:
        leader, bank = made.replicas["n1"], made.clerks["bank-a"]
        await bank.perform(Operation(Verb.PREPARE, BranchKey("g", "b1"), "do", 1))
        bank.one_phase = True  # and now its capabilities can be read
        barrier = leader.log.barrier
        begun: list[asyncio.Task[Known]] = []

        async def then_begin() -> Outcome:
            """The inquiry has found no record, and its abort reaches the log just before the Begin."""
            outcome = await barrier()
            begun.append(asyncio.ensure_future(leader.transactions.begin(request("bank-a", gid="g"), WAIT_S)))
            return outcome

        monkeypatch.setattr(leader.log, "barrier", then_begin)
        told = await leader.transactions.inquire("g", InquiryRequest(participant="bank-a", branch="b1"))
        known = await begun[0]
        assert told is not None
        assert told.decision is known.decision is Decision.ABORT
        await asyncio.wait_for(bank.arrived(Verb.ABORT), WAIT_S)
        assert bank.asked[Verb.COMMIT] == 1, "it was asked to commit in one phase"
        assert bank.states == {BranchKey("g", "b1"): BranchState.ABORTED}
