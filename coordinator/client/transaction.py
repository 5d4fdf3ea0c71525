"""The interactive style: call services one after the other, then commit all of it, or none.

    async with client.transaction() as tx:
        await tx.call("bank-a", "debit", {"account": "bob", "amount": 10})
        await tx.call("bank-b", "credit", {"account": "smith", "amount": 10})

Each participant works in a local transaction of its own and enlists by a response header; no coordinator is asked
before the block is left. Leaving it normally commits, leaving it by an exception rolls back. A participant that is
never told rolls back by itself after its time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import msgpack
from yarl import URL

from coordinator.client.asking import Patience
from coordinator.client.outcomes import Aborted, Branch, Ended
from coordinator.client.policy import pause_s
from coordinator.client.session import Lost, NotReached, Response, Session
from coordinator.errors import Malformed, RequestError, TransactionAborted, Unavailable, WorkFailed
from coordinator.wire import Encoding, decode
from participant.errors import WireError
from participant.ids import BranchKey
from participant.tracing import current
from participant.wire import ENLIST_HEADER, Answer, BranchState, Verb, branch_path

__all__ = ["Coordinator", "InteractiveTransaction"]

ABORT_TIMEOUT_S = 2.0


class Coordinator(Protocol):
    """What an interactive transaction needs of the client."""

    async def commit(self, branches: Iterable[Branch], *, gid: str | None = None, deadline_ms: int = ...) -> Ended:
        """Commit all branches or none."""

    async def participant_url(self, name: str) -> str:
        """Where a participant is. Raises KeyError."""


@dataclass(slots=True)
class _Touched:
    """One participant's branch: where it is, and how many `work` requests it was sent."""

    url: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # work is done in the order of `seq`
    seq: int = 0


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
    ) -> None:
        self.gid = gid
        self._coordinator = coordinator
        self._session = session
        self._patience = patience
        self._deadline_ms = deadline_ms
        self._call_timeout_s = call_timeout_s
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
        touched = self._touched.get(participant)
        if touched is None:
            touched = _Touched(await self._coordinator.participant_url(participant))
            touched = self._touched.setdefault(participant, touched)
        async with touched.turn:
            if self._left:
                raise RuntimeError(f"the transaction {self.gid} has ended; begin another one")
            form = {"action": action, "body": body, "seq": touched.seq}
            touched.seq += 1
            try:
                return await self._work(participant, touched, form)
            except WorkFailed as failure:
                self._failed = failure
                raise
            except asyncio.CancelledError:  # the work may have been done, or not: it must not be committed
                self._failed = WorkFailed(participant, action, "the call was cancelled", refused=False)
                raise

    async def _work(self, participant: str, touched: _Touched, form: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._call_timeout_s
        action = str(form["action"])
        attempt = 0
        while True:
            attempt += 1
            left_s = max(0.001, ends_at - loop.time())
            try:
                response = await self._send(participant, touched, Verb.WORK, form, left_s)
                answer = _answer(participant, action, response)
            except (Lost, NotReached) as error:
                why = str(error)
            else:
                if not answer.retry:
                    return _result(participant, action, response, answer)
                why = answer.reason or "it asked to come again"
            pause = pause_s(self._patience.pauses, attempt, self._patience.chance.random())
            if loop.time() + pause >= ends_at:
                raise WorkFailed(participant, action, why, refused=False)
            await asyncio.sleep(pause)

    async def _send(
        self, participant: str, touched: _Touched, verb: Verb, form: dict[str, Any], timeout_s: float
    ) -> Response:
        url = URL(touched.url + branch_path(BranchKey(self.gid, participant), verb), encoded=True)
        timeout_s = min(timeout_s, self._patience.attempt_timeout_s)
        return await self._session.send("POST", url, msgpack.packb(form), timeout_s, current())

    async def _commit(self) -> None:
        branches = [Branch(name, name=name, works=touched.seq) for name, touched in self._touched.items()]
        if not branches:
            return
        try:
            ended = await self._coordinator.commit(branches, gid=self.gid, deadline_ms=self._deadline_ms)
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
        why = form.get("detail") or form.get("title") if isinstance(form, dict) else None
        raise WorkFailed(participant, action, str(why or f"status {response.status}"), refused=True)
    if response.status != 200:
        raise Lost(f"{participant} answered {response.status}")
    try:
        return Answer.from_map(form, participant)
    except WireError as error:
        raise Lost(str(error)) from error
