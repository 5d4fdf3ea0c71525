"""Promises about requests that are not understood: an error that says so, no vote, no defect, and no waiting."""

from __future__ import annotations

import json
from collections.abc import Sequence

from participant.ids import BRANCH_BYTES_MAX, GID_BYTES_MAX, BranchKey
from participant.testing.conformance.bench import GID_PREFIX, Bench, expect, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import Exchange
from participant.wire import ACTION_CHARS_MAX, BranchState, Verb, branch_path

__all__ = ["REQUESTS"]

MUCH = 16  # times the largest body
DEEP = 20_000  # lists within each other; more than a stack has frames, in most languages

NOT_JSON = (b"{", b'{"action": ', b"\xff\xfe", b'{"action": "a"} and more', b"\x00")
BAD_NAMES = ("a%20b", "a%0Ab", "%C3%A4", "a%00b", "a%27b", "a%7Bb")


async def what_is_not_json_is_refused(bench: Bench) -> None:
    for data in NOT_JSON:
        key = bench.branch()
        said = await bench.talk.post_data(branch_path(key, Verb.PREPARE), data)
        await _expect_refusal(bench, key, said, "4xx, because the body is not JSON")


async def fields_of_a_wrong_type_are_refused(bench: Bench) -> None:
    forms: Sequence[object] = (
        [],
        "prepare",
        7,
        {"action": 7, "body": bench.body},
        {"action": [bench.action], "body": bench.body},
        {"action": "", "body": bench.body},
        {"action": "a" * (ACTION_CHARS_MAX + 1), "body": bench.body},
    )
    for form in forms:
        key = bench.branch()
        said = await bench.talk.post(branch_path(key, Verb.PREPARE), form)
        await _expect_refusal(bench, key, said, "4xx, because a field has the wrong type")


async def names_beyond_their_limits_are_refused(bench: Bench) -> None:
    longest = bench.branch(GID_PREFIX + "g" * (GID_BYTES_MAX - len(GID_PREFIX)))
    said = await bench.outcome(longest)
    expect(said.answer is not None, f"an answer, because a gid of {GID_BYTES_MAX} is allowed", said)
    for gid in (longest.gid + "g", *BAD_NAMES):
        key = bench.remember(BranchKey(gid, "b1"))
        for verb in (Verb.PREPARE, Verb.ABORT):
            said = await bench.talk.branch(key, verb, bench.call if verb is Verb.PREPARE else None)
            expect(said.is_refusal, f"4xx, because a gid is 1 to {GID_BYTES_MAX} of A-Z a-z 0-9 _ . : -", said)
    for branch in ("b" * (BRANCH_BYTES_MAX + 1), *BAD_NAMES):
        key = bench.remember(BranchKey(longest.gid, branch))
        said = await bench.talk.branch(key, Verb.PREPARE, bench.call)
        expect(said.is_refusal, f"4xx, because a branch is 1 to {BRANCH_BYTES_MAX} of A-Z a-z 0-9 _ . : -", said)


async def unknown_verbs_are_refused(bench: Bench) -> None:
    key = await bench.prepared()
    for verb in ("forget", "COMMIT", "commit/commit", "outcome"):
        said = await bench.talk.post(branch_path(key, verb))
        expect(said.is_refusal, "4xx, because there is no such verb", said)
    said = await bench.talk.get(branch_path(key, Verb.COMMIT))
    expect(said.is_refusal, "4xx, because a GET changes nothing", said)
    expect_state(await bench.outcome(key), "nobody has ended it", BranchState.PREPARED)


async def another_content_type_is_refused(bench: Bench) -> None:
    data = json.dumps(bench.call).encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        key = bench.branch()
        said = await bench.talk.post_data(branch_path(key, Verb.PREPARE), data, content_type)
        expect(said.status == 415, "415, because that is no content type of the contract", said)
        expect_state(await bench.outcome(key), "what is refused is no vote", BranchState.UNKNOWN)


async def a_body_that_is_too_large_is_refused(bench: Bench) -> None:
    limit = bench.body_bytes_max
    for size, may_hang_up in ((limit + 1, False), (MUCH * limit, True)):
        key = bench.branch()
        form = {"action": bench.action, "body": "x" * size}
        said = await bench.talk.post(branch_path(key, Verb.PREPARE), form)
        # Who refuses much of what is still on its way cannot do better than to hang up.
        is_cut_off = may_hang_up and said.unreachable
        expect(
            is_cut_off or said.is_refusal or _is_reasoned_no(said),
            f"4xx, or aborted with a reason, because {size:,} bytes are more than the {limit:,} that it takes",
            said,
        )
        await _expect_no_yes(bench, key)


async def a_body_that_no_database_holds_is_no_defect(bench: Bench) -> None:
    bodies = ("[" * DEEP + "]" * DEEP, '"\\ud800"', "1" * 400, "1e999", '{"\\u0000": "\\u0000"}', "null")
    for body in bodies:
        key = bench.branch()
        data = f'{{"action": {json.dumps(bench.action)}, "body": {body}}}'.encode()
        said = await bench.talk.post_data(branch_path(key, Verb.PREPARE), data)
        expect(said.is_refusal or said.answer is not None, "a vote, or 4xx, because the fault is not its own", said)


async def it_answers_as_before_after_all_this(bench: Bench) -> None:
    key = await bench.prepared()
    expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)


async def _expect_refusal(bench: Bench, key: BranchKey, said: Exchange, why: str) -> None:
    expect(said.is_refusal, why, said)
    expect_state(await bench.outcome(key), "what is refused is no vote", BranchState.UNKNOWN)


async def _expect_no_yes(bench: Bench, key: BranchKey) -> None:
    said = await bench.outcome(key)
    expect_state(said, "what is refused is no yes", BranchState.UNKNOWN, BranchState.ABORTED)


def _is_reasoned_no(said: Exchange) -> bool:
    return said.state is BranchState.ABORTED and said.answer is not None and bool(said.answer.reason)


REQUESTS = (
    Promise(what_is_not_json_is_refused),
    Promise(fields_of_a_wrong_type_are_refused),
    Promise(names_beyond_their_limits_are_refused),
    Promise(unknown_verbs_are_refused),
    Promise(another_content_type_is_refused),
    Promise(a_body_that_is_too_large_is_refused),
    Promise(a_body_that_no_database_holds_is_no_defect),
    Promise(it_answers_as_before_after_all_this),
)
