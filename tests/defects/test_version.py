"""The library that was read is the library that is installed."""

from __future__ import annotations

import pytest
from pysyncobj.version import VERSION

import raftlog.core
from raftlog.core import LIBRARY_VERSION, adapt_library
from raftlog.errors import ConfigError


def test_the_installed_library_is_the_one_that_was_read() -> None:
    """Upgrading means reading it again: its private names, its message shapes, and every test of this directory.

    Change `LIBRARY_VERSION` only with that done, and `docs/internals/divergence.md` with it.
    """
    assert VERSION == LIBRARY_VERSION == "0.3.17"


def test_another_version_is_refused_before_anything_is_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raftlog.core, "VERSION", "0.3.18")
    with pytest.raises(ConfigError, match=r"pysyncobj 0\.3\.18 is installed; only 0\.3\.17"):
        adapt_library()
