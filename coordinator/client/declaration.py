"""What all declarations of steps have in common: branches in their order, retries, results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from coordinator.client.outcomes import Branch, Ended
from coordinator.ledger.records import JITTER_DEFAULT_PERCENT, Mode
from coordinator.wire_steps import RETRY_BASE_DEFAULT_MS, RETRY_CAP_DEFAULT_MS

__all__ = ["NO_RESULTS", "OWN", "Committer", "Declaration", "Retry"]

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


class Committer(Protocol):
    """What is needed of the client."""

    def new_gid(self) -> str:
        """A gid for a new transaction."""

    async def begin(
        self, branches: Iterable[Branch], *, gid: str, deadline_ms: int, timeout_s: float | None = None
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
    ) -> Ended:
        """Commit all branches, or undo them."""


class Declaration:
    """Branches in the order of their declaration."""

    def __init__(self, client: Committer, deadline_ms: int) -> None:
        self._client = client
        self._deadline_ms = deadline_ms
        self._branches: list[Branch] = []

    async def run(self, *, gid: str | None = None, timeout_s: float | None = None) -> Ended:
        """Have it done, and wait until it is decided. As `Client.commit`, which says what it raises."""
        return await self._client.commit(self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s)

    async def start(self, *, gid: str | None = None, timeout_s: float | None = None) -> str:
        """Have it recorded, and go on; `Client.wait` with the gid, which this gives, says how it ended. As
        `Client.begin`, which says what it raises."""
        gid = gid or self._client.new_gid()
        await self._client.begin(self._branches, gid=gid, deadline_ms=self._deadline_ms, timeout_s=timeout_s)
        return gid

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
        self._branches.append(Branch(participant, action, body, name, step=step))
        return name
