"""The kit refuses what cannot work when it is written, not when it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import participant
from coordinator.simulation.disk import SimDisk
from participant import Participant
from participant.config import ParticipantConfig
from participant.errors import ConfigError, NotRunning
from participant.ids import BranchKey
from participant.rm.memory import Memory
from participant.stock import stock
from participant.wire import BranchState, Operation, Verb


@pytest.fixture
def shop() -> Participant:
    return Participant("shop", Memory(SimDisk()))


def test_a_name_that_no_url_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="name: must be 1 to 64"):
        Participant("our shop", Memory(SimDisk()))


def test_an_action_must_be_async(shop: Participant) -> None:
    def put(tx: Any, body: Any) -> None: ...

    with pytest.raises(ConfigError, match="must be an `async def`"):
        shop.action("put")(put)  # type: ignore[type-var]


def test_an_action_has_one_meaning(shop: Participant) -> None:
    async def put(tx: Any, body: Any) -> None: ...

    assert shop.action("put")(put) is put
    with pytest.raises(ConfigError, match="must be new"):
        shop.action("put")(put)
    with pytest.raises(ConfigError, match="1 to 64"):
        shop.action("")(put)


@pytest.mark.parametrize("path", ["rooms", "/v1/branches/x"])
def test_a_view_keeps_off_our_own_paths(shop: Participant, path: str) -> None:
    with pytest.raises(ConfigError, match="must be a new path"):
        shop.view(path)


async def test_a_view_in_our_way_is_refused_at_the_start(shop: Participant) -> None:
    """Goal: not served as if it were not there."""

    @shop.view("/livez/")
    async def livez(tx: Any, query: Any) -> None: ...

    with pytest.raises(ConfigError, match="view '/livez': that path is the participant's own"):
        async with shop.running():
            pass


def test_the_stock_participant_is_the_bank(tmp_path: Path) -> None:
    config = ParticipantConfig(name="bank-a", data=tmp_path / "bank.db")
    assert stock(config).name == "bank-a"


@pytest.mark.parametrize("name", participant.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(participant, name).__name__ == name


def test_the_wire_contract_loads_no_database_and_no_server() -> None:
    """A coordinator imports it; red if `participant/__init__.py` imports the kit."""
    code = "import sys, participant.wire; sys.exit(any(m in sys.modules for m in ('apsw', 'aiohttp', 'asyncio')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_a_participant_loads_no_raft() -> None:
    """It uses files and threads of the log's; red if `raftlog/__init__.py` imports the node."""
    code = "import sys, participant.kit, participant.rm.sqlite; sys.exit('pysyncobj' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


async def test_a_service_commits_a_branch_by_itself_once_and_not_after_it_was_prevented(shop: Participant) -> None:
    """The source of a message. Seen red with a commit that names no branch of its own."""

    @shop.action("put")
    async def put(tx: Any, body: Any) -> int:
        count: int = (await tx.get("count") or 0) + 1
        await tx.put("count", count)
        return count

    with pytest.raises(NotRunning):
        await shop.commit("g1", "b1", "put")
    async with shop.running():
        service = shop._current().service
        first = await shop.commit("g1", "b1", "put")
        assert (first.state, first.result) == (BranchState.COMMITTED, 1)
        assert await shop.commit("g1", "b1", "put") == first
        assert await service.perform(Operation(Verb.PREVENT, BranchKey("g1", "b1"))) == first
        await service.perform(Operation(Verb.PREVENT, BranchKey("g2", "b1")))
        assert (await shop.commit("g2", "b1", "put")).state is BranchState.ABORTED
        assert (await shop.commit("g3", "b1", "put")).result == 2
