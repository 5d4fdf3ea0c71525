"""The interactive style: call services one after the other, then commit all of it, or none.

    async with client.transaction() as tx:
        await tx.call("bank-a", "debit", {"account": "bob", "amount": 10})
        await tx.call("bank-b", "credit", {"account": "smith", "amount": 10})
        await tx.request("shop", "POST", "/orders", json={"item": "mug"})

Each participant works in a local transaction of its own and enlists by a response header; no coordinator is asked
before the block is left. Leaving it normally commits, leaving it by an exception rolls back. A participant that is
never told rolls back by itself after its time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from json import dumps
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, Unpack

import msgpack
from yarl import URL

from coordinator.client.asking import ATTEMPT_MIN_S, Patience
from coordinator.client.outcomes import Aborted, Branch, Ended, Named
from coordinator.client.policy import pause_s
from coordinator.client.session import Lost, NotReached, Response, Session
from coordinator.errors import Malformed, RequestError, TransactionAborted, Unavailable, WorkFailed
from coordinator.wire import Encoding, decode
from participant.errors import WireError
from participant.ids import BranchKey
from participant.traceparent import headers_of
from participant.tracing import current
from participant.wire import ENLIST_HEADER, WORK_HEADER, Answer, BranchState, Verb, Work, branch_path

__all__ = ["Coordinator", "InteractiveTransaction"]

ABORT_TIMEOUT_S = 2.0

_JSON_HEADERS = {"Content-Type": Encoding.JSON.value, "Accept": Encoding.JSON.value}


class Coordinator(Protocol):
    """What an interactive transaction needs of the client."""

    async def commit(
        self, branches: Iterable[Branch], *, gid: str | None = None, deadline_ms: int = ..., **named: Unpack[Named]
    ) -> Ended:
        """Commit all branches or none."""

    async def participant_url(self, name: str) -> str:
        """Where a participant is. Raises KeyError."""


@dataclass(slots=True)
class _Touched:
    """One participant's branch: where it is, and how many `work` requests it was sent."""

    url: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # work is done in the order of `seq`
    seq: int = 0


_Ask: TypeAlias = Callable[[_Touched, int, float], Awaitable[Response]]
_Understood: TypeAlias = Callable[[str, str, Response], Answer]


class InteractiveTransaction:
    """One transaction under way. `gid` names it; the branch of a participant has the participant's name."""

    def __init__(
        self,
        gid: str,
        coordinator: Coordinator,
        session: Session,
        patience: Patience,
        *,
        deadline_ms: int,
        call_timeout_s: float,
        named: Named,
    ) -> None:
        self.gid = gid
        self._coordinator = coordinator
        self._session = session
        self._patience = patience
        self._deadline_ms = deadline_ms
        self._call_timeout_s = call_timeout_s
        self._named = named
        self._touched: dict[str, _Touched] = {}
        self._failed: WorkFailed | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or roll back after an exception. Raises: TransactionAborted, OutcomeUnknown, Unavailable."""
        self._left = True
        for participant, touched in self._touched.items():
            if touched.turn.locked():
                self._failed = WorkFailed(participant, "work", "a call is still under way", refused=False)
        if error is None and self._failed is None:
            await self._commit()
            return
        await self._abort()
        if error is None and self._failed is not None:
            raise TransactionAborted(self.gid, str(self._failed), self._failed.participant) from self._failed

    async def call(self, participant: str, action: str, body: Any = None) -> Any:
        """Let `participant` work in this transaction. Returns: the action's result.

        Repeated until there is an answer or time is up; the participant recognises a repeat.
        Raises: WorkFailed, after which the transaction can only be rolled back; KeyError for an unknown name;
        RuntimeError, if the block was left.
        """
        form = {"action": action, "body": body}

        async def ask(touched: _Touched, seq: int, timeout_s: float) -> Response:
            return await self._send(participant, touched, Verb.WORK, form | {"seq": seq}, timeout_s)

        return await self._in_turn(participant, action, ask, _answer)

    async def request(self, participant: str, method: str, url: str, *, json: Any = None) -> Any:
        """Let `participant` work in this transaction by a request to an endpoint of its own. Returns: the JSON of the
        response.

        `url` may begin with a path: then it is where the participant is. Repeated and raised as by `call`; a response
        that does not say that the endpoint takes part is a WorkFailed, too, and what it did is not rolled back.
        """
        what = f"{method} {url}"
        data = None if json is None else dumps(json, ensure_ascii=False, allow_nan=False).encode()

        async def ask(touched: _Touched, seq: int, timeout_s: float) -> Response:
            work = Work(BranchKey(self.gid, participant), seq)
            where = URL(touched.url).join(URL(url))
            timeout_s = min(timeout_s, self._patience.attempt_timeout_s)
            headers = {**_JSON_HEADERS, WORK_HEADER: str(work), **headers_of(current())}
            return await self._session.send(method, where, data, timeout_s, headers)

        return await self._in_turn(participant, what, ask, _answer_of_endpoint)

    async def _in_turn(self, participant: str, what: str, ask: _Ask, understood: _Understood) -> Any:
        touched = self._touched.get(participant)
        if touched is None:
            touched = _Touched(await self._coordinator.participant_url(participant))
            touched = self._touched.setdefault(participant, touched)
        async with touched.turn:
            if self._left:
                raise RuntimeError(f"the transaction {self.gid} has ended; begin another one")
            seq = touched.seq
            touched.seq += 1
            try:
                return await self._work(participant, what, partial(ask, touched, seq), understood)
            except WorkFailed as failure:
                self._failed = failure
                raise
            except asyncio.CancelledError:  # the work may have been done, or not: it must not be committed
                self._failed = WorkFailed(participant, what, "the call was cancelled", refused=False)
                raise

    async def _work(
        self, participant: str, what: str, ask: Callable[[float], Awaitable[Response]], understood: _Understood
    ) -> Any:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._call_timeout_s
        attempt = 0
        why = ""
        while True:
            attempt += 1
            left_s = max(ATTEMPT_MIN_S, ends_at - loop.time())
            try:
                response = await ask(left_s)
                answer = understood(participant, what, response)
            except (Lost, NotReached) as error:
                if not why or loop.time() + ATTEMPT_MIN_S < ends_at:  # what our own limit ends tells less
                    why = str(error)
            else:
                if not answer.retry:
                    return _result(participant, what, response, answer)
                why = answer.reason or "it asked to come again"
            pause = pause_s(self._patience.pauses, attempt, self._patience.chance.random())
            if loop.time() + pause + ATTEMPT_MIN_S > ends_at:
                raise WorkFailed(participant, what, why, refused=False)
            await asyncio.sleep(pause)

    async def _send(
        self, participant: str, touched: _Touched, verb: Verb, form: dict[str, Any], timeout_s: float
    ) -> Response:
        url = URL(touched.url + branch_path(BranchKey(self.gid, participant), verb), encoded=True)
        timeout_s = min(timeout_s, self._patience.attempt_timeout_s)
        return await self._session.send("POST", url, msgpack.packb(form), timeout_s, headers_of(current()))

    async def _commit(self) -> None:
        branches = [Branch(name, name=name, works=touched.seq) for name, touched in self._touched.items()]
        if not branches:
            return
        try:
            ended = await self._coordinator.commit(branches, gid=self.gid, deadline_ms=self._deadline_ms, **self._named)
        except (Unavailable, RequestError):  # nothing was begun; after anything else it may have committed
            await self._abort()
            raise
        if isinstance(ended, Aborted):
            raise TransactionAborted(ended.gid, ended.reason, ended.branch)

    async def _abort(self) -> None:
        """Tell every participant that was asked to work, as far as it can be told."""
        told = (self._tell_abort(name, touched) for name, touched in self._touched.items())
        await asyncio.gather(*told)

    async def _tell_abort(self, participant: str, touched: _Touched) -> None:
        try:
            await self._send(participant, touched, Verb.ABORT, {}, ABORT_TIMEOUT_S)
        except (Lost, NotReached):
            return  # it rolls back by itself after its time limit


def _result(participant: str, action: str, response: Response, answer: Answer) -> Any:
    """What the work gave. Raises WorkFailed if it was refused, or if nobody would commit it."""
    if answer.state is not BranchState.WORKING:
        raise WorkFailed(participant, action, answer.reason or f"it is {answer.state.value}", refused=True)
    enlisted = response.headers.get(ENLIST_HEADER, "nothing")
    name, _, branch = enlisted.partition(";branch=")
    if (name.strip(), branch.strip()) != (participant, participant):
        why = f"it did not enlist as {participant};branch={participant}, but as {enlisted}"
        raise WorkFailed(participant, action, f"{why}: is it called otherwise in its own configuration?", refused=True)
    return answer.result


def _answer(participant: str, action: str, response: Response) -> Answer:
    """The answer to `work`. Raises: WorkFailed if the request was refused, Lost if this is no answer."""
    kind = Encoding.MSGPACK if response.content_type == Encoding.MSGPACK else Encoding.JSON
    try:
        form = decode(response.body, kind)
    except Malformed as error:
        raise Lost(f"the answer ({response.status}) cannot be read: {error}") from error
    if 400 <= response.status < 500:
        raise WorkFailed(participant, action, _why(response, form), refused=True)
    if response.status != 200:
        raise Lost(f"{participant} answered {response.status}")
    try:
        return Answer.from_map(form, participant)
    except WireError as error:
        raise Lost(str(error)) from error


def _answer_of_endpoint(participant: str, what: str, response: Response) -> Answer:
    """What a response that is not ours means. Raises: WorkFailed if the request was refused, Lost if nobody knows."""
    form: Any = None
    try:
        form = decode(response.body, Encoding.JSON) if response.body else None
    except Malformed as error:
        if 200 <= response.status < 300:
            raise WorkFailed(participant, what, f"the response is no JSON: {error}", refused=True) from error
    if 200 <= response.status < 300:
        return Answer(BranchState.WORKING, result=form)
    if response.status < 500:  # nor is a redirect followed: the other place may be nobody's
        raise WorkFailed(participant, what, _why(response, form), refused=True)
    raise Lost(f"{participant} answered {response.status}: {_why(response, form)}")


def _why(response: Response, form: Any) -> str:
    """What a refusal says for people, in problem details or as FastAPI does."""
    why = form.get("detail") or form.get("title") if isinstance(form, dict) else None
    return str(why or f"status {response.status}")
