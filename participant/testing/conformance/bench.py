"""What a promise is tried on: a running participant, branches of its own, and the words to say what was expected.

Owns: the branches that were opened, so that each is ended; the process, if it was told how to start one. Must never
do: touch a branch that it did not open. The participant may have other work.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from participant.errors import CheckError, NobodyAnswers
from participant.ids import BranchKey, is_branch_id, is_gid
from participant.proof import Proof, Seal, Source
from participant.termination import Ending
from participant.testing.conformance.process import Process
from participant.testing.conformance.talk import JSON, Exchange, Talk
from participant.wire import BranchState, Capabilities, Verb
from participant.wire_three_phase import Terms

__all__ = [
    "GID_PREFIX",
    "Bench",
    "Broken",
    "NotApplicable",
    "NotTried",
    "Target",
    "Unclear",
    "expect",
    "expect_result",
    "expect_state",
]

GID_PREFIX = "check-"
GID_BYTES = 8  # of chance
RETRY_FOR_S = 5.0  # how long what came to no answer is sent again, as a coordinator would
RETRY_EVERY_S = 0.1
TIDY_TIMEOUT_S = 10.0  # for ending all branches of one promise
SILENCES_MAX = 3  # promises in a row before which nobody answered; then the others are not waited for
BODY_BYTES_DEFAULT = Capabilities(name="").body_bytes_max  # of a participant that does not say


class Broken(AssertionError):
    """A promise does not hold. `exchange` is the request that broke it, if it was one."""

    def __init__(self, expected: str, exchange: Exchange | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.exchange = exchange


class NotApplicable(Exception):
    """The participant does not say that it can do this."""


class NotTried(Exception):
    """It takes what the check was not given, such as a way to start the participant."""


class Unclear(Exception):
    """It could not be judged, because the participant would not do the work."""


@dataclass(frozen=True, slots=True)
class Target:
    """A participant at `url`, and an `action` with a `body` to which it says yes again and again; each branch changes
    something, and many of them are committed.

    `start`: the command that runs it, without a shell. It is killed and started again on the same data, and must serve
    at `url`. Without it, nothing is tried for which the participant has to die.

    `proof_secret`: with which it proves decisions, if it takes part in transactions in three phases.
    """

    url: str
    action: str
    body: Any
    start: tuple[str, ...] = ()
    proof_secret: bytes | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Bench]:
        """The participant, running, and seen to vote yes. Raises CheckError; ValueError for a secret that is too
        short."""
        bench = Bench(self)
        try:
            await bench.open()
            yield bench
        finally:
            await bench.close()


class Bench:
    """A participant under test. `capabilities` is its document as it was read last, {} if it is not one."""

    def __init__(self, target: Target) -> None:
        self.talk = Talk(target.url)
        self.action = target.action
        self.body = target.body
        self.capabilities: Mapping[str, Any] = {}
        self._process = Process(target.start, self.serves) if target.start else None
        self._seal = None if target.proof_secret is None else Seal(target.proof_secret)
        self._branches: list[BranchKey] = []
        self._proofs: dict[BranchKey, Proof] = {}  # with which those in three phases are ended
        self._silences = 0

    @property
    def call(self) -> dict[str, Any]:
        """What a prepare says."""
        return {"action": self.action, "body": self.body}

    @property
    def same_call(self) -> dict[str, Any]:
        """The same, written in another way: the order of keys means nothing in JSON."""
        body = dict(reversed(self.body.items())) if isinstance(self.body, dict) else self.body
        return {"body": body, "action": self.action}

    @property
    def other_call(self) -> dict[str, Any]:
        """The same with another body: one that differs as little as possible, so that it is as valid."""
        return {"action": self.action, "body": _other(self.body)}

    @property
    def name(self) -> str:
        """What it calls itself, "" if that is no name."""
        said = self.capabilities.get("name")
        return said if isinstance(said, str) and is_branch_id(said) else ""

    @property
    def seal(self) -> Seal:
        """What signs as its coordinators do. Raises NotTried without their secret, Unclear if it has another one."""
        if self._seal is None:
            raise NotTried("needs --proof-secret-file, the secret that it shares with its coordinators")
        if self.capabilities.get("three_phase") != self._seal.key_id:
            raise Unclear(f"it has another secret: its capabilities do not say {self._seal.key_id}")
        return self._seal

    def can(self, capability: str) -> bool:
        """Whether it says so. Three phases are told by the id of a secret."""
        said = self.capabilities.get(capability)
        return said is True or (capability == "three_phase" and isinstance(said, str) and said != "")

    @property
    def body_bytes_max(self) -> int:
        said = self.capabilities.get("body_bytes_max")
        return said if isinstance(said, int) and said > 0 else BODY_BYTES_DEFAULT

    def branch(self, gid: str | None = None) -> BranchKey:
        """A new branch, of a new transaction unless `gid` says otherwise."""
        return self.remember(BranchKey(gid or GID_PREFIX + secrets.token_hex(GID_BYTES), f"b{len(self._branches) + 1}"))

    def remember(self, key: BranchKey) -> BranchKey:
        """To be ended as well: a name that must be refused, should it be taken."""
        self._branches.append(key)
        return key

    def end_by_proof(self, key: BranchKey) -> None:
        """The branch is about to be asked in three phases; then nothing else ends it. Raises as `seal`."""
        self._proofs[key] = self.seal.sign(key.gid, Ending.ABORT, Source.LOG)

    async def ask(self, key: BranchKey, verb: Verb, form: Any = None, kind: str = JSON) -> Exchange:
        """One operation, asked as a coordinator would: again, as long as it may be that nothing has happened."""
        return await self._again(lambda said: said.wants_retry, key, verb, form, kind)

    async def ask_in_vain(self, key: BranchKey, verb: Verb, form: Any = None) -> Exchange:
        """One that is to be ignored, and told so: that it wants a retry is the answer."""
        return await self._again(lambda said: said.is_unserved, key, verb, form, JSON)

    async def _again(self, is_open: Callable[[Exchange], bool], *operation: Any) -> Exchange:
        clock = asyncio.get_running_loop().time
        until = clock() + RETRY_FOR_S
        while True:
            said = await self.talk.branch(*operation)
            if not is_open(said) or clock() >= until:
                return said
            await asyncio.sleep(RETRY_EVERY_S)

    async def prepare(self, key: BranchKey) -> Exchange:
        return await self.ask(key, Verb.PREPARE, self.call)

    async def commit(self, key: BranchKey) -> Exchange:
        return await self.ask(key, Verb.COMMIT)

    async def one_phase(self, key: BranchKey) -> Exchange:
        """Prepare and commit in one step."""
        return await self.ask(key, Verb.COMMIT, self.call | {"one_phase": True})

    async def abort(self, key: BranchKey) -> Exchange:
        proof = self._proofs.get(key)
        return await self.ask(key, Verb.ABORT, proof and {"three_phase": Terms(proof=proof).to_map()})

    async def prevent(self, key: BranchKey) -> Exchange:
        return await self.ask(key, Verb.PREVENT)

    async def outcome(self, key: BranchKey) -> Exchange:
        return await self.ask(key, Verb.OUTCOME)

    async def prepared(self) -> BranchKey:
        """A new branch that is prepared. Raises Unclear if the participant votes no."""
        key = self.branch()
        self.expect_yes(await self.prepare(key))
        return key

    def expect_yes(self, said: Exchange) -> None:
        """Where a no would break nothing. Raises Unclear for a no, Broken for anything else but a yes."""
        if said.state is BranchState.ABORTED:
            reason = said.answer.reason if said.answer is not None else ""
            raise Unclear(f"it votes no, where it voted yes before: {reason or 'without a reason'}")
        expect_state(said, "the vote is a yes, as it was before", BranchState.PREPARED)

    async def in_doubt(self, key: BranchKey) -> tuple[bool, Exchange]:
        """Whether the branch is among those that wait for a decision. Raises Broken if the list is not well formed."""
        said = await self.talk.get("/v1/in-doubt")
        listed = said.value.get("branches") if isinstance(said.value, dict) else None
        is_list = isinstance(listed, list) and all(
            isinstance(each, dict) and isinstance(each.get("gid"), str) and isinstance(each.get("branch"), str)
            for each in listed
        )
        expect(said.status == 200 and is_list, 'a list {"branches": [{"gid": …, "branch": …}, …]}', said)
        return {"gid": key.gid, "branch": key.branch} in [
            {name: each[name] for name in ("gid", "branch")} for each in listed or ()
        ], said

    async def expect_in_doubt(self, key: BranchKey, expected: bool) -> None:
        """Raises Broken unless the branch is, or is not, in the list."""
        is_listed, said = await self.in_doubt(key)
        why = "among those in doubt, because it is prepared" if expected else "no longer among those in doubt"
        expect(is_listed is expected, f"{key.gid} is {why}", said)

    async def crash(self) -> None:
        """kill -9."""
        if self._process is None:
            raise NotTried("needs --start, the command that runs the participant")
        await self._process.kill()

    async def start_again(self) -> None:
        """After `crash`; with new connections."""
        if self._process is not None:
            await self.talk.stop()
            await self.talk.start()
            await self._process.start()

    async def restart(self) -> None:
        await self.crash()
        await self.start_again()

    async def open(self) -> None:
        """Raises CheckError: it does not start, nobody answers, or it votes no."""
        await self.talk.start()
        if self._process is not None:
            if await self.serves():
                raise CheckError(f"{self.talk.url} answers already; end that one: --start starts the participant")
            await self._process.start()
        await self.refresh()
        said = await self.prepare(self.branch())
        self._branches += await self.tidy()  # what could not be ended is tried again, and told, with the first promise
        if said.state is BranchState.ABORTED or said.state is BranchState.READ_ONLY:
            raise CheckError(
                f"{self.action} is answered {said.said()}; name an action and a body to which it says yes, and which "
                "changes something"
            )

    async def refresh(self) -> None:
        """Before each promise: bring a dead process back, and read what it can. Raises NobodyAnswers, CheckError."""
        if self._silences >= SILENCES_MAX:
            raise NobodyAnswers(f"nobody answers at {self.talk.url} any more")
        self._silences += 1
        await self._revive()
        said = await self.talk.get("/v1/capabilities")
        if said.status is None:
            raise NobodyAnswers(f"nobody answers at {self.talk.url}: {said.failure}")
        self._silences = 0
        self.capabilities = said.value if isinstance(said.value, dict) else {}

    async def tidy(self) -> list[BranchKey]:
        """End every branch that was opened since the last time; those that could not be ended."""
        ended: set[BranchKey] = set()

        async def end(key: BranchKey) -> None:
            said = await self.abort(key)
            was_never_one = said.is_refusal and not (is_gid(key.gid) and is_branch_id(key.branch))
            if said.state in _ENDED or was_never_one:
                ended.add(key)

        branches, self._branches = self._branches, []
        try:
            async with asyncio.timeout(TIDY_TIMEOUT_S):
                await self._revive()
                await asyncio.gather(*(end(key) for key in branches))
        except (TimeoutError, CheckError):
            pass  # then some are not ended, and that is said
        return [key for key in branches if key not in ended]

    async def close(self) -> None:
        await self.tidy()
        await self.talk.stop()
        if self._process is not None:
            await self._process.close()

    async def _revive(self) -> None:
        """A process that died, or was killed, would break every other promise as well. Raises CheckError."""
        if self._process is not None and not self._process.is_running:
            await self.start_again()

    async def serves(self) -> bool:
        said = await self.talk.get("/v1/capabilities")
        return not said.unreachable


_ENDED = (BranchState.ABORTED, BranchState.COMMITTED, BranchState.READ_ONLY)


def expect(holds: bool, expected: str, said: Exchange | None = None) -> None:
    """Raises Broken unless it holds."""
    if not holds:
        raise Broken(expected, said)


def expect_state(said: Exchange, why: str, *states: BranchState) -> None:
    """`expect` an answer with one of these states."""
    expect(said.state in states, f"{' or '.join(states)}: {why}", said)


def expect_result(said: Exchange, first: Exchange) -> None:
    """`expect` the result of an answer before, whatever that is."""
    given, again = (None if each.answer is None else each.answer.result for each in (first, said))
    expect(again == given, f"the result that was given first, {given!r}", said)


def _other(body: Any) -> Any:
    """Another body. The first whole number is one greater; without any, there is a field or an element more."""
    match body:
        case bool():
            return not body
        case int():
            return body + 1
        case dict():
            for key, value in body.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    return copy.deepcopy(body) | {key: value + 1}
            return copy.deepcopy(body) | {"another": 1}
        case list():
            return [*copy.deepcopy(body), 1]
    return [body]
