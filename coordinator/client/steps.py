"""Transactions that go step by step, written down in the words of their kind: `Saga`, `Tcc`, `Message`.

    trip = client.saga()
    flight = trip.step("airline", "book", {"seat": "4A"}, undo="cancel", takes={"booking": OWN})
    trip.step("hotel", "reserve", {"nights": 3}, undo="release")
    trip.pivot("bank", "charge", {"cents": 90_000}, takes={"booking": flight})
    trip.then("mail", "confirm", {"to": "alice"})
    ended = await trip.run()

Each method returns the name of its branch, for `after` and `takes` of later ones. What may be mixed, and what not, the
coordinator says (`protocols.declaration`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Unpack

from coordinator.client.outcomes import Branch, Ended, Named
from coordinator.ledger.records import Mode
from coordinator.wire_steps import RETRY_BASE_DEFAULT_MS, RETRY_CAP_DEFAULT_MS

__all__ = ["OWN", "Message", "Prepared", "Retry", "Saga", "Tcc"]

OWN: Final = "."
"""In `takes`: the step's own result, which its confirm and its undo get."""

_NO_RESULTS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is begun before its refusal counts, and how long to wait in between: a random part of a window
    that doubles from `base_ms` to `cap_ms`; with both the same, it stays the same."""

    attempts_max: int = 1
    base_ms: int = RETRY_BASE_DEFAULT_MS
    cap_ms: int = RETRY_CAP_DEFAULT_MS

    def to_map(self) -> dict[str, int]:
        """The wire form (`wire_steps.RetryRequest`)."""
        return {"attempts_max": self.attempts_max, "base_ms": self.base_ms, "cap_ms": self.cap_ms}


class Committer(Protocol):
    """What is needed of the client."""

    def new_gid(self) -> str:
        """A gid for a new transaction."""

    async def begin(
        self,
        branches: Iterable[Branch],
        *,
        gid: str,
        deadline_ms: int,
        timeout_s: float | None = None,
        **named: Unpack[Named],
    ) -> Any:
        """Have it recorded."""

    async def submit(self, gid: str, *, timeout_s: float | None = None) -> Ended:
        """Say that its source is done."""

    async def commit(
        self,
        branches: Iterable[Branch],
        *,
        gid: str | None = None,
        deadline_ms: int = ...,
        timeout_s: float | None = None,
        **named: Unpack[Named],
    ) -> Ended:
        """Commit all branches, or undo them."""


class _Declaration:
    """Branches in the order of their declaration."""

    def __init__(self, client: Committer, deadline_ms: int, **named: Unpack[Named]) -> None:
        self._client = client
        self._named = named
        self._deadline_ms = deadline_ms
        self._branches: list[Branch] = []

    async def run(self, *, gid: str | None = None, timeout_s: float | None = None) -> Ended:
        """Have it done, and wait until it is decided. As `Client.commit`, which says what it raises."""
        return await self._client.commit(
            self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s, **self._named
        )

    def _add(
        self,
        mode: Mode,
        participant: str,
        action: str | None,
        body: Any,
        *,
        name: str | None,
        after: Sequence[str],
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
        not_before_ms: int = 0,
        **actions: str,
    ) -> str:
        name = name or f"s{len(self._branches) + 1}"
        step: dict[str, Any] = {"mode": mode.value, **actions}
        if after:
            step["after"] = list(after)
        if takes:
            step["takes"] = {field: name if source == OWN else source for field, source in takes.items()}
        if retry is not None:
            step["retry"] = retry.to_map()
        if not_before_ms:
            step["not_before_ms"] = not_before_ms
        self._branches.append(Branch(participant, action, body, name, step=step))
        return name


class _Mixture(_Declaration):
    """What may stand beside the steps of a saga, and beside reservations."""

    def reserve(
        self,
        participant: str,
        body: Any = None,
        *,
        attempt: str,
        confirm: str,
        cancel: str,
        name: str | None = None,
        after: Sequence[str] = (),
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
    ) -> str:
        """Try by the action `attempt`; `confirm` and `cancel` get the same body. All are tried at once, unless some
        are named to come first."""
        return self._add(
            Mode.TCC,
            participant,
            attempt,
            body,
            name=name,
            after=after,
            takes=takes,
            retry=retry,
            confirm=confirm,
            undo=cancel,
        )

    def prepare(self, participant: str, action: str, body: Any = None, *, name: str | None = None) -> str:
        """A branch of two-phase commit: prepared before the decision, committed or aborted with it."""
        return self._add(Mode.TWO_PHASE, participant, action, body, name=name, after=())

    def then(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        name: str | None = None,
        after: Sequence[str] = (),
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
        not_before_ms: int = 0,
    ) -> str:
        """A step that begins once it is decided to commit, and is begun anew until it succeeds. `not_before_ms`: it
        begins so long after the decision, or later (a new leader begins to count anew), never earlier."""
        return self._add(
            Mode.FORWARD,
            participant,
            action,
            body,
            name=name,
            after=after,
            takes=takes,
            retry=retry,
            not_before_ms=not_before_ms,
        )


class Tcc(_Mixture):
    """Reservations: all are tried at once, then all are confirmed, or those that were made are cancelled."""


class Saga(_Mixture):
    """Steps that commit one after the other; what has been done is undone if one of them is refused."""

    def __init__(self, client: Committer, deadline_ms: int, **named: Unpack[Named]) -> None:
        super().__init__(client, deadline_ms, **named)
        self._last: str | None = None

    def step(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        undo: str,
        name: str | None = None,
        after: Sequence[str] | None = None,
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
    ) -> str:
        """A step with the action that takes it back, which gets the same body. It comes after the one before it, or
        after those that are named: `after=[]` begins at once."""
        self._last = self._add(
            Mode.SAGA,
            participant,
            action,
            body,
            name=name,
            after=self._before(after),
            takes=takes,
            retry=retry,
            undo=undo,
        )
        return self._last

    def pivot(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        name: str | None = None,
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
    ) -> str:
        """The step with which all is decided; it comes after all others before it, and cannot be undone."""
        return self._add(Mode.PIVOT, participant, action, body, name=name, after=(), takes=takes, retry=retry)

    def _before(self, after: Sequence[str] | None) -> Sequence[str]:
        if after is not None:
            return after
        return () if self._last is None else (self._last,)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message that is recorded, and not sent yet. `branch`: of the sender's participant, which is to commit it:
    `await bank.commit(prepared.gid, prepared.branch, action, body)`."""

    gid: str
    branch: str
    client: Committer

    async def submit(self, *, timeout_s: float | None = None) -> Ended:
        """Say that the source has been committed, or refused; as `Client.submit`, which says what it raises."""
        return await self.client.submit(self.gid, timeout_s=timeout_s)


class Message(_Declaration):
    """One local transaction, and messages that are delivered if, and only if, it commits.

    The coordinators have it done (`when`, then `run`), or the sender does it by itself (`source`, `prepare`, its own
    commit, `submit`): then it is committed when the sender says so, whoever of the coordinators can be reached.
    """

    def __init__(self, client: Committer, deadline_ms: int, **named: Unpack[Named]) -> None:
        super().__init__(client, deadline_ms, **named)
        self._source: str | None = None

    def source(self, participant: str, *, name: str | None = None) -> str:
        """The local transaction, which the sender commits by itself, at its own participant. If nobody submits it by
        the deadline, its participant is asked: it is committed, or never will be."""
        self._source = self._add(Mode.SOURCE, participant, None, None, name=name, after=())
        return self._source

    async def prepare(self, *, gid: str | None = None, timeout_s: float | None = None) -> Prepared:
        """Have it recorded; nothing is sent before the source is committed. The deadline is counted from here, and by a
        new leader anew. As `Client.begin`, which says what it raises. Raises: ValueError without a source."""
        if self._source is None:
            raise ValueError("a message is prepared for a source; without one, run it")
        gid = gid or self._client.new_gid()
        await self._client.begin(
            self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s, **self._named
        )
        return Prepared(gid, self._source, self._client)

    async def run(self, *, gid: str | None = None, timeout_s: float | None = None) -> Ended:
        """As for the others. Raises: ValueError with a source, which somebody else commits."""
        if self._source is not None:
            raise ValueError("a message with a source is prepared, and submitted when the source is done")
        return await super().run(gid=gid, timeout_s=timeout_s)

    def when(self, participant: str, action: str, body: Any = None, *, name: str | None = None) -> str:
        """What is done first; if it is refused, nothing is sent."""
        return self._add(Mode.PIVOT, participant, action, body, name=name, after=())

    def send(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        name: str | None = None,
        after: Sequence[str] = (),
        takes: Mapping[str, str] = _NO_RESULTS,
        retry: Retry | None = None,
        not_before_ms: int = 0,
    ) -> str:
        """A message, delivered at least once, and done once; in any order, unless some are named to come first.
        `not_before_ms` as in `Saga.then`."""
        return self._add(
            Mode.FORWARD,
            participant,
            action,
            body,
            name=name,
            after=after,
            takes=takes,
            retry=retry,
            not_before_ms=not_before_ms,
        )
