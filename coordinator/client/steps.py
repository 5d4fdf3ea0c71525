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
from typing import Any, Final, Protocol

from coordinator.client.outcomes import Branch, Ended
from coordinator.ledger.records import Mode
from coordinator.wire_steps import RETRY_BASE_DEFAULT_MS, RETRY_CAP_DEFAULT_MS

__all__ = ["OWN", "Message", "Retry", "Saga", "Tcc"]

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

    async def commit(
        self,
        branches: Iterable[Branch],
        *,
        gid: str | None = None,
        deadline_ms: int = ...,
        timeout_s: float | None = None,
    ) -> Ended:
        """Commit all branches, or undo them."""


class _Declaration:
    """Branches in the order of their declaration."""

    def __init__(self, client: Committer, deadline_ms: int) -> None:
        self._client = client
        self._deadline_ms = deadline_ms
        self._branches: list[Branch] = []

    async def run(self, *, gid: str | None = None, timeout_s: float | None = None) -> Ended:
        """Have it done, and wait until it is decided. As `Client.commit`, which says what it raises."""
        return await self._client.commit(self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s)

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
    ) -> str:
        """A step that begins once it is decided to commit, and is begun anew until it succeeds."""
        return self._add(Mode.FORWARD, participant, action, body, name=name, after=after, takes=takes, retry=retry)


class Tcc(_Mixture):
    """Reservations: all are tried at once, then all are confirmed, or those that were made are cancelled."""


class Saga(_Mixture):
    """Steps that commit one after the other; what has been done is undone if one of them is refused."""

    def __init__(self, client: Committer, deadline_ms: int) -> None:
        super().__init__(client, deadline_ms)
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


class Message(_Declaration):
    """One local transaction, and messages that are delivered if, and only if, it commits."""

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
    ) -> str:
        """A message, delivered at least once, and done once; in any order, unless some are named to come first."""
        return self._add(Mode.FORWARD, participant, action, body, name=name, after=after, takes=takes, retry=retry)
