"""HTTP without HTTP: the requests and responses of production code as calls over the lossy network.

Production's client keeps its own logic (`coordinator.client` over a session of ours), its server side is entered right
beneath the HTTP handlers, at `driver.service.Transactions` and `participant.service`. What is left out is parsing,
which has its own tests; what is added is what HTTP may do to a request: lose it, double it, answer too late.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgpack
from yarl import URL

from coordinator.client.session import Lost, NotReached, Response
from coordinator.driver.service import Transactions
from coordinator.errors import NoLeader, NotFound, NotLeader, RequestError
from coordinator.http.views import outcome_view, transaction_view
from coordinator.participants.http import capabilities_of
from coordinator.ports import CallFailed
from coordinator.wire import (
    InquiryRequest,
    Outcome,
    OutcomeView,
    ParticipantsView,
    ParticipantView,
    ResolveRequest,
    TransactionRequest,
)
from participant.errors import BranchConflict, ResourceError, WireError
from participant.ids import BranchKey
from participant.outcomes import Outcome as Ended
from participant.service import ParticipantService
from participant.wire import ENLIST_HEADER, Answer, Capabilities, Operation
from tests.simulation.rpc import CallRefused, CallTimeout, Rpc

__all__ = ["ParticipantApi", "ReplicaApi", "SimOutcomeSource", "SimParticipants", "SimSession", "url_of"]

_HTTP = "http"
_INQUIRY_TIMEOUT_S = 3.0
_MSGPACK = {"Content-Type": "application/msgpack"}
_PROBLEM = {"Content-Type": "application/problem+json"}

Reply = tuple[int, dict[str, str], Any]


def url_of(machine: str) -> str:
    """Where the server of a machine is reached."""
    return f"http://{machine}:80"


async def _request(
    rpc: Rpc, method: str, url: URL, body: Any, timeout_s: float
) -> tuple[int, dict[str, str], dict[str, Any]]:
    request = msgpack.packb([method, url.raw_path, dict(url.query), body])
    status, headers, document = msgpack.unpackb(await rpc.call(str(url.host), _HTTP, request, timeout_s))
    return status, headers, document


class SimSession:
    """In the place of `coordinator.client.session.Session`."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def close(self) -> None:
        """Nothing is open."""

    async def send(self, method: str, url: URL, body: bytes | None, timeout_s: float) -> Response:
        """One request. Raises: NotReached, Lost."""
        decoded = None if body is None else msgpack.unpackb(body)
        try:
            status, headers, document = await _request(self._rpc, method, url, decoded, timeout_s)
        except CallRefused as error:
            raise NotReached(str(error)) from error
        except CallTimeout as error:
            raise Lost(str(error)) from error
        if status >= 400:
            return Response(status, _PROBLEM | headers, json.dumps(document).encode())
        return Response(status, _MSGPACK | headers, msgpack.packb(document))


class _Api:
    """Answers requests of one process."""

    def __init__(self, rpc: Rpc) -> None:
        rpc.serve(_HTTP, self._serve)

    async def _serve(self, _source: str, request: bytes) -> bytes:
        method, path, query, body = msgpack.unpackb(request)
        packed: bytes = msgpack.packb(await self.answer(method, path, query, body))
        return packed

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        raise NotImplementedError


class ReplicaApi(_Api):
    """The part of a replica's API that clients and participants use; errors as its HTTP border gives them."""

    def __init__(self, rpc: Rpc, name: str, transactions: Transactions, participants: list[str]) -> None:
        super().__init__(rpc)
        self._name = name
        self._transactions = transactions
        self._participants = participants

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        try:
            return await self._route(method, path, query, body)
        except NotLeader as error:
            if error.leader is None or error.leader == self._name:
                return _problem(NoLeader("no replica leads now", retry_after_s=1.0))
            asked = URL(url_of(error.leader)).with_path(path).with_query(query)
            return 307, {"Location": str(asked)}, {}
        except RequestError as error:
            return _problem(error)

    async def _route(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        wait_s = int(query["wait_ms"]) / 1_000 if "wait_ms" in query else 0.0
        match method, path.split("/")[2:]:
            case "POST", ["transactions"]:
                request = TransactionRequest.model_validate(body)
                gid, record = await self._transactions.begin(request, wait_s)
                view = outcome_view(gid, record)
                return 200 if view.handle is None else 202, {}, view.model_dump(mode="json")
            case "GET", ["transactions", gid, "outcome"]:
                return _viewed(outcome_view(gid, await self._transactions.outcome(gid, wait_s)))
            case "POST", ["transactions", gid, "outcome"]:
                return _viewed(await self._inquired(gid, InquiryRequest.model_validate(body)))
            case "POST", ["transactions", gid, "resolve"]:
                record = await self._transactions.resolve(gid, ResolveRequest.model_validate(body))
                return 200, {}, transaction_view(record).model_dump(mode="json")
            case "GET", ["participants"]:
                known = [ParticipantView(name=name, url=url_of(name)) for name in self._participants]
                return 200, {}, ParticipantsView(participants=known).model_dump(mode="json")
        return _problem(NotFound(f"there is no {method} {path}"))

    async def _inquired(self, gid: str, inquiry: InquiryRequest) -> OutcomeView:
        record = await self._transactions.inquire(gid, inquiry)
        if record is None:
            return OutcomeView(gid=gid, outcome=Outcome.ABORTED, reason="no branch of it", branch=None, handle=None)
        return outcome_view(gid, record)


class ParticipantApi(_Api):
    """A participant's API: operations, and its capabilities."""

    def __init__(self, rpc: Rpc, service: ParticipantService) -> None:
        super().__init__(rpc)
        self._service = service

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        try:
            match method, path.split("/")[2:]:
                case "GET", ["capabilities"]:
                    return 200, {}, self._capabilities()
                case "POST", ["branches", gid, branch, verb]:
                    operation = Operation.from_map({**body, "verb": verb, "gid": gid, "branch": branch}, "operation")
                    enlisted = {ENLIST_HEADER: f"{self._service.name};branch={branch}"} if verb == "work" else {}
                    return 200, enlisted, (await self._service.perform(operation)).to_map()
        except (WireError, BranchConflict) as error:
            return 409, {}, {"detail": str(error)}
        except ResourceError as error:
            return 503, {}, {"detail": str(error)}
        return 404, {}, {}

    def _capabilities(self) -> dict[str, Any]:
        known = self._service.capabilities()
        return {
            "name": known.name,
            "prevent": known.prevent,
            "one_phase": known.one_phase,
            "read_only": known.read_only,
        }


class SimParticipants:
    """`coordinator.ports.Participants` of one replica. Names of participants are names of machines."""

    def __init__(self, rpc: Rpc, names: list[str], timeout_s: float) -> None:
        self._rpc = rpc
        self._names = names
        self._timeout_s = timeout_s
        self._known: dict[str, Capabilities] = {}

    def known(self, name: str) -> bool:
        return name in self._names

    async def capabilities(self, name: str) -> Capabilities:
        if name not in self._known:
            self._known[name] = capabilities_of(await self._ask("GET", name, "/v1/capabilities", None))
        return self._known[name]

    async def call(self, name: str, operation: Operation) -> Answer:
        form = operation.to_map()
        path = f"/v1/branches/{form.pop('gid')}/{form.pop('branch')}/{form.pop('verb')}"
        return Answer.from_map(await self._ask("POST", name, path, form), name)

    async def _ask(self, method: str, name: str, path: str, body: Any) -> Any:
        try:
            status, _, document = await _request(self._rpc, method, URL(url_of(name) + path), body, self._timeout_s)
        except (CallRefused, CallTimeout) as error:
            raise CallFailed(str(error)) from error
        if status != 200:
            raise CallFailed(f"{name} answered {status}: {document}")
        return document


class SimOutcomeSource:
    """`participant.outcomes.OutcomeSource` of one participant: asks the replicas in turn, following redirects."""

    def __init__(self, rpc: Rpc, participant: str, replicas: list[str]) -> None:
        self._rpc = rpc
        self._participant = participant
        self._replicas = list(replicas)

    async def inquire(self, key: BranchKey) -> Ended | None:
        for replica in tuple(self._replicas):
            outcome = await self._ask(URL(f"{url_of(replica)}/v1/transactions/{key.gid}/outcome"), key)
            if outcome is not None:
                self._replicas.remove(replica)
                self._replicas.insert(0, replica)
                return outcome
        return None

    async def _ask(self, url: URL, key: BranchKey) -> Ended | None:
        body = {"participant": self._participant, "branch": key.branch}
        for _ in range(4):
            try:
                status, headers, view = await _request(self._rpc, "POST", url, body, _INQUIRY_TIMEOUT_S)
            except (CallRefused, CallTimeout):
                return None
            if status == 200 and view["gid"] == key.gid:
                return Ended(view["outcome"])
            if status != 307:
                return None
            url = URL(headers["Location"])
        return None


def _viewed(view: OutcomeView) -> Reply:
    return 200, {}, view.model_dump(mode="json")


def _problem(error: RequestError) -> Reply:
    after = {} if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    document = {"code": error.code, "title": error.title, "status": error.status, "detail": error.detail}
    return error.status, after, document
