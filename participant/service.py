"""A participant's operations: limits, the meaning of a request, the call of the resource manager. No HTTP.

Must never do: answer by itself what only the branch's row can know. Even "no such action" is said through the
resource manager, as a durable no, unless the branch has voted before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from participant.errors import BranchConflict, ConfigError, ParticipantError, Reject, ResourceBusy, WireError
from participant.ids import BranchKey
from participant.resource import Action, Call, ResourceManager
from participant.values import canonical, digest_of
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb

__all__ = ["ParticipantService", "ServiceLimits"]


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
    ) -> None:
        self.name = name
        self.limits = limits or ServiceLimits()
        self._resource = resource
        self._actions = actions
        self._in_flight = 0

    def capabilities(self) -> Capabilities:
        """What a coordinator may ask for here."""
        return Capabilities(
            name=self.name,
            operations_max=self.limits.operations_max,
            body_bytes_max=self.limits.body_bytes_max,
            actions=tuple(sorted(self._actions)),
        )

    async def perform(self, operation: Operation) -> Answer:
        """Do one operation. The answer is durable.

        Raises: WireError, BranchConflict (nothing was done), ResourceError (the outcome is unknown).
        """
        if self._in_flight >= self.limits.in_flight_max and not _ends_a_branch(operation):
            return Answer(BranchState.UNKNOWN, "too many requests at once; come again", retry=True)
        self._in_flight += 1
        try:
            return await self._perform(operation)
        except ResourceBusy as busy:
            return Answer(BranchState.UNKNOWN, str(busy), retry=True)
        finally:
            self._in_flight -= 1

    async def perform_all(self, operations: Sequence[Operation | WireError]) -> list[Answer]:
        """Do many at once, each for itself; the answers in the same order. A WireError stands for its operation.

        Raises: WireError, if there are too many.
        """
        if len(operations) > self.limits.operations_max:
            raise WireError("operations", f"at most {self.limits.operations_max}, not {len(operations)}")
        return list(await asyncio.gather(*map(self._perform_one_of_many, operations)))

    async def in_doubt(self) -> list[BranchKey]:
        """Branches that are prepared and wait for a decision, oldest first."""
        return await self._resource.in_doubt()

    async def _perform_one_of_many(self, operation: Operation | WireError) -> Answer:
        """An answer for what would be an error if it were alone: nothing was done, and it is no vote."""
        if isinstance(operation, WireError):
            return Answer(BranchState.UNKNOWN, str(operation))
        try:
            return await self.perform(operation)
        except (WireError, BranchConflict) as error:
            return Answer(BranchState.UNKNOWN, str(error))
        except ParticipantError as error:
            return Answer(BranchState.UNKNOWN, str(error), retry=True)

    async def _perform(self, operation: Operation) -> Answer:
        key, resource = operation.key, self._resource
        match operation.verb:
            case Verb.OUTCOME:
                return await resource.outcome(key)
            case Verb.ABORT:
                return await resource.abort(key)
            case Verb.PREVENT:
                return await resource.prevent(key, "prevented before it was prepared")
            case Verb.COMMIT if not operation.one_phase:
                return await resource.commit(key)
        try:
            call = self._call(operation.action, operation.body)
        except Reject as no:
            return await resource.prevent(key, no.reason)
        match operation.verb:
            case Verb.WORK if call is not None:
                return await resource.work(key, call, operation.seq)
            case Verb.PREPARE:
                return await resource.prepare(key, call, operation.works)
            case Verb.COMMIT:
                return await resource.commit_one_phase(key, call, operation.works)
        raise WireError("action", "work needs an action")

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


def _ends_a_branch(operation: Operation) -> bool:
    """Whether it takes on no work, and so never waits for a row."""
    return operation.verb in (Verb.ABORT, Verb.PREVENT) or (operation.verb is Verb.COMMIT and not operation.one_phase)
