"""Steps that take long: begun by their action, and reported through the SDK, the API and the driver."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.client import Aborted, Client, Committed, Retry, Saga
from coordinator.errors import Contradiction, Invalid, NotFound, WrongToken
from coordinator.ledger.records import TransactionRecord
from coordinator.wire_base import DEADLINE_MAX_MS
from participant.ids import BranchKey
from participant.wire import RESULT_BYTES_MAX, Verb
from tests.support.cluster import Cluster, recorded


def building(client: Client, deadline_ms: int = 24 * DEADLINE_MAX_MS) -> Saga:
    """A permit that takes hours, and a house."""
    saga = client.saga(deadline_ms=deadline_ms)
    permit = saga.step("bank-a", "apply", {"plot": 7}, undo="withdraw", name="permit", reported="ticket")
    saga.pivot("bank-b", "build", takes={"permit": permit}, name="house")
    return saga


async def token_of(made: Cluster, gid: str, step: str, attempt: int = 1) -> str:
    """What the action of this attempt was given, once it is recorded that it has run."""

    def has_begun(record: TransactionRecord) -> bool:
        made_of = next(branch.step for branch in record.branches if branch.branch == step)
        reporting = None if made_of is None else made_of.reporting
        return made_of is not None and made_of.running == attempt and reporting is not None and reporting.begun

    await recorded(made.replicas["n1"], gid, has_begun)
    _, body = made.clerks["bank-a"].bodies[BranchKey(gid, step if attempt == 1 else f"{step}:{attempt}")]
    assert isinstance(body, dict)
    return str(body["ticket"])


async def begun(made: Cluster, client: Client, gid: str = "h") -> str:
    """A saga whose permit has been applied for; the token."""
    assert await building(client).start(gid=gid) == gid
    return await token_of(made, gid, "permit")


async def test_the_next_step_begins_when_the_one_before_is_reported_with_its_result(
    made: Cluster, client: Client
) -> None:
    token = await begun(made, client)
    view = await client.record("h")
    assert view.branches[0].step is not None
    assert view.branches[0].step.awaits_report
    assert made.clerks["bank-b"].asked[Verb.COMMIT] == 0
    branch = await client.report(token, {"number": 12})
    assert branch.step is not None
    assert (branch.step.reported, branch.step.awaits_report) == ("done", False)
    assert await client.wait("h") == Committed("h")
    assert made.clerks["bank-b"].bodies[BranchKey("h", "house")] == ("build", {"permit": {"number": 12}})


async def test_what_is_declined_is_undone_with_its_token(made: Cluster, client: Client) -> None:
    token = await begun(made, client)
    await client.decline(token, "no permit for a tower")
    assert await client.wait("h") == Aborted("h", "no permit for a tower", "permit")
    await client.settled("h")
    assert made.clerks["bank-a"].bodies[BranchKey("h", "permit:undo")] == ("withdraw", {"plot": 7, "ticket": token})


async def test_a_report_may_be_repeated_and_the_first_one_counts(made: Cluster, client: Client) -> None:
    token = await begun(made, client)
    await asyncio.gather(*(client.report(token, 1) for _ in range(3)))
    assert await client.wait("h") == Committed("h")
    await client.report(token, 2)
    with pytest.raises(Contradiction, match="was reported as done before"):
        await client.decline(token, "too late")


async def test_a_report_after_the_decision_is_refused(made: Cluster, client: Client) -> None:
    token = await begun(made, client)
    assert isinstance(await client.cancel("h", reason="not wanted"), Aborted)
    with pytest.raises(Contradiction, match="was decided before: abort"):
        await client.report(token)


async def test_nobody_else_is_heard(made: Cluster, client: Client) -> None:
    token = await begun(made, client)
    with pytest.raises(WrongToken):
        await client.report(token[:-1] + ("0" if token[-1] != "0" else "1"))
    with pytest.raises(NotFound, match="no step"):
        await client.report(token.replace("permit", "door"))
    with pytest.raises(Contradiction, match="not declared with `reported`"):
        await client.report(token.replace("permit", "house"))
    with pytest.raises(NotFound, match="no transaction"):
        await client.report(token.replace("h/", "g/", 1))
    with pytest.raises(Invalid):
        await client.report("nonsense")
    with pytest.raises(Invalid, match="at most 16384"):
        await client.report(token, "x" * RESULT_BYTES_MAX)
    record = await client.record("h")
    assert record.decided_at_ms is None


async def test_the_next_leader_takes_the_report(made: Cluster, client: Client) -> None:
    token = await begun(made, client)
    asked = made.clerks["bank-a"].asked[Verb.COMMIT]
    await made.lead("n3")
    await client.report(token)
    assert await client.wait("h") == Committed("h")
    assert made.clerks["bank-a"].asked[Verb.COMMIT] == asked


async def test_behind_the_decision_what_is_declined_is_begun_anew(made: Cluster, client: Client) -> None:
    saga = client.saga()
    saga.pivot("bank-b", "pay")
    saga.then("bank-a", "ship", name="parcel", reported="ticket", retry=Retry(base_ms=20, cap_ms=20))
    await saga.start(gid="p")
    assert await client.wait("p") == Committed("p")
    first = await token_of(made, "p", "parcel")
    await client.decline(first, "lost")
    second = await token_of(made, "p", "parcel", attempt=2)
    await client.decline(first, "lost")
    with pytest.raises(Contradiction, match="attempt 1 of step parcel was refused before"):
        await client.report(first)
    await client.report(second)
    assert (await client.settled("p")).phase == "committed"
    assert second != first


async def test_only_what_is_reported_may_take_longer_than_an_hour(client: Client) -> None:
    saga = client.saga(deadline_ms=DEADLINE_MAX_MS + 1)
    saga.step("bank-a", "do", undo="undo")
    with pytest.raises(Invalid, match="deadline_ms"):
        await saga.run()


async def test_a_saga_is_cancelled_with_a_reason_and_one_that_is_decided_is_not(made: Cluster, client: Client) -> None:
    await begun(made, client)
    assert await client.cancel("h", reason="ann is ill", by="ann") == Aborted("h", "ann is ill", None)
    assert (await client.settled("h")).decided_by == "deadline set by ann"
    assert await client.cancel("h", reason="again") == Aborted("h", "ann is ill", None)
    token = await begun(made, client, "k")
    await client.report(token)
    assert await client.wait("k") == Committed("k")
    assert await client.cancel("k", reason="too late") == Committed("k")
