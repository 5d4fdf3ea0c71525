"""What all declarations of steps have in common: branches in their order, retries, results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol, Unpack

from coordinator.client.outcomes import Branch, Ended, Named
from coordinator.ledger.records import JITTER_DEFAULT_PERCENT, Mode
from coordinator.wire_steps import RETRY_BASE_DEFAULT_MS, RETRY_CAP_DEFAULT_MS

__all__ = ["NO_RESULTS", "OWN", "Committer", "DeadAfter", "Declaration", "Included", "Retry"]

OWN: Final = "."
"""In `takes`: the step's own result, which its confirm and its undo get."""

NO_RESULTS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is begun before its refusal counts, and how long to wait in between: a window that doubles from
    `base_ms` to `cap_ms`, of which `jitter_percent` are drawn by chance. With both the same and no jitter, each pause
    is the same."""

    attempts_max: int = 1
    base_ms: int = RETRY_BASE_DEFAULT_MS
    cap_ms: int = RETRY_CAP_DEFAULT_MS
    jitter_percent: int = JITTER_DEFAULT_PERCENT

    def to_map(self) -> dict[str, int]:
        """The wire form (`wire_steps.RetryRequest`)."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DeadAfter:
    """When a message is set aside for a person, instead of being tried for ever: after so many refusals, or when it is
    so old, counted from the decision, and was tried. Of both, the first counts; 0: never."""

    attempts_max: int = 0
    age_max_ms: int = 0

    def to_map(self) -> dict[str, int]:
        """The wire form (`wire_steps.DeadAfterRequest`)."""
        return asdict(self)


class Committer(Protocol):
    """What is needed of the client."""

    def new_gid(self) -> str:
        """A gid for a new transaction."""

    async def gid_beside(self, order_key: str) -> str:
        """A gid for a new transaction with a message of this key."""

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


class Included(Mapping[str, str]):
    """A part of a declaration: the names of its branches in the whole, by those that they had before.

    `ends`: those of its branches before the decision that nothing else of it comes after, so that what comes after the
    part names them.
    """

    def __init__(self, names: Mapping[str, str], ends: Sequence[str]) -> None:
        self.ends = tuple(ends)
        self._names = dict(names)

    def __getitem__(self, name: str) -> str:
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Declaration:
    """Branches in the order of their declaration."""

    def __init__(self, client: Committer, deadline_ms: int, **named: Unpack[Named]) -> None:
        self._client = client
        self._named = named
        self._deadline_ms = deadline_ms
        self._branches: list[Branch] = []
        self._order_key: str | None = None

    async def run(self, *, gid: str | None = None, timeout_s: float | None = None) -> Ended:
        """Have it done, and wait until it is decided. As `Client.commit`, which says what it raises."""
        gid = gid or await self._gid_beside_key()
        return await self._client.commit(
            self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s, **self._named
        )

    async def start(self, *, gid: str | None = None, timeout_s: float | None = None) -> str:
        """Have it recorded, and go on; `Client.wait` with the gid, which this gives, says how it ended. As
        `Client.begin`, which says what it raises."""
        gid = gid or await self._gid_beside_key() or self._client.new_gid()
        await self._client.begin(
            self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s, **self._named
        )
        return gid

    async def _gid_beside_key(self) -> str | None:
        return None if self._order_key is None else await self._client.gid_beside(self._order_key)

    def _add(
        self,
        mode: Mode,
        participant: str,
        action: str | None,
        body: Any,
        *,
        name: str | None,
        after: Sequence[str],
        takes: Mapping[str, str] = NO_RESULTS,
        retry: Retry | None = None,
        not_before_ms: int = 0,
        reported: str | None = None,
        order_key: str | None = None,
        dead_after: DeadAfter | None = None,
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
        if reported is not None:
            step["reported"] = reported
        if order_key is not None:
            step["order_key"] = self._order_key = order_key
        if dead_after is not None:
            step["dead_after"] = dead_after.to_map()
        self._branches.append(Branch(participant, action, body, name, step=step))
        return name

    def _include(self, name: str, part: Declaration, after: Sequence[str]) -> Included:
        """The branches of another declaration as branches of this one, each called `name.branch`. Those of them that
        waited for nothing come after `after`. Raises: ValueError."""
        if part is self or not part._branches:
            raise ValueError("a part is another declaration, with at least one branch")
        names = {str(branch.name): f"{name}.{branch.name}" for branch in part._branches}
        if taken := set(names.values()) & {branch.name for branch in self._branches}:
            raise ValueError(f"{', '.join(sorted(taken))}: there is a branch of that name already; choose another one")
        before = {str(branch.name): _waits_for(branch) for branch in part._branches if _mode_of(branch) in _BEFORE}
        for branch in part._branches:
            own = str(branch.name)
            if strange := {*(branch.step or {}).get("after", ())} - names.keys():
                raise ValueError(f"{own} comes after {', '.join(sorted(strange))}, and there is no such branch")
            step = {**(branch.step or {}), "after": [names[other] for other in (branch.step or {}).get("after", ())]}
            if own in before and not before[own]:
                step["after"] = list(after)
            if takes := step.get("takes"):
                step["takes"] = {field: names[source] for field, source in takes.items()}
            self._branches.append(replace(branch, name=names[own], step=step))
        self._order_key = self._order_key or part._order_key
        inner = set().union(*before.values())
        return Included(names, [names[own] for own in before if own not in inner])


_BEFORE = frozenset((Mode.TWO_PHASE, Mode.TCC, Mode.SAGA))  # of these others may wait, before the decision


def _mode_of(branch: Branch) -> Mode:
    return Mode((branch.step or {})["mode"])


def _waits_for(branch: Branch) -> set[str]:
    step = branch.step or {}
    return {*step.get("after", ()), *(source for source in step.get("takes", {}).values() if source != branch.name)}
