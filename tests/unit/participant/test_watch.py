"""A participant raises an alarm by itself: what is old is said, and nothing is ended."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from participant.errors import ResourceClosed
from participant.foreign import FOREIGN_MAX_AGE_S, Seen, Sightings
from participant.resource import PREPARED_BOUNDS_MS, ResourceStatus
from participant.rm.sweep import Foreign
from participant.watch import PREPARED_MAX_AGE_S, Watch


class _Resource:
    """A resource manager as far as it is watched."""

    def __init__(self, oldest_s: float) -> None:
        self._oldest_s = oldest_s

    async def status(self) -> ResourceStatus:
        return ResourceStatus(2, self._oldest_s, 0, 0, 0, 0.0, (0,) * (len(PREPARED_BOUNDS_MS) + 1), 0)


class _Shared(_Resource):
    """One whose database has transactions of others."""

    def __init__(self, *foreign: Foreign) -> None:
        super().__init__(0.0)
        self._foreign = list(foreign)

    async def foreign(self) -> list[Foreign]:
        return self._foreign


async def _said(resource: Any) -> list[dict[str, Any]]:
    with capture_logs() as lines:
        await Watch(resource).look()
    return [dict(line) for line in lines]


async def test_an_old_prepared_branch_is_an_alarm() -> None:
    assert await _said(_Resource(PREPARED_MAX_AGE_S - 1)) == []
    (line,) = await _said(_Resource(PREPARED_MAX_AGE_S))
    assert line == {"event": "prepared.old", "log_level": "warning", "branches": 2, "oldest_s": PREPARED_MAX_AGE_S}


async def test_an_old_transaction_of_somebody_else_is_an_alarm_and_the_oldest_is_named() -> None:
    assert await _said(_Shared(Foreign("new", 1.0), Foreign("ageless", None))) == []
    (line,) = await _said(_Shared(Foreign("old", FOREIGN_MAX_AGE_S), Foreign("older", FOREIGN_MAX_AGE_S + 5)))
    assert (line["event"], line["transactions"], line["name"]) == ("foreign.old", 2, "older")


async def test_the_watch_ends_with_its_resource_manager() -> None:
    class Closed(_Resource):
        async def status(self) -> ResourceStatus:
            raise ResourceClosed("the resource manager was closed")

    await Watch(Closed(0.0)).run()


@pytest.mark.parametrize("times", [1, 3])
def test_what_has_no_age_is_as_old_as_its_first_sight_and_forgotten_when_it_is_gone(times: int) -> None:
    sightings = Sightings()
    ageless, aged = Foreign("x", None), Foreign("y", 7.0)
    for _ in range(times):
        assert sightings.aged([ageless, aged], 100.0) == [Seen("x", 0.0, is_least=True), Seen("y", 7.0, is_least=False)]
        assert sightings.aged([ageless], 160.0) == [Seen("x", 60.0, is_least=True)]
        assert sightings.aged([], 161.0) == []
