"""The one-phase path, and a gid that an earlier leader began on another path."""

from __future__ import annotations

import asyncio

from coordinator.ledger.records import Decision
from coordinator.wire import InquiryRequest
from participant.ids import BranchKey
from participant.wire import BranchState, Operation, Verb
from tests.support.cluster import cluster, request


async def test_a_branch_that_voted_for_an_earlier_leader_is_not_committed_past_its_own_inquiry() -> None:
    """The vote and the inquiry bind the branch to the log, so a commit in one phase must not.

    An earlier leader could not read the capabilities, asked for a vote on the classic path, and died before its
    Begin was durable. The participant asks how it ended while the client posts again, in one phase now. Red when a
    PREPARED branch obeys a commit in one phase: the client hears *aborted*, and the bank has committed.
    """
    async with cluster() as made:
        bank, transactions = made.clerks["bank-a"], made.replicas["n1"].transactions
        await bank.perform(Operation(Verb.PREPARE, BranchKey("g", "b1"), "do", 1))
        bank.one_phase = True
        inquiry = InquiryRequest(participant="bank-a", branch="b1")
        told, (_, record) = await asyncio.gather(
            transactions.inquire("g", inquiry), transactions.begin(request("bank-a", gid="g"), 2.0)
        )
        assert told.decision is record.decision is Decision.ABORT
        await asyncio.wait_for(bank.arrived(Verb.ABORT), 5.0)
        assert bank.states == {BranchKey("g", "b1"): BranchState.ABORTED}
