"""A local transaction, and messages that follow its commit.

order = client.message()
placed = order.when("orders", "place", {"number": "4711"})
order.send("points", "credit", {"customer": "ann", "points": 25}, takes={"order": placed})
ended = await order.run()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from coordinator.client.declaration import NO_RESULTS, Committer, DeadAfter, Declaration, Retry
from coordinator.client.outcomes import Ended, Named
from coordinator.ledger.records import Mode

__all__ = ["Message", "Prepared"]


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


class Message(Declaration):
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
        return Prepared(await self.start(gid=gid, timeout_s=timeout_s), self._source, self._client)

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
        takes: Mapping[str, str] = NO_RESULTS,
        retry: Retry | None = None,
        not_before_ms: int = 0,
        order_key: str | None = None,
        dead_after: DeadAfter | None = None,
    ) -> str:
        """A message, delivered at least once, and done once; in any order, unless some are named to come first.
        `not_before_ms` as in `Saga.then`. `order_key`: those of one key are delivered one after the other, in the order
        in which their transactions were begun; each waits until those before it are delivered, or aborted. With a gid
        of your own, see `Client.gid_beside`. `dead_after`: when it is set aside; without it, it is tried for ever."""
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
            order_key=order_key,
            dead_after=dead_after,
        )
