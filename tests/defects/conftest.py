"""Makers of worlds: `stock(...)` runs a schedule on the library as it is, `ours(...)` on ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.support.ours import OurWorld
from tests.support.stock import StockWorld
from tests.support.world import Settings

MakeStock: TypeAlias = Callable[..., StockWorld]
MakeOurs: TypeAlias = Callable[..., OurWorld]

DEFAULTS = Settings()


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MakeStock]:
    """`journal=True` keeps the library's journals on a disk; other options go to its configuration."""
    worlds: list[StockWorld] = []

    def make(names: str, settings: Settings = DEFAULTS, *, journal: bool = False, **options: Any) -> StockWorld:
        worlds.append(StockWorld(names, settings, monkeypatch, tmp_path if journal else None, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeOurs]:
    worlds: list[OurWorld] = []

    def make(names: str, settings: Settings = DEFAULTS) -> OurWorld:
        worlds.append(OurWorld(names, settings, monkeypatch))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
