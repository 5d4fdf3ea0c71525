"""What a transaction costs in proposals, entries and calls: counts, which no noisy machine can change.

In virtual time, where nothing takes long but what waits on purpose: a sequential caller's next transaction begins in
the moment that it hears of the last one.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from coordinator.driver.replica import Tunables
from coordinator.ledger.records import Mode
from coordinator.wire import BranchRequest
from coordinator.wire_steps import StepRequest
from coordinator.wire_workflows import RunEndRequest, StepAsk, WorkflowRequest
from participant.wire import Verb
from tests.support.cluster import cluster, request
from tests.support.desk import Desk
from tests.support.virtual import virtually

BOTH = ("bank-a", "bank-b")
COUNT = 20


async def costs(
    names: tuple[str, ...], *, prevent: bool = True, one_phase: bool = False, at_once: bool = False
) -> Counter[str]:
    """Of COUNT transactions, sequential or all at once, until nothing is owed any more: divided by COUNT."""
    async with cluster(prevent=prevent, tunables=Tunables()) as made:
        for clerk in made.clerks.values():
            clerk.one_phase = one_phase
        leader = made.replicas["n1"]
        before = Counter(leader.log.status().counters)
        begins = [leader.transactions.begin(request(*names, gid=f"g{number}"), 5.0) for number in range(COUNT)]
        if at_once:
            await asyncio.gather(*begins)
        else:
            for begin in begins:
                await begin
        await asyncio.sleep(1.0)
        assert not leader.supervisor.open
        counted = Counter(leader.log.status().counters)
        counted.subtract(before)
        for clerk in made.clerks.values():
            counted.update({verb.value: asked for verb, asked in clerk.asked.items()})
        return counted


def test_a_staged_transaction_proposes_three_commands_and_calls_each_branch_twice() -> None:
    """Red when a step proposes or calls what is under way already."""
    counted = virtually(costs(BOTH))
    assert (counted["commands"], counted[Verb.PREPARE], counted[Verb.COMMIT]) == (3 * COUNT, 2 * COUNT, 2 * COUNT)
    assert counted[Verb.PREVENT] == counted[Verb.OUTCOME] == counted[Verb.ABORT] == 0


def test_a_sequential_caller_pays_one_entry_for_each_staged_transaction() -> None:
    """Its decision and its end ride along with the begins of later ones. Red when the decision does not wait for
    company (two entries each), and when the end does not (three)."""
    counted = virtually(costs(BOTH))
    assert COUNT <= counted["entries"] <= COUNT + 3


def test_a_classic_transaction_needs_an_entry_more() -> None:
    counted = virtually(costs(BOTH, prevent=False))
    assert 2 * COUNT <= counted["entries"] <= 2 * COUNT + 2


@pytest.mark.parametrize("names", [("bank-a",)])
def test_a_single_branch_is_called_once(names: tuple[str, ...]) -> None:
    """And owes no end: two commands. Red when a vote is asked for."""
    counted = virtually(costs(names, one_phase=True))
    assert (counted["commands"], counted[Verb.PREPARE], counted[Verb.COMMIT]) == (2 * COUNT, 0, COUNT)
    assert COUNT <= counted["entries"] <= COUNT + 2


def test_transactions_that_come_together_share_their_entries() -> None:
    """Red when each is proposed by itself."""
    counted = virtually(costs(BOTH, at_once=True))
    assert counted["commands"] == 3 * COUNT
    assert counted["entries"] <= 4


async def costs_of_a_workflow(steps: int) -> Counter[str]:
    """With a code that asks for one step after the other, until nothing is owed any more."""
    async with cluster(tunables=Tunables()) as made:
        desk = made.clerks["desk"] = Desk("desk")  # type: ignore[assignment]
        leader = made.replicas["n1"]
        before = Counter(leader.log.status().counters)
        await leader.workflows.start(WorkflowRequest(gid="t", workflow="trip"))
        step = StepRequest(mode=Mode.SAGA, undo="undo")
        for number in range(1, steps + 1):
            call = BranchRequest(participant="desk", action="do", step=step)
            await leader.workflows.step("t", StepAsk(worker="w", number=number, call=call), 5.0)
        await leader.workflows.end("t", RunEndRequest(worker="w", steps=steps), 5.0)
        await asyncio.sleep(1.0)
        assert not leader.supervisor.open
        counted = Counter(leader.log.status().counters)
        counted.subtract(before)
        counted["calls"] = desk.calls
        return counted


def test_a_step_of_a_workflow_costs_two_entries_and_one_call() -> None:
    """Its question and its answer, for each of which the code waits; beside them, the beginning and the return."""
    counted = virtually(costs_of_a_workflow(3))
    assert (counted["commands"], counted["entries"], counted["calls"]) == (8, 8, 3)
