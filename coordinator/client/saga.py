"""Transactions that go step by step, written down in the words of their kind: `Saga` and `Tcc`.

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

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from coordinator.client.declaration import NO_RESULTS, Committer, DeadAfter, Declaration, Included, Retry
from coordinator.client.outcomes import Named
from coordinator.ledger.records import Mode

__all__ = ["Saga", "Tcc"]


class _Mixture(Declaration):
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
        takes: Mapping[str, str] = NO_RESULTS,
        retry: Retry | None = None,
        reported: str | None = None,
    ) -> str:
        """Try by the action `attempt`; `confirm` and `cancel` get the same body. All are tried at once, unless some
        are named to come first. `reported` as in `Saga.step`."""
        return self._add(
            Mode.TCC,
            participant,
            attempt,
            body,
            name=name,
            after=after,
            takes=takes,
            retry=retry,
            reported=reported,
            confirm=confirm,
            undo=cancel,
        )

    def include(self, name: str, part: _Mixture, *, after: Sequence[str] = ()) -> Included:
        """Make another declaration a part of this one: its branches, each called `name.branch`, decided and undone
        with all others. Those of it that wait for nothing else come after `after`.

        What comes after the part, says `after=included.ends`; its results are those of `included["branch"]`. A pivot in
        it is the pivot of the whole. Raises: ValueError for names that there are already, or a part without branches.
        """
        return self._include(name, part, after)

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
        takes: Mapping[str, str] = NO_RESULTS,
        retry: Retry | None = None,
        not_before_ms: int = 0,
        reported: str | None = None,
        order_key: str | None = None,
        dead_after: DeadAfter | None = None,
    ) -> str:
        """A step that begins once it is decided to commit, and is begun anew until it succeeds. `not_before_ms`: it
        begins so long after the decision, or later (a new leader begins to count anew), never earlier. `reported` as in
        `Saga.step`; what is reported as refused here is begun anew. `order_key` and `dead_after` as
        in `Message.send`, and not together with `reported`."""
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
            reported=reported,
            order_key=order_key,
            dead_after=dead_after,
        )


class Tcc(_Mixture):
    """Reservations: all are tried at once, then all are confirmed, or those that were made are cancelled."""


class Saga(_Mixture):
    """Steps that commit one after the other; what has been done is undone if one of them is refused."""

    def __init__(self, client: Committer, deadline_ms: int, **named: Unpack[Named]) -> None:
        super().__init__(client, deadline_ms, **named)
        self._last: tuple[str, ...] = ()

    def step(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        undo: str,
        name: str | None = None,
        after: Sequence[str] | None = None,
        takes: Mapping[str, str] = NO_RESULTS,
        retry: Retry | None = None,
        reported: str | None = None,
    ) -> str:
        """A step with the action that takes it back, which gets the same body. It comes after the one before it, or
        after those that are named: `after=[]` begins at once. `reported`: the action only begins the work, and gets a
        token as this field of its body; the step is done when somebody reports it with that (`Client.report`), or the
        saga is undone when he declines it (`Client.decline`)."""
        added = self._add(
            Mode.SAGA,
            participant,
            action,
            body,
            name=name,
            after=self._before(after),
            takes=takes,
            retry=retry,
            reported=reported,
            undo=undo,
        )
        self._last = (added,)
        return added

    def include(self, name: str, part: _Mixture, *, after: Sequence[str] | None = None) -> Included:
        """As for reservations, but the part comes after the step before it, as a step does, and the next step after the
        part."""
        included = self._include(name, part, self._before(after))
        self._last = included.ends or self._last
        return included

    def pivot(
        self,
        participant: str,
        action: str,
        body: Any = None,
        *,
        name: str | None = None,
        takes: Mapping[str, str] = NO_RESULTS,
        retry: Retry | None = None,
    ) -> str:
        """The step with which all is decided; it comes after all others before it, and cannot be undone."""
        return self._add(Mode.PIVOT, participant, action, body, name=name, after=(), takes=takes, retry=retry)

    def _before(self, after: Sequence[str] | None) -> Sequence[str]:
        return self._last if after is None else after
