"""Endpoints of FastAPI whose work is a branch's: a local one of their own, or that of a transaction which asks them.

The function of the endpoint is what runs in the database, and may run again there; whatever FastAPI makes of a request
is made once, before. Owns how a request becomes such a run, and its outcome a response. Must never do: change what
FastAPI reads of the function but `tx`, so that validation, injection and OpenAPI stay as they are.

Without a transaction, the branch is committed in one phase, under a gid that nobody else knows.
"""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import Callable
from http import HTTPStatus
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from multidict import CIMultiDict
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from participant.errors import ActionError, ConfigError, MediaTypeError, ParticipantError, Reject, ResourceError
from participant.exchange import RETRY_AFTER_S, problem, problem_of
from participant.exchange import Response as Told
from participant.ids import BranchKey
from participant.resource import Action, Call
from participant.service import ParticipantService
from participant.traceparent import trace_in
from participant.values import canonical, digest_of
from participant.wire import CONFLICT, ENLIST_HEADER, WORK_HEADER, Answer, BranchState, Operation, Verb, Work

try:
    from fastapi import Request, Response
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise ConfigError("an endpoint is one of FastAPI's, which is not installed: pip install fastapi") from error

__all__ = ["LOCAL_GID_PREFIX", "action_of", "endpoint_of"]

# Before every gid that is made of the time: who works alone waits for rows as long as any, and never ends a deadlock.
LOCAL_GID_PREFIX = "00-local-"
LOCAL_GID_BYTES = 16  # of chance

_Function = TypeVar("_Function", bound=Callable[..., Any])


def endpoint_of(function: _Function, service: Callable[[], ParticipantService]) -> _Function:
    """What FastAPI is to call. `service` gives the one that runs, or raises NotRunning. Raises ConfigError."""
    parameters = _parameters(function)
    names = {kind: _name_of(kind, parameters) for kind in (Request, Response)}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
        for kind, name in names.items()
        if name == _ours(kind)
    ]

    @functools.wraps(function)
    async def endpoint(**given: Any) -> Any:
        request: Request = given[names[Request]]
        response: Response = given[names[Response]]
        for each in added:
            del given[each.name]
        try:
            if WORK_HEADER in request.headers:
                return await _in_branch(service(), function, given, request, response)
            return await _alone(service(), function, given, request)
        except ParticipantError as error:
            return _response(problem_of(error, request.scope["path"]))

    del endpoint.__wrapped__  # FastAPI would look through to `tx`
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*parameters, *added], return_annotation=_types(function).get("return", inspect.Signature.empty)
    )
    return endpoint  # type: ignore[return-value]


def action_of(function: Callable[..., Any]) -> Action:
    """The same function as an action: its body is checked as FastAPI would. Raises ConfigError."""
    parameters = _parameters(function)
    model = _bare(parameters[0].annotation) if len(parameters) == 1 else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigError(
            f"{_name(function)}: an endpoint that is an action takes tx and one body, a pydantic model: paths, queries "
            "and dependencies are there in a request only; leave the action's name out, or these parameters"
        )

    async def action(tx: Any, body: Any) -> Any:
        try:
            checked = model.model_validate(body)
        except ValidationError as error:
            raise Reject("; ".join(map(_mistake, error.errors()))) from error
        return await _Run(function, {parameters[0].name: checked}, is_kept=True)(tx, None)

    return action


class _Run:
    """A call of the function, which may be made again. `result` and `error` are those of the last time.

    `is_kept`: whether a repeat of the request is to be answered with the same, so that it must be a JSON value.
    """

    def __init__(self, function: Callable[..., Any], given: dict[str, Any], *, is_kept: bool) -> None:
        self.name = _name(function)
        self.result: Any = None
        self.error: Exception | None = None
        self._function = function
        self._given = given
        self._is_kept = is_kept

    async def __call__(self, tx: Any, _: Any) -> Any:
        self.result = self.error = None
        try:
            self.result = await self._function(tx, **self._given)
            return _jsonable(self.result) if self._is_kept else None
        except HTTPException as error:  # a no, in the words of HTTP
            self.error = error
            raise Reject(error.detail) from error
        except Exception as error:
            self.error = error
            raise


async def _alone(
    service: ParticipantService, function: Callable[..., Any], given: dict[str, Any], request: Request
) -> Any:
    """Work, and commit. Raises ParticipantError, and what the function has raised."""
    run = _Run(function, given, is_kept=False)
    key = BranchKey(LOCAL_GID_PREFIX + secrets.token_hex(LOCAL_GID_BYTES), service.name)
    try:
        operation = Operation(Verb.COMMIT, key, one_phase=True, trace=_trace(request))
        answer = await service.perform(operation, Call.of(run.name, run, None))
    except ResourceError as error:
        unknown = f"whether it was done is not known: {error}"
        return _response(problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unknown", unknown))
    return run.result if answer.state is BranchState.COMMITTED else _refusal(answer, run)


async def _in_branch(
    service: ParticipantService,
    function: Callable[..., Any],
    given: dict[str, Any],
    request: Request,
    response: Response,
) -> Any:
    """Work for the branch that the request names. Raises ParticipantError, and what the function has raised."""
    run = _Run(function, given, is_kept=True)
    work = Work.of(request.headers[WORK_HEADER])
    call = Call(run.name, run, None, await _digest(run.name, request))
    answer = await service.perform(Operation(Verb.WORK, work.key, seq=work.seq, trace=_trace(request)), call)
    if answer.retry or answer.state is not BranchState.WORKING:
        return _refusal(answer, run)
    response.headers[ENLIST_HEADER] = f"{service.name};branch={work.key.branch}"
    return answer.result  # of a repeat, the function has not run


def _refusal(answer: Answer, run: _Run) -> Response:
    """Raises what the function has raised, if that is why."""
    if answer.retry:
        later = {"Retry-After": str(RETRY_AFTER_S)}
        return _response(problem(HTTPStatus.SERVICE_UNAVAILABLE, "come-again", answer.reason, later))
    if run.error is not None and not answer.reason.startswith(CONFLICT):
        raise run.error
    return _response(problem(HTTPStatus.CONFLICT, "refused", answer.reason or f"the branch is {answer.state}"))


def _trace(request: Request) -> str:
    return trace_in(CIMultiDict(request.headers.items()))


async def _digest(name: str, request: Request) -> bytes:
    """What a repeat of the request has, too. Raises MediaTypeError."""
    try:
        body = await request.body()
    except RuntimeError as error:  # it was read piece by piece
        raise MediaTypeError("in a transaction, an endpoint takes JSON or nothing, no form") from error
    asked = [request.method, request.scope["path"], request.scope["query_string"], body]
    return digest_of(name, canonical(asked, "request"))


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those beside `tx`, with their types instead of their types' names. Raises ConfigError."""
    names = list(inspect.signature(function).parameters)
    if not inspect.iscoroutinefunction(function) or names[:1] != ["tx"]:
        raise ConfigError(f"{_name(function)}: an endpoint must be an `async def` whose first parameter is tx")
    others = list(inspect.signature(function).parameters.values())[1:]
    types = _types(function)
    return [each.replace(annotation=types.get(each.name, each.annotation)) for each in others]


def _types(function: Callable[..., Any]) -> dict[str, Any]:
    """Of the result and the parameters beside `tx`, whose type FastAPI need not know. Raises ConfigError."""
    written = {name: each for name, each in function.__annotations__.items() if name != "tx"}
    try:
        return get_type_hints(SimpleNamespace(__annotations__=written), function.__globals__, include_extras=True)
    except NameError as error:
        raise ConfigError(f"{_name(function)}: its types must be known to FastAPI, in its module: {error}") from error


def _bare(kind: Any) -> Any:
    """A type without what `Annotated` says of it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _ours(kind: type) -> str:
    return f"commitd_{kind.__name__.lower()}"


def _name_of(kind: type, parameters: list[inspect.Parameter]) -> str:
    """The parameter for it that the function has already: FastAPI fills one of each kind."""
    return next((each.name for each in parameters if each.annotation is kind), _ours(kind))


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", "endpoint"))


def _jsonable(result: Any) -> Any:
    """Raises ActionError."""
    try:
        return to_jsonable_python(result)
    except PydanticSerializationError as error:
        raise ActionError(f"an endpoint must return a JSON value or a model: {error}") from error


def _mistake(item: Any) -> str:
    return f"{'.'.join(map(str, ('body', *item['loc'])))}: {item['msg']}"


def _response(told: Told) -> Response:
    return Response(told.body, int(told.status), dict(told.headers), told.content_type)
