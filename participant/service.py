"""A participant's operations: limits, the meaning of a request, the call of the resource manager. No HTTP.

Must never do: answer by itself what only the branch's row can know. Even "no such action" is said through the
resource manager, as a durable no, unless the branch has voted before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from structlog import get_logger

from participant.errors import BranchConflict, ConfigError, ParticipantError, Reject, ResourceBusy, WireError
from participant.ids import BranchKey
from participant.resource import Action, Call, ResourceManager, ResourceStatus
from participant.three_phase import ThreePhase
from participant.tracing import Span, start
from participant.values import canonical, digest_of
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb

__all__ = ["TRACES_KEPT_MAX", "ParticipantService", "ServiceLimits"]

TRACES_KEPT_MAX = 10_000  # of prepared branches; of others beyond, an inquiry names no trace

_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """`body_bytes_max`: one operation's body in its canonical encoding. `operations_max`: operations in one array.

    `in_flight_max`: operations that wait for the resource manager; one more is asked to come again, unless it ends a
    branch: those in flight may be waiting for its rows.
    """

    body_bytes_max: int = 65_536
    operations_max: int = 256
    in_flight_max: int = 2_048

    def __post_init__(self) -> None:
        for name in ("body_bytes_max", "operations_max", "in_flight_max"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, not {getattr(self, name)!r}")


class ParticipantService:
    """One participant. `actions` is read at each call, so that it may still be filled after the creation."""

    def __init__(
        self,
        name: str,
        resource: ResourceManager,
        actions: Mapping[str, Action],
        limits: ServiceLimits | None = None,
        three_phase: ThreePhase | None = None,
    ) -> None:
        """`three_phase`: its part in transactions in three phases; without it, it takes none."""
        self.name = name
        self.limits = limits or ServiceLimits()
        self._resource = resource
        self._actions = actions
        self._three_phase = three_phase
        self.measured: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {}
        self._in_flight = 0
        self._traces: dict[BranchKey, str] = {}  # of branches that are prepared, the oldest first

    def capabilities(self) -> Capabilities:
        """What a coordinator may ask for here."""
        return Capabilities(
            name=self.name,
            operations_max=self.limits.operations_max,
            body_bytes_max=self.limits.body_bytes_max,
            actions=tuple(sorted(self._actions)),
            three_phase=self._three_phase.key_id if self._three_phase is not None else "",
        )

    async def perform(self, operation: Operation, call: Call | None = None) -> Answer:
        """Do one operation. The answer is durable. `call`: what to run, instead of an action that it names.

        Raises: WireError, BranchConflict (nothing was done), ResourceError (the outcome is unknown).
        """
        if self._is_full_for(operation):
            return _COME_AGAIN
        self._in_flight += 1
        try:
            return await self._begin_traced(operation, call)
        except ResourceBusy as busy:
            return Answer(BranchState.UNKNOWN, str(busy), retry=True)
        finally:
            self._in_flight -= 1

    def read_array(self, forms: Sequence[object]) -> list[Operation | WireError]:
        """Operations from their wire forms; what is wrong with one stands in its place.

        Raises: WireError, if there are too many.
        """
        if len(forms) > self.limits.operations_max:
            raise WireError("operations", f"at most {self.limits.operations_max}, not {len(forms)}")
        return [_operation_or_error(form, f"operations[{index}]") for index, form in enumerate(forms)]

    async def perform_all(
        self, operations: Sequence[Operation | WireError]
    ) -> AsyncGenerator[list[tuple[int, Answer]], None]:
        """Do many at once, each for itself; a WireError stands for its operation (`read_array`).

        Gives the answers as they become true, each with the place of its operation: in one list what is there at once.
        The first list is empty if every operation has been tried, and all of them wait. To be closed
        (`contextlib.aclosing`): that gives up what is not answered.
        """
        under_way = _UnderWay(self._left)
        try:
            for index, operation in enumerate(operations):
                under_way.add(index, self._begin_one_of_many(operation))
            last = operations[-1] if operations else None
            if (
                self._resource.is_in_order
                and isinstance(last, Operation)
                and all(isinstance(each, Operation) and each.may_wait for each in operations)
            ):
                # It is served after them, and waits for nothing: with it, all that did not have to wait are answered.
                under_way.watch(asyncio.ensure_future(self._resource.outcome(last.key)))
            unanswered = len(operations)
            while unanswered:
                answers = await under_way.next()
                unanswered -= len(answers)
                yield answers
        finally:
            under_way.give_up()

    async def in_doubt(self) -> list[BranchKey]:
        """Branches that are prepared and wait for a decision, oldest first."""
        return await self._resource.in_doubt()

    async def status(self) -> ResourceStatus:
        """What the resource manager measures of itself. Raises ResourceError."""
        return await self._resource.status()

    def trace_of(self, key: BranchKey) -> str:
        """The trace of a prepared branch; "" if it has none, or none that is still known."""
        return self._traces.get(key, "")

    async def measures(self) -> dict[str, Any]:
        """All measures, in their wire form: the resource manager's, and by its name each of `measured`."""
        more = {name: await measure() for name, measure in self.measured.items()}
        return (await self.status()).to_map() | more

    def _is_full_for(self, operation: Operation) -> bool:
        is_full = self._in_flight >= self.limits.in_flight_max
        return is_full and (operation.may_wait or operation.verb is Verb.OUTCOME)

    def _begin_one_of_many(self, operation: Operation | WireError) -> asyncio.Future[Answer] | Answer:
        """Its answer, or where that will be."""
        if isinstance(operation, WireError):
            return _answer_of(operation)
        if self._is_full_for(operation):
            return _COME_AGAIN
        try:
            future = asyncio.ensure_future(self._begin_traced(operation))
        except ParticipantError as error:
            return _answer_of(error)
        self._in_flight += 1
        return future

    def _left(self) -> None:
        self._in_flight -= 1

    def _begin_traced(self, operation: Operation, call: Call | None = None) -> Awaitable[Answer]:
        """As `_begin`; a span of its trace, if it has one."""
        if not operation.trace:
            return self._begin(operation, call)
        key = operation.key
        what = {"gid": key.gid, "branch": key.branch, "participant": self.name}
        span = start(f"commitd.branch.{operation.verb.value}", operation.trace, "SERVER", what)
        try:
            future = asyncio.ensure_future(self._begin(operation, call, span))
        except BaseException as error:
            span.end(str(error))
            raise
        future.add_done_callback(partial(self._end_traced, operation, span))
        return future

    def _end_traced(self, operation: Operation, span: Span, future: asyncio.Future[Answer]) -> None:
        error = asyncio.CancelledError("given up") if future.cancelled() else future.exception()
        if error is not None:
            span.end(str(error) or type(error).__name__, outcome=BranchState.UNKNOWN.value)
            return
        state = future.result().state
        span.end(outcome=state.value)
        self._traces.pop(operation.key, None)
        if state is BranchState.PREPARED:
            while len(self._traces) >= TRACES_KEPT_MAX:
                del self._traces[next(iter(self._traces))]
            self._traces[operation.key] = operation.trace

    def _begin(self, operation: Operation, call: Call | None = None, span: Span | None = None) -> Awaitable[Answer]:
        """Hand it to the resource manager. Raises WireError."""
        key, resource = operation.key, self._resource
        if operation.in_three_phases:
            return self._begin_in_three_phases(operation, call, span)
        match operation.verb:
            case Verb.COMMIT | Verb.ABORT if self._three_phase is not None and not operation.one_phase:
                return self._three_phase.end_unproven(key, operation.verb)
            case Verb.COMMIT if not operation.one_phase:
                return resource.commit(key)
            case Verb.OUTCOME:
                return resource.outcome(key)
            case Verb.ABORT:
                return resource.abort(key)
            case Verb.PREVENT:
                return resource.prevent(key, "prevented before it was prepared")
        try:
            call = call or self._call(operation.action, operation.body)
        except Reject as no:
            return resource.prevent(key, no.reason)
        if span is not None and call is not None:
            call = call._replace(function=span.around(call.function))
        match operation.verb:
            case Verb.PREPARE:
                return resource.prepare(key, call, operation.works)
            case Verb.WORK if call is not None:
                return resource.work(key, call, operation.seq)
            case Verb.COMMIT:
                return resource.commit_one_phase(key, call, operation.works)
        raise WireError("action", "work needs an action")

    def _begin_in_three_phases(self, operation: Operation, call: Call | None, span: Span | None) -> Awaitable[Answer]:
        if self._three_phase is None:
            raise WireError("three_phase", f"{self.name} has no proof_secret, so it takes no part in three phases")
        prepare = operation._replace(three_phase=None)
        return self._three_phase.perform(operation, lambda: self._begin(prepare, call, span))

    def _call(self, action: str | None, body: object) -> Call | None:
        """What to run, if anything. Raises Reject if the branch must vote no, WireError if the body is no value."""
        if action is None:
            return None
        packed = canonical(body, "body")
        if len(packed) > self.limits.body_bytes_max:
            raise Reject(
                f"the body has {len(packed):,} bytes; {self.name} takes at most {self.limits.body_bytes_max:,}"
            )
        function = self._actions.get(action)
        if function is None:
            known = ", ".join(sorted(self._actions)) or "none"
            raise Reject(f"{self.name} has no action {action!r}; it has {known}")
        return Call(action, function, body, digest_of(action, packed))


class _UnderWay:
    """The operations of one array: those under way, and the answers that nobody has taken yet.

    `left` is called as each of those under way ends.
    """

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._futures: set[asyncio.Future[Answer]] = set()
        self._ready: list[tuple[int, Answer]] = []
        self._wake: asyncio.Future[None] | None = None
        self._is_tried = False

    def add(self, index: int, answer: asyncio.Future[Answer] | Answer) -> None:
        if isinstance(answer, Answer):
            self._ready.append((index, answer))
        else:
            self._futures.add(answer)
            answer.add_done_callback(partial(self._ended, index))

    def watch(self, tried: asyncio.Future[Answer]) -> None:
        """Let `next` return when `tried` has ended, even if nothing is answered."""
        self._futures.add(tried)
        tried.add_done_callback(self._tried)

    async def next(self) -> list[tuple[int, Answer]]:
        """The answers since the last time; waits for one if there is none."""
        if not self._ready and not self._is_tried:
            self._wake = self._loop.create_future()
            await self._wake
        answers, self._ready, self._is_tried = self._ready, [], False
        return answers

    def give_up(self) -> None:
        """Nobody waits any more."""
        for future in self._futures:
            future.cancel()

    def _ended(self, index: int, future: asyncio.Future[Answer]) -> None:
        self._left()
        self._futures.discard(future)
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        self._ready.append((index, future.result() if error is None else _answer_of(error)))
        self._rouse()

    def _tried(self, future: asyncio.Future[Answer]) -> None:
        self._futures.discard(future)
        if not future.cancelled():
            future.exception()  # if it failed, so did they
            self._is_tried = True
            self._rouse()

    def _rouse(self) -> None:
        """What ends in the same turn of the event loop as this is taken together with it."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


_COME_AGAIN = Answer(BranchState.UNKNOWN, "too many requests at once; come again", retry=True)


def _operation_or_error(form: object, where: str) -> Operation | WireError:
    try:
        return Operation.from_map(form, where)
    except WireError as error:
        return error


def _answer_of(error: BaseException) -> Answer:
    """An answer for what would be an error if it were alone: nothing was done, or it is unknown; it is no vote."""
    match error:
        case WireError() | BranchConflict():
            return Answer(BranchState.UNKNOWN, str(error))
        case ParticipantError():
            return Answer(BranchState.UNKNOWN, str(error), retry=True)
        case asyncio.CancelledError():
            return Answer(BranchState.UNKNOWN, "given up", retry=True)
    _LOG.error("operation.failed", exc_info=error)
    return Answer(BranchState.UNKNOWN, "a defect of this participant; see its log", retry=True)
