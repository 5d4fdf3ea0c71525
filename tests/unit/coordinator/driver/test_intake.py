"""From a request to a plan: what is refused names its field, and the same meaning has the same digest."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from coordinator.driver.intake import TRANSACTION_BYTES_MAX, branches_of, digest_of, path_of
from coordinator.errors import Invalid, Unreachable
from coordinator.ledger.commands import Begin, encode
from coordinator.ledger.records import Mode, Path
from coordinator.participants.local import LocalParticipants
from coordinator.ports import CallFailed
from coordinator.wire import BODY_BYTES_MAX, BRANCHES_MAX, BranchRequest
from coordinator.wire_steps import StepRequest
from participant.wire import Capabilities
from raftlog.machine import COMMAND_BYTES_MAX
from tests.support.cluster import request
from tests.support.participants import Clerk

CHANCE = Random(1)
KNOWN = LocalParticipants(
    {
        "bank-a": Clerk("bank-a", one_phase=True),
        "bank-b": Clerk("bank-b"),
        "old-bank": Clerk("old-bank", one_phase=True, prevent=False),
    }
)


def branch(participant: str = "bank-a", **fields: Any) -> BranchRequest:
    return BranchRequest(participant=participant, **({"action": "do"} | fields))


def test_branches_without_a_name_are_named_by_their_position() -> None:
    named = branches_of([branch(), branch(branch="mine"), branch()], KNOWN, CHANCE)
    assert [b.branch for b in named] == ["b1", "mine", "b3"]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([branch(branch="x"), branch(branch="x")], "branches.1.branch"),
        ([branch(branch="b2"), branch()], "branches.1.branch"),
        ([branch(), branch("nobody")], "branches.1.participant"),
        ([branch(action=None, body=1)], "branches.0.body"),
        ([branch(works=1)], "branches.0.works"),
        ([branch(body="x" * BODY_BYTES_MAX)], "branches.0.body"),
        ([branch(body={"a": 2**64})], "branches.0.body.a"),
        ([branch(body=float("inf"))], "branches.0.body"),
        ([branch(body="x" * (BODY_BYTES_MAX - 8)) for _ in range(4)], "branches"),
    ],
)
def test_what_cannot_be_a_transaction_is_refused_by_its_field(requests: list[BranchRequest], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        branches_of(requests, KNOWN, CHANCE)
    assert [wrong.field for wrong in refused.value.fields] == [field]


def test_the_order_of_keys_in_a_body_means_nothing() -> None:
    one = branches_of([branch(body={"a": 1, "b": {"c": 2, "d": 3}})], KNOWN, CHANCE)
    other = branches_of([branch(body={"b": {"d": 3, "c": 2}, "a": 1})], KNOWN, CHANCE)
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize(
    "other", [branch(body=2), branch(action="other", body=1), branch("bank-b", body=1), branch(branch="z", body=1)]
)
def test_every_part_of_a_branch_counts_for_the_digest(other: BranchRequest) -> None:
    assert digest_of(branches_of([branch(body=1)], KNOWN, CHANCE)) != digest_of(branches_of([other], KNOWN, CHANCE))


def test_the_number_of_works_counts_for_the_digest() -> None:
    """Red when `digest_of` leaves it out: a repeat with less work would be taken for the same transaction."""
    digests = {digest_of(branches_of([branch(action=None, works=works)], KNOWN, CHANCE)) for works in (None, 1, 2)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (["bank-a"], Path.ONE_PHASE),
        (["bank-b"], Path.STAGED),
        (["old-bank"], Path.CLASSIC),
        (["bank-a", "bank-a"], Path.STAGED),
        (["bank-a", "bank-b"], Path.STAGED),
        (["bank-a", "old-bank"], Path.CLASSIC),
    ],
)
async def test_the_path_follows_from_what_the_participants_say_they_can(names: list[str], path: Path) -> None:
    assert await path_of(branches_of(request(*names).branches, KNOWN, CHANCE), KNOWN) is path


@pytest.mark.parametrize("unable", ["bank-b", "old-bank"])
async def test_steps_need_a_participant_that_commits_in_one_phase_and_can_be_prevented(unable: str) -> None:
    """Red when one of the two is not asked for. Beside steps, a two-phase branch needs neither."""
    pivot = StepRequest(mode=Mode.PIVOT)
    taken = branches_of([branch(unable), branch("bank-a", step=pivot)], KNOWN, CHANCE)
    assert await path_of(taken, KNOWN) is Path.STEPS
    with pytest.raises(Invalid, match=rf"branches.1.participant: {unable} takes no steps: .* one_phase and prevent"):
        await path_of(branches_of([branch(), branch(unable, step=pivot)], KNOWN, CHANCE), KNOWN)


@pytest.mark.parametrize("names", [["bank-a"], ["bank-b", "bank-a"]])
async def test_while_a_participant_cannot_be_asked_nothing_is_begun(names: list[str]) -> None:
    """Goal: an earlier leader of which nothing is recorded may have had it commit in one phase; on another path, its
    successor would abort that without asking. Red when whoever cannot be asked is taken for incapable."""

    class Silent(LocalParticipants):
        async def capabilities(self, name: str) -> Capabilities:
            if name == "bank-a":
                raise CallFailed("connection refused")
            return await super().capabilities(name)

    silent = Silent({"bank-a": Clerk("bank-a"), "bank-b": Clerk("bank-b")})
    with pytest.raises(Unreachable, match="bank-a cannot be asked what it can do: connection refused") as refused:
        await path_of(branches_of(request(*names).branches, silent, CHANCE), silent)
    assert refused.value.retry_after_s is not None


def test_the_largest_transaction_fits_one_command_of_the_log() -> None:
    """Goal: a request that was let in is never refused as too large by the log, where nobody could be told."""
    each_bytes = TRANSACTION_BYTES_MAX // BRANCHES_MAX - 8
    requests = [
        BranchRequest(branch=f"{i:064}", participant="bank-a", action="\U0001f4b8" * 64, body="x" * each_bytes)
        for i in range(BRANCHES_MAX)
    ]
    begin = Begin("g" * 64, b"d" * 16, Path.CLASSIC, branches_of(requests, KNOWN, CHANCE), 3_600_000, 2**53)
    assert len(encode(begin)) <= COMMAND_BYTES_MAX
