"""The endpoints of a participant, once for all frameworks: a request in, a response out.

Owns the table of paths, and what each of them does with `service`. Must never do: know a framework. The stream is not
here, because it is no request; `participant.stream` has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

from participant.errors import ConfigError, NoSuchPath, WireError, WrongMethod
from participant.exchange import Request, Response, problem, problem_of, read_map, respond
from participant.resource import Action, Call, ResourceManager
from participant.service import ParticipantService
from participant.traceparent import trace_in
from participant.wire import BRANCHES_PATH, ENLIST_HEADER, ENVELOPE_BYTES, Answer, Operation, Verb

__all__ = ["BODY_TIMEOUT_S", "REQUEST_BYTES_MAX", "Endpoints", "Health"]

REQUEST_BYTES_MAX = 8 << 20  # one request, however many operations its limits would allow
BODY_TIMEOUT_S = 10.0

_OUTCOME_PATH = f"{BRANCHES_PATH}/{{gid}}/{{branch}}/outcome"
_VERB_PATH = f"{BRANCHES_PATH}/{{gid}}/{{branch}}/{{verb}}"

_Handler = Callable[[Request], Awaitable[Response]]


class Health(Protocol):
    """Whether the participant can still do its work."""

    def failure(self) -> str | None:
        """Why it cannot, if so."""


class Endpoints:
    """What a participant that runs answers. `size_max`: bytes of a body, for whoever reads it. `routes`: what there is
    beside the views and the stream, by path and method. Raises ConfigError if a view is in the way.
    """

    def __init__(
        self,
        service: ParticipantService,
        health: Health,
        resource: ResourceManager,
        views: Mapping[str, Action],
    ) -> None:
        self.service = service
        limits = service.limits
        self.size_max = max(
            limits.body_bytes_max + ENVELOPE_BYTES, min(REQUEST_BYTES_MAX, service.capabilities().array_bytes_max)
        )
        self._health = health
        self._resource = resource
        self._views = {path.rstrip("/"): view for path, view in views.items()}
        self.routes: Mapping[str, Mapping[str, _Handler]] = {
            "/livez": {"GET": self._livez},
            "/v1/capabilities": {"GET": self._capabilities},
            "/v1/in-doubt": {"GET": self._in_doubt},
            "/v1/status": {"GET": self._status},
            BRANCHES_PATH: {"POST": self._array},
            _OUTCOME_PATH: {"GET": self._outcome},
            _VERB_PATH: {"POST": self._operation},
        }
        if taken := self.routes.keys() & self._views.keys():
            raise ConfigError(f"view {min(taken)!r}: that path is the participant's own")

    async def answer(self, request: Request) -> Response:
        """Never raises: what is wrong is said in the response."""
        try:
            handlers = self._handlers(request.path)
            handler = handlers.get("GET" if request.method == "HEAD" else request.method)
            if handler is None:
                raise WrongMethod(request.method, tuple(handlers))
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the border: a defect must not look like an answer
            return problem_of(error, request.path)

    def _handlers(self, path: str) -> Mapping[str, _Handler]:
        """By method. Raises NoSuchPath."""
        path = path.rstrip("/")  # some frameworks add one where they mount
        if (found := self.routes.get(path)) is not None:
            return found
        match path.split("/"):
            case ["", "v1", "branches", _, _, "outcome"]:
                return self.routes[_OUTCOME_PATH]
            case ["", "v1", "branches", _, _, _]:
                return self.routes[_VERB_PATH]
        if path in self._views:
            return {"GET": self._view}
        raise NoSuchPath(path)

    async def _livez(self, _: Request) -> Response:
        failure = self._health.failure()
        if failure is not None:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "failed", failure)
        return Response(HTTPStatus.OK, "text/plain", b"ok\n")

    async def _capabilities(self, request: Request) -> Response:
        return respond(request, asdict(replace(self.service.capabilities(), stream=request.has_stream)))

    async def _in_doubt(self, request: Request) -> Response:
        branches = [{"gid": key.gid, "branch": key.branch} for key in await self.service.in_doubt()]
        return respond(request, {"branches": branches})

    async def _status(self, request: Request) -> Response:
        return respond(request, await self.service.measures())

    async def _array(self, request: Request) -> Response:
        form = read_map(request)
        listed = form.pop("operations", None)
        if not isinstance(listed, list) or form:
            raise WireError("operations", "must be a list, and the only field")
        operations = self.service.read_array(listed)
        answers: dict[int, Answer] = {}
        async with aclosing(self.service.perform_all(operations)) as lists:
            async for answered in lists:
                answers.update(answered)
        return respond(request, {"answers": [answers[i].to_map() for i in range(len(operations))]})

    async def _outcome(self, request: Request) -> Response:
        answer, _ = await self._perform(request, {})
        return respond(request, answer.to_map())

    async def _operation(self, request: Request) -> Response:
        answer, operation = await self._perform(request, read_map(request))
        is_work = operation.verb is Verb.WORK
        enlisted = {ENLIST_HEADER: f"{self.service.name};branch={operation.key.branch}"} if is_work else None
        return respond(request, answer.to_map(), enlisted)

    async def _perform(self, request: Request, form: dict[str, Any]) -> tuple[Answer, Operation]:
        path = dict(zip(("gid", "branch", "verb"), request.path.rstrip("/").split("/")[3:], strict=True))
        for name in ("verb", "gid", "branch"):
            if name in form:
                raise WireError(name, "stands in the path, not in the body")
        operation = Operation.from_map(form | path, "operation")
        trace = trace_in(request.headers)
        return await self.service.perform(operation._replace(trace=trace) if trace else operation), operation

    async def _view(self, request: Request) -> Response:
        path = request.path.rstrip("/")
        query = dict(reversed(parse_qsl(request.query, keep_blank_values=True)))  # of two, the first
        return respond(request, await self._resource.read(Call.of(path, self._views[path], query)))
