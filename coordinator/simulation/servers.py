"""HTTP without HTTP, the side that answers.

It is entered right beneath the HTTP handlers, at `driver.service.Transactions`, `driver.workflows.Workflows` and
`participant.service`; only for an array of transactions, production's collecting of the answers
(`coordinator.http.arrays`) is used too. See `web.py`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
from yarl import URL

from coordinator.driver.replica import Replica
from coordinator.driver.waiters import Known
from coordinator.errors import NoLeader, NotFound, NotLeader, RequestError
from coordinator.http import arrays
from coordinator.http.context import Context
from coordinator.http.views import branch_view, claim_view, outcome_view, step_view, transaction_view
from coordinator.ledger.commands import Heard
from coordinator.simulation.rpc import Rpc
from coordinator.simulation.web import ARRAYS, HTTP, url_of
from coordinator.webhooks import NoticeView
from coordinator.wire import (
    BeginQuery,
    InquiryRequest,
    Outcome,
    OutcomeView,
    ParticipantsView,
    ParticipantView,
    ResolveRequest,
    TransactionRequest,
)
from coordinator.wire_steps import LettersRequest, ReportRequest
from coordinator.wire_workflows import ClaimRequest, RunEndRequest, StepAsk, WorkflowRequest
from participant.errors import BranchConflict, ResourceError, WireError
from participant.service import ParticipantService
from participant.wire import ENLIST_HEADER, Answer, Operation, Verb

__all__ = ["Kind", "ParticipantApi", "ReplicaApi"]

_LETTERS = {"redeliver": Heard.REDELIVERED, "drop": Heard.DROPPED}

Reply = tuple[int, dict[str, str], Any]
Struck: TypeAlias = "Callable[[str], bool]"
Said: TypeAlias = "Callable[[Operation, Answer | None], None]"  # None: it was asked for what it cannot do


@dataclass(frozen=True, slots=True)
class Kind:
    """What a participant can do beside prepare, commit and abort; it says so in its capabilities, and refuses the
    rest."""

    name: str
    prevent: bool
    one_phase: bool


class _Api(ABC):
    """Answers requests of one process. `struck(moment)` says whether the machine goes down right now, speechless."""

    def __init__(self, rpc: Rpc, struck: Struck) -> None:
        self._struck = struck
        rpc.serve(HTTP, self._serve)

    async def _serve(self, _source: str, request: bytes) -> bytes:
        method, path, query, body = msgpack.unpackb(request)
        packed: bytes = msgpack.packb(await self.answer(method, path, query, body))
        return packed

    async def _pass(self, moment: str) -> None:
        """Go on, unless the machine is struck at this moment: then this request is never answered."""
        if self._struck(moment):
            await asyncio.get_running_loop().create_future()

    @abstractmethod
    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        """The reply to one request."""


class ReplicaApi(_Api):
    """The part of a replica's API that clients, workers and participants use; errors as its HTTP border gives them."""

    def __init__(self, rpc: Rpc, name: str, replica: Replica, participants: list[str], struck: Struck) -> None:
        super().__init__(rpc, struck)
        self._name = name
        self._context = Context(replica, "simulated", name)
        self._transactions = replica.transactions
        self._workflows = replica.workflows
        self._participants = participants
        rpc.serve_pieces(ARRAYS, self._serve_array)

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        try:
            reply = await self._route(method, path, query, body)
        except NotLeader as error:
            return self._elsewhere(error, path, query)
        except RequestError as error:
            return _problem(error)
        await self._pass("telling")
        return reply

    def _elsewhere(self, error: NotLeader, path: str, query: Mapping[str, str]) -> Reply:
        if error.leader is None or error.leader == self._name:
            return _problem(NoLeader("no replica leads now", retry_after_s=1.0))
        asked = URL(url_of(error.leader)).with_path(path).with_query(query)
        return 307, {"Location": str(asked)}, {}

    async def _serve_array(self, request: bytes, tell: Callable[[bytes], None]) -> None:
        """As `coordinator.http.arrays.begin_all` for a caller that reads a stream, over the same `Answers`."""
        _, path, query, values = msgpack.unpackb(request)
        try:
            self._transactions.require_leading()
        except NotLeader as error:
            tell(msgpack.packb(self._elsewhere(error, path, query)))
            return
        patience = BeginQuery.model_validate(query)
        answers = arrays.Answers(len(values), path, "simulated")
        try:
            wait_ms = patience.wait_ms or 0
            for position, value in enumerate(values):
                wait_ms = max(wait_ms, await arrays.begin_one(self._context, patience, position, value, answers))
            until = asyncio.get_running_loop().time() + wait_ms / 1_000
            tell(msgpack.packb((200, {}, None)))
            while answers.missing:
                ready = await answers.some(until)
                await self._pass("telling")
                tell(b"".join(arrays.packed_answer(*answer) for answer in ready))
        finally:
            answers.leave()

    async def _route(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        wait_s = int(query["wait_ms"]) / 1_000 if "wait_ms" in query else 0.0
        match method, path.split("/")[2:]:
            case "POST", ["transactions"]:
                request = TransactionRequest.model_validate(body)
                view = outcome_view(await self._transactions.begin(request, wait_s))
                return 200 if view.handle is None else 202, {}, view.model_dump(mode="json")
            case "GET", ["transactions", gid]:
                record = await self._transactions.transaction(gid)
                return 200, {}, transaction_view(record).model_dump(mode="json")
            case "GET", ["transactions", gid, "outcome"]:
                return _viewed(outcome_view(await self._transactions.outcome(gid, wait_s)))
            case "POST", ["transactions", gid, "outcome"]:
                return _viewed(await self._inquired(gid, InquiryRequest.model_validate(body)))
            case "POST", ["transactions", gid, "resolve"]:
                record = await self._transactions.resolve(gid, ResolveRequest.model_validate(body))
                return 200, {}, transaction_view(record).model_dump(mode="json")
            case "POST", ["transactions", gid, "steps", name]:
                branch = await self._transactions.report(gid, name, ReportRequest.model_validate(body))
                return 200, {}, branch_view(branch).model_dump(mode="json")
            case "POST", ["transactions", gid, ("redeliver" | "drop") as what]:
                request_ = LettersRequest.model_validate(body)
                record = await self._transactions.letters(gid, _LETTERS[what], request_)
                return 200, {}, transaction_view(record).model_dump(mode="json")
            case "GET", ["participants"]:
                known = [ParticipantView(name=name, url=url_of(name)) for name in self._participants]
                return 200, {}, ParticipantsView(participants=known).model_dump(mode="json")
            case "POST", [("workflows" | "workers") as what, *rest]:
                return await self._route_workflows(what, rest, body, wait_s)
        return _problem(NotFound(f"there is no {method} {path}"))

    async def _route_workflows(self, what: str, path: list[str], body: Any, wait_s: float) -> Reply:
        match what, path:
            case "workflows", []:
                view = outcome_view(Known.of(await self._workflows.start(WorkflowRequest.model_validate(body))))
                return 200 if view.handle is None else 202, {}, view.model_dump(mode="json")
            case "workers", []:
                claimed = await self._workflows.claim(ClaimRequest.model_validate(body), wait_s)
                return 200, {}, claim_view(claimed).model_dump(mode="json")
            case "workflows", [gid, "steps"]:
                ask = StepAsk.model_validate(body)
                record, answer = await self._workflows.step(gid, ask, wait_s)
                return 200, {}, step_view(record, ask.number, answer).model_dump(mode="json")
            case "workflows", [gid, "end"]:
                known = await self._workflows.end(gid, RunEndRequest.model_validate(body), wait_s)
                return _viewed(outcome_view(known))
        return _problem(NotFound(f"there is no POST {what} {path}"))

    async def _inquired(self, gid: str, inquiry: InquiryRequest) -> OutcomeView:
        record = await self._transactions.inquire(gid, inquiry)
        if record is None:
            return OutcomeView(gid=gid, outcome=Outcome.ABORTED, reason="no branch of it", branch=None, handle=None)
        return outcome_view(Known.of(record))


class ParticipantApi(_Api):
    """A bank's API: the operations that its kind knows, and its capabilities. `said` hears every answer.

    It is also where an application is `notified`.
    """

    def __init__(
        self,
        rpc: Rpc,
        service: ParticipantService,
        kind: Kind,
        said: Said,
        notified: Callable[[NoticeView], None],
        struck: Struck,
    ) -> None:
        super().__init__(rpc, struck)
        self._service = service
        self._notified = notified
        self._kind = kind
        self._said = said

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        try:
            match method, path.split("/")[2:]:
                case "GET", ["capabilities"]:
                    return 200, {}, self._capabilities()
                case "POST", ["notices"]:
                    self._notified(NoticeView.model_validate(body))
                    await self._pass("answering")
                    return 204, {}, {}
                case "POST", ["branches", gid, branch, verb]:
                    operation = Operation.from_map({**body, "verb": verb, "gid": gid, "branch": branch}, "operation")
                    return await self._perform(operation)
        except (WireError, BranchConflict) as error:
            return 409, {}, {"detail": str(error)}
        except ResourceError as error:
            return 503, {}, {"detail": str(error)}
        return 404, {}, {}

    async def _perform(self, operation: Operation) -> Reply:
        if (operation.verb is Verb.PREVENT and not self._kind.prevent) or (
            operation.one_phase and not self._kind.one_phase
        ):
            self._said(operation, None)
            return 404, {}, {"detail": "there is no such operation here"}
        await self._pass("asked")
        answer = await self._service.perform(operation)
        self._said(operation, answer)
        if operation.verb is not Verb.WORK:
            await self._pass("answering")
            return 200, {}, answer.to_map()
        return 200, {ENLIST_HEADER: f"{self._service.name};branch={operation.key.branch}"}, answer.to_map()

    def _capabilities(self) -> dict[str, Any]:
        known = self._service.capabilities()
        return {
            "name": known.name,
            "prevent": self._kind.prevent,
            "one_phase": self._kind.one_phase,
            "read_only": known.read_only,
            "three_phase": known.three_phase,
        }


def _viewed(view: OutcomeView) -> Reply:
    return 200, {}, view.model_dump(mode="json")


def _problem(error: RequestError) -> Reply:
    document = {"code": error.code, "title": error.title, "status": error.status, "detail": error.detail}
    return error.status, {}, document | {"retry_after_s": error.retry_after_s}
