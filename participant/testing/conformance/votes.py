"""Promises about what a participant is, and about its vote."""

from __future__ import annotations

import asyncio

import msgpack

from participant.ids import is_branch_id
from participant.testing.conformance.bench import Bench, NotApplicable, expect, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import EITHER, JSON, MSGPACK
from participant.wire import WIRE_VERSION, BranchState, Verb, branch_path

__all__ = ["VOTES"]

REPEATS = 16  # of one prepare, all at once
TRIED_WITHIN_S = 0.3  # a prepare that is not answered by then waits for rows
FLAGS = ("prevent", "one_phase", "read_only", "arrays", "stream")
NUMBERS = ("operations_max", "body_bytes_max")


async def it_says_what_it_can(bench: Bench) -> None:
    said = await bench.talk.get("/v1/capabilities")
    expect(said.status == 200 and isinstance(said.value, dict), "200 and a JSON object", said)
    document = dict(said.value)
    name = document.get("name")
    expect(isinstance(name, str) and is_branch_id(name), "a name of 1 to 64 of A-Z a-z 0-9 _ . : -", said)
    expect(document.get("version", WIRE_VERSION) == WIRE_VERSION, f"version {WIRE_VERSION}", said)
    for flag in FLAGS:
        expect(isinstance(document.get(flag, False), bool), f"{flag}: true or false, if it is there", said)
    for number in NUMBERS:
        value = document.get(number, 1)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        expect(is_count, f"{number}: a whole number above 0, if it is there", said)
    actions = document.get("actions", [])
    are_names = isinstance(actions, list) and all(isinstance(each, str) for each in actions)
    expect(are_names, "actions: a list of names, if it is there", said)


async def its_answers_say_that_they_are_json(bench: Bench) -> None:
    key = await bench.prepared()
    for said in (
        await bench.prepare(key),
        await bench.outcome(key),
        await bench.talk.get("/v1/capabilities"),
        await bench.talk.get("/v1/in-doubt"),
    ):
        expect(said.said_type == JSON, f"the content type {JSON}, not {said.said_type or 'none'}", said)


async def who_gives_msgpack_also_takes_it(bench: Bench) -> None:
    said = await bench.talk.get("/v1/capabilities", EITHER)
    expect(said.said_type in (JSON, MSGPACK), f"the content type {MSGPACK} or {JSON}", said)
    if said.said_type == JSON:
        raise NotApplicable("it gives its capabilities in JSON, and so is asked everything in JSON")
    expect(isinstance(said.value, dict) and "name" in said.value, "a capabilities document", said)
    key = bench.branch()
    for verb, form, state in (
        (Verb.PREPARE, bench.call, BranchState.PREPARED),
        (Verb.PREPARE, bench.call, BranchState.PREPARED),
        (Verb.COMMIT, {}, BranchState.COMMITTED),
    ):
        said = await bench.talk.post_data(branch_path(key, verb), msgpack.packb(form), MSGPACK, MSGPACK)
        expect_state(said, "the same as in JSON", state)
        expect(said.said_type == MSGPACK, f"the content type {MSGPACK}, not {said.said_type or 'none'}", said)
    expect_state(await bench.outcome(key), "in JSON, the same branch", BranchState.COMMITTED)


async def it_says_that_it_is_alive(bench: Bench) -> None:
    said = await bench.talk.get("/livez")
    expect(said.status == 200, "200, while the process can do its work", said)


async def a_repeated_prepare_is_answered_as_before(bench: Bench) -> None:
    key = await bench.prepared()
    expect_state(await bench.prepare(key), "the vote was given before", BranchState.PREPARED)
    said = await bench.ask(key, Verb.PREPARE, bench.same_call)
    expect_state(said, "the order of keys means nothing", BranchState.PREPARED)
    expect_state(await bench.outcome(key), "the vote was a yes", BranchState.PREPARED)


async def many_prepares_at_once_are_one_vote(bench: Bench) -> None:
    key = bench.branch()
    votes = await asyncio.gather(*(bench.prepare(key) for _ in range(REPEATS)))
    for said in votes:
        bench.expect_yes(said)
    await bench.expect_in_doubt(key, True)
    expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)
    await bench.expect_in_doubt(key, False)


async def another_body_for_the_same_branch_is_refused(bench: Bench) -> None:
    key = await bench.prepared()
    said = await bench.ask(key, Verb.PREPARE, bench.other_call)
    expect(said.status == 409, "409, because the branch is bound to the body that came first", said)
    expect_state(await bench.outcome(key), "the first body counts, and its vote stands", BranchState.PREPARED)
    expect_state(await bench.prepare(key), "the first body is still known", BranchState.PREPARED)


async def to_ask_for_the_outcome_changes_nothing(bench: Bench) -> None:
    key = bench.branch()
    for _ in range(2):
        expect_state(await bench.outcome(key), "nothing was ever heard of this branch", BranchState.UNKNOWN)
    bench.expect_yes(await bench.prepare(key))
    for _ in range(2):
        expect_state(await bench.outcome(key), "it is prepared, and stays so", BranchState.PREPARED)
    expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)
    expect_state(await bench.outcome(key), "it was committed", BranchState.COMMITTED)


async def a_prepared_branch_is_listed_in_doubt_until_its_end(bench: Bench) -> None:
    for end in (bench.commit, bench.abort):
        key = bench.branch()
        await bench.expect_in_doubt(key, False)
        bench.expect_yes(await bench.prepare(key))
        await bench.expect_in_doubt(key, True)
        await end(key)
        await bench.expect_in_doubt(key, False)


async def an_unknown_action_is_a_no_that_stays(bench: Bench) -> None:
    key = bench.branch()
    call = {"action": "check-no-such-action", "body": bench.body}
    for _ in range(2):
        said = await bench.ask(key, Verb.PREPARE, call)
        expect_state(said, "there is no such action, and that is a vote", BranchState.ABORTED)
        expect(said.answer is not None and bool(said.answer.reason), "a reason, for people", said)
    expect_state(await bench.outcome(key), "the vote was a no", BranchState.ABORTED)
    await bench.expect_in_doubt(key, False)


async def a_prepare_without_work_is_no_yes(bench: Bench) -> None:
    for form in (None, {}, {"works": 1}):
        key = bench.branch()
        said = await bench.ask(key, Verb.PREPARE, form)
        expect(
            said.is_refusal or said.state is BranchState.ABORTED,
            "aborted or 4xx: there is no action, and no work came before",
            said,
        )
        await bench.expect_in_doubt(key, False)


async def branches_of_one_transaction_are_told_apart(bench: Bench) -> None:
    one = await bench.prepared()
    two = bench.branch(one.gid)
    expect_state(await bench.abort(one), "it was prepared", BranchState.ABORTED)
    expect_state(await bench.outcome(two), "only the other branch was aborted", BranchState.UNKNOWN)
    bench.expect_yes(await bench.prepare(two))
    expect_state(await bench.commit(two), "only the other branch was aborted", BranchState.COMMITTED)
    expect_state(await bench.outcome(one), "only the other branch was committed", BranchState.ABORTED)


async def a_yes_stands_whatever_other_branches_do(bench: Bench) -> None:
    first = await bench.prepared()
    other = bench.branch()
    waiting = asyncio.ensure_future(bench.prepare(other))  # waits for the same rows, or is refused, or goes beside
    try:
        await asyncio.wait({waiting}, timeout=TRIED_WITHIN_S)
        expect_state(await bench.outcome(first), "another branch does not end it", BranchState.PREPARED)
        expect_state(await bench.commit(first), "it was prepared", BranchState.COMMITTED)
        said = await waiting
    finally:
        waiting.cancel()
    expect_state(said, "a vote, once the first branch has ended", BranchState.PREPARED, BranchState.ABORTED)
    if said.state is BranchState.PREPARED:
        expect_state(await bench.commit(other), "it was prepared", BranchState.COMMITTED)
    else:
        expect_state(await bench.outcome(other), "its vote was a no", BranchState.ABORTED)
    expect_state(await bench.outcome(first), "it was committed", BranchState.COMMITTED)


VOTES = (
    Promise(it_says_what_it_can),
    Promise(it_says_that_it_is_alive),
    Promise(its_answers_say_that_they_are_json),
    Promise(who_gives_msgpack_also_takes_it),
    Promise(a_repeated_prepare_is_answered_as_before),
    Promise(many_prepares_at_once_are_one_vote),
    Promise(another_body_for_the_same_branch_is_refused),
    Promise(to_ask_for_the_outcome_changes_nothing),
    Promise(a_prepared_branch_is_listed_in_doubt_until_its_end),
    Promise(an_unknown_action_is_a_no_that_stays),
    Promise(a_prepare_without_work_is_no_yes),
    Promise(branches_of_one_transaction_are_told_apart),
    Promise(a_yes_stands_whatever_other_branches_do),
)
