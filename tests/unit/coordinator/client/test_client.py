"""The client keeps its gid, finds the leader, and never calls anything an abort that was not decided so."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from random import Random
from uuid import UUID

import msgpack
import pytest

from coordinator.client import Aborted, Branch, Client, CommitProtocol, Committed, Deciding
from coordinator.client.asking import ATTEMPT_MIN_S, Asking, Patience
from coordinator.client.client import CONFLICT_ATTEMPTS_MAX
from coordinator.client.lane import Lane
from coordinator.client.policy import Pauses
from coordinator.client.session import Session
from coordinator.client.shards import Shards
from coordinator.errors import (
    Contradiction,
    GidReused,
    Invalid,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
)
from coordinator.ledger.records import Decision, Phase
from coordinator.ledger.table import PageQuery
from coordinator.wire import REQUEST_BYTES_MAX, WAIT_MAX_MS
from participant.wire import Verb
from tests.support.cluster import Cluster, cluster, recorded
from tests.support.impostor import Impostor, impostor

BRANCHES = [Branch("bank-a", "debit", {"n": 1}), Branch("bank-b", "credit", {"n": 1})]
COMMITTED = {"gid": "g", "outcome": "committed", "reason": None, "branch": None, "handle": None}
DECIDING = {"gid": "g", "outcome": "deciding", "reason": None, "branch": None, "handle": "/v1/transactions/g"}


SHORT = Pauses(0.001, 0.01)
# What ends a client's patience, without an attempt that is cut short because its time is nearly up.
ONCE = Pauses(1e6, 1e6)
LATER = {"code": "overloaded", "status": 429, "detail": "come again later", "retry_after_s": 60.0}


def quick(*urls: str, timeout_s: float = 5.0, attempt_timeout_s: float = 1.0, pauses: Pauses = SHORT) -> Client:
    """A client that draws the same chances each time, and loses no time between attempts."""
    return Client(
        urls,
        timeout_s=timeout_s,
        attempt_timeout_s=attempt_timeout_s,
        pauses=pauses,
        chance=Random(1),
    )


def problem(code: str, status: int) -> dict[str, object]:
    return {"code": code, "status": status, "detail": f"because {code}"}


@pytest.fixture
async def made() -> AsyncIterator[Cluster]:
    async with cluster(serve=True) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Impostor]:
    async with impostor() as running:
        yield running


@pytest.fixture
def closed_url() -> str:
    """Nobody listens here."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_client_that_knows_one_follower_finds_the_leader(made: Cluster) -> None:
    async with quick(made.urls["n3"]) as client:
        assert await client.commit(BRANCHES, gid="g") == Committed("g")
        assert await client.outcome("g") == Committed("g")


async def test_an_abort_is_a_value_with_reason_and_branch(made: Cluster) -> None:
    made.clerks["bank-b"].refuse("insufficient funds")
    async with quick(made.urls["n1"]) as client:
        assert await client.commit(BRANCHES, gid="g") == Aborted("g", "insufficient funds", "b2")


async def test_a_dead_replica_is_passed_over(made: Cluster, closed_url: str) -> None:
    async with quick(closed_url, made.urls["n2"]) as client:
        assert await client.commit(BRANCHES, gid="g") == Committed("g")


async def test_a_transaction_survives_its_leader_under_the_same_gid(made: Cluster) -> None:
    """Goal: the caller hears *committed* although the leader that it asked died, and the work was done once."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    async with quick(*made.urls.values()) as client:
        committing = asyncio.ensure_future(client.commit(BRANCHES, gid="g"))
        await made.clerks["bank-b"].arrived(Verb.PREPARE)
        await made.crash("n1")
        made.clerks["bank-b"].release(Verb.PREPARE)
        await made.lead("n2")
        assert await committing == Committed("g")
    assert {len(clerk.states) for clerk in made.clerks.values()} == {1}


async def test_what_is_slow_is_asked_for_again_until_it_is_decided(made: Cluster) -> None:
    made.clerks["bank-b"].hold(Verb.PREPARE)
    async with quick(made.urls["n1"], attempt_timeout_s=0.05) as client:
        committing = asyncio.ensure_future(client.commit(BRANCHES, gid="g"))
        await recorded(made.replicas["n1"], "g", lambda record: record.phase is Phase.PREPARING)
        await asyncio.sleep(0.2)
        assert not committing.done()
        made.clerks["bank-b"].release(Verb.PREPARE)
        assert await committing == Committed("g")


async def test_time_without_a_decision_is_an_unknown_outcome_and_never_an_abort(made: Cluster) -> None:
    """Red when `Client.commit` lets Unavailable through after an ambiguous attempt."""
    made.clerks["bank-b"].hold(Verb.PREPARE)
    async with quick(made.urls["n1"], timeout_s=1.0, attempt_timeout_s=0.2) as client:
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.commit(BRANCHES, gid="g")
    assert (unknown.value.gid, unknown.value.handle) == ("g", "/v1/transactions/g")
    async with quick(made.urls["n1"]) as client:
        assert await client.outcome("g") == Deciding("g", "/v1/transactions/g")
        waiting = asyncio.ensure_future(client.wait("g", timeout_s=5.0))
        made.clerks["bank-b"].release(Verb.PREPARE)
        assert await waiting == Committed("g")


async def test_a_connection_that_breaks_after_the_request_is_ambiguous(server: Impostor) -> None:
    server.then_hang_up()
    server.then_json(LATER, 429, "application/problem+json")
    async with quick(server.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.commit(BRANCHES)
    gids = {msgpack.unpackb(body)["gid"] for _, _, body in server.seen}
    assert len(server.seen) == 2
    assert len(gids) == 1  # every attempt is about the same transaction


async def test_a_refusal_after_an_ambiguous_attempt_proves_nothing(server: Impostor) -> None:
    """Goal: the first replica may have begun it, so the second one's no is not the transaction's."""
    server.then_hang_up()
    server.then_json(problem("invalid", 422), 422, "application/problem+json")
    async with quick(server.url) as client:
        with pytest.raises(OutcomeUnknown, match="because invalid"):
            await client.commit(BRANCHES, gid="g")


async def test_a_refusal_after_a_replica_took_it_up_proves_nothing(server: Impostor) -> None:
    server.then_json(DECIDING, 202)
    server.then_json(problem("invalid", 422), 422, "application/problem+json")
    async with quick(server.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.commit(BRANCHES, gid="g")


async def test_a_refusal_of_the_first_attempt_is_raised_as_it_is(server: Impostor) -> None:
    server.then_json(problem("invalid", 422), 422, "application/problem+json")
    async with quick(server.url) as client:
        with pytest.raises(Invalid, match="because invalid"):
            await client.commit(BRANCHES, gid="g")
    assert len(server.seen) == 1


async def test_a_replica_that_began_nothing_is_asked_again(server: Impostor) -> None:
    for code in ("no-leader", "no-leader"):
        server.then_json(problem(code, 503), 503, "application/problem+json")
    server.then_json(COMMITTED)
    async with quick(server.url) as client:
        assert await client.commit(BRANCHES, gid="g") == Committed("g")
    assert len(server.seen) == 3


async def test_if_surely_nothing_was_begun_the_client_says_so(server: Impostor, closed_url: str) -> None:
    server.then_json(problem("no-leader", 503), 503, "application/problem+json")
    server.then_json(LATER, 429, "application/problem+json")
    async with quick(closed_url, server.url) as client:
        with pytest.raises(Unavailable):
            await client.commit(BRANCHES, gid="g")


async def test_no_attempt_is_begun_that_could_not_be_answered_in_time(server: Impostor) -> None:
    """Goal: the end of the client's patience does not by itself make an outcome unknown. Red when the next attempt
    may be given whatever time is left: its answer is then lost."""
    shards = Shards([server.url], Session(), lambda replicas: Lane(replicas, {}, 1.0), routed=False)
    patience = Patience(ATTEMPT_MIN_S, 1.0, Pauses(1e-6, 1e-6), Random(1))
    with pytest.raises(Unavailable, match="because"):
        await Asking(shards.any, patience).pause("because")
    await Asking(shards.any, patience, 2 * ATTEMPT_MIN_S).pause("because")


async def test_a_502_of_a_proxy_is_ambiguous_and_text_is_no_answer(server: Impostor) -> None:
    server.then_json("bad gateway", 502)
    server.then_json(DECIDING, 202)
    server.then_json(COMMITTED)
    async with quick(server.url) as client:
        assert await client.commit(BRANCHES, gid="g") == Committed("g")


async def test_an_answer_of_another_shape_is_no_answer(server: Impostor) -> None:
    """Goal: what a replica (or whatever stands at its address) says is believed only if it can be read; after a
    request that may have begun something, that is an unknown outcome. Red when such an answer is merely validated."""
    server.then_json({"gid": "g", "outcome": "perhaps"})
    async with quick(server.url, attempt_timeout_s=5.0, pauses=ONCE) as client:
        with pytest.raises(OutcomeUnknown):
            await client.commit(BRANCHES, gid="g")
        with pytest.raises(Unavailable, match="OutcomeView"):
            await client.outcome("g")


@pytest.mark.parametrize("gid", ["../cluster", "..", "a/b", "a b", "", "x?y", "é", "a" * 65])
async def test_what_cannot_be_a_gid_is_refused_before_it_becomes_a_path(server: Impostor, gid: str) -> None:
    server.then_json(COMMITTED)
    async with quick(server.url) as client:
        for asked in (
            client.outcome(gid),
            client.wait(gid),
            client.record(gid),
            client.resolve(gid, Decision.ABORT, operator="ada", reason="x"),
        ):
            with pytest.raises(Invalid, match="gid: "):
                await asked
    assert server.seen == []


async def test_however_patient_a_client_is_a_replica_is_not_asked_to_wait_longer_than_it_may(made: Cluster) -> None:
    async with quick(made.urls["n1"], attempt_timeout_s=10.0 * WAIT_MAX_MS / 1_000) as client:
        assert await client.commit(BRANCHES, gid="g") == Committed("g")


async def test_a_leader_behind_a_path_is_asked_there_again(server: Impostor) -> None:
    """Goal: a `client_url` may have a path. Red when only the origin of a pointer is remembered."""
    server.then_json({}, 307, Location=f"{server.url}/n1/v1/transactions/g/outcome")
    server.then_json(COMMITTED)
    async with quick(server.url) as client:
        for _ in range(2):
            assert await client.outcome("g") == Committed("g")
    assert [path for _, path, _ in server.seen][1:] == ["/n1/v1/transactions/g/outcome"] * 2


async def test_replicas_that_point_at_each_other_end_in_a_clear_error(server: Impostor) -> None:
    server.then_json({}, 307, Location=f"{server.url}/v1/transactions")
    async with quick(server.url, attempt_timeout_s=5.0, pauses=ONCE) as client:
        with pytest.raises(Unavailable, match="point at each other"):
            await client.commit(BRANCHES, gid="g")


async def test_a_request_past_the_limit_is_not_even_sent(server: Impostor) -> None:
    async with quick(server.url) as client:
        with pytest.raises(TooLarge):
            await client.commit([Branch("bank-a", "debit", "x" * REQUEST_BYTES_MAX)])
    assert server.seen == []


async def test_the_same_gid_with_another_body_is_refused(made: Cluster) -> None:
    async with quick(made.urls["n1"]) as client:
        await client.commit(BRANCHES, gid="g")
        with pytest.raises(GidReused):
            await client.commit(BRANCHES[:1], gid="g")


async def test_what_nobody_recorded_is_not_found(made: Cluster) -> None:
    async with quick(made.urls["n2"]) as client:
        for asked in (client.outcome("g"), client.wait("g"), client.record("g")):
            with pytest.raises(NotFound):
                await asked


async def test_records_are_listed_over_all_pages_and_filtered(made: Cluster) -> None:
    async with quick(made.urls["n2"]) as client:
        for number in range(3):
            await client.commit(BRANCHES[: 1 + number % 2], gid=f"g{number}")
            made.now_ms += 1
        assert [view.gid async for view in client.transactions(page_size=1)] == ["g2", "g1", "g0"]
        assert [view.gid async for view in client.transactions(participant="bank-b")] == ["g1"]
        assert [view.gid async for view in client.transactions(phases=[Phase.ABORTED, Phase.ABORTING])] == []
        assert (await client.record("g0")).decided_by == "votes"


async def test_an_operator_resolves_through_the_client(made: Cluster) -> None:
    made.clerks["bank-b"].prevent = False  # on the classic path an operator may abort
    made.clerks["bank-b"].hold(Verb.PREPARE)
    async with quick(made.urls["n2"], timeout_s=2.0, attempt_timeout_s=0.05) as client:
        committing = asyncio.ensure_future(client.commit(BRANCHES, gid="g"))
        await recorded(made.replicas["n1"], "g", lambda record: record.phase is Phase.PREPARING)
        view = await client.resolve("g", Decision.ABORT, operator="ada", reason="stuck")
        assert view.decided_by == "operator ada"
        assert await committing == Aborted("g", "stuck", None)
        with pytest.raises(Contradiction):
            await client.resolve("g", Decision.COMMIT, operator="ada", reason="no")
    made.clerks["bank-b"].release(Verb.PREPARE)


async def test_a_resolution_without_an_answer_is_unknown(server: Impostor) -> None:
    server.then_hang_up()
    async with quick(server.url, pauses=ONCE) as client:
        with pytest.raises(OutcomeUnknown):
            await client.resolve("g", Decision.ABORT, operator="ada", reason="stuck")


async def test_generated_gids_differ() -> None:
    async with quick("http://unused") as client:
        assert len({client.new_gid() for _ in range(100)}) == 100


def test_a_client_without_replicas_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one replica"):
        Client([])


async def test_what_was_aborted_for_a_conflict_is_tried_again_as_a_transaction_of_the_same_age(made: Cluster) -> None:
    """So that it is not for ever the younger one that has to give way. Red when the second attempt has a new time."""
    made.clerks["bank-b"].refuse("conflict: account(bob) stayed locked", times=2)
    async with quick(made.urls["n1"]) as client:
        ended = await client.commit(BRANCHES)
        assert isinstance(ended, Committed)
    gids = sorted(record.gid for record in made.replicas["n1"].ledger.page(PageQuery(limit=10)).records)
    assert len(gids) == 3
    assert len({UUID(gid).int >> 80 for gid in gids}) == 1


@pytest.mark.parametrize(("reason", "attempts"), [("conflict: locked", CONFLICT_ATTEMPTS_MAX), ("no money", 1)])
async def test_attempts_are_bounded_and_other_reasons_are_final(made: Cluster, reason: str, attempts: int) -> None:
    made.clerks["bank-b"].refuse(reason)
    async with quick(made.urls["n1"]) as client:
        ended = await client.commit(BRANCHES)
        assert isinstance(ended, Aborted)
        assert (ended.reason, ended.is_conflict) == (reason, attempts > 1)
        assert len(made.replicas["n1"].ledger) == attempts


async def test_a_gid_of_the_callers_own_is_never_replaced(made: Cluster) -> None:
    made.clerks["bank-b"].refuse("conflict: locked", times=1)
    async with quick(made.urls["n1"]) as client:
        assert await client.commit(BRANCHES, gid="mine") == Aborted("mine", "conflict: locked", "b2")


async def test_settled_waits_until_every_branch_has_confirmed(made: Cluster) -> None:
    made.clerks["bank-b"].hold(Verb.COMMIT)
    async with quick(made.urls["n1"]) as client:
        await client.commit(BRANCHES, gid="g")
        with pytest.raises(Unavailable, match="not every branch has confirmed"):
            await client.settled("g", timeout_s=0.1)
        made.clerks["bank-b"].release(Verb.COMMIT)
        assert (await client.settled("g")).phase is Phase.COMMITTED


async def test_a_conflict_is_not_tried_again_past_the_callers_patience(made: Cluster) -> None:
    """Red when each attempt has the whole time to itself."""
    made.clerks["bank-b"].refuse("conflict: locked")
    async with Client([made.urls["n1"]], pauses=Pauses(10.0, 10.0), chance=Random(1)) as client:
        async with asyncio.timeout(2):
            assert isinstance(await client.commit(BRANCHES, timeout_s=1.0), Aborted)
    assert len(made.replicas["n1"].ledger) == 1


async def test_a_refusal_that_is_no_replicas_fault_sends_nobody_elsewhere(server: Impostor) -> None:
    """Red when the belief is given up: each transaction at a dead participant would cost the others a redirect."""
    server.then_json(problem("unreachable", 503), status=503, content_type="application/problem+json")
    server.then_json(COMMITTED)
    async with impostor() as other, quick(server.url, other.url) as client:
        other.then_hang_up()
        assert await client.commit(BRANCHES, gid="g") == Committed("g")
        assert other.seen == []


async def test_the_protocol_is_named_only_if_it_is_not_the_default(server: Impostor) -> None:
    """So that a cluster of an earlier release takes what it can."""
    async with quick(server.url) as client:
        for protocol in CommitProtocol:
            server.then_json(COMMITTED)
            await client.commit(BRANCHES, gid="g", protocol=protocol)
    sent = [msgpack.unpackb(body) for _, path, body in server.seen if path.startswith("/v1/transactions")]
    forms = [form[0] if isinstance(form, list) else form for form in sent]
    assert [form.get("protocol") for form in forms] == [
        None,
        "three-phase",
        "three-phase-unsafe-commit-on-silence",
    ]
