"""What is installed is what was tested: the lock file is whole, public, and agrees with the project."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from typing import Any

from tests.house.tree import ROOT

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def _wanted() -> list[str]:
    project = _toml("pyproject.toml")
    return [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]


def test_pysyncobj_is_pinned_to_the_version_whose_defects_we_mend() -> None:
    """Goal: raftlog mends one version from outside; another one needs every defect's test looked at again."""
    pins = [line for line in _wanted() if line.startswith("pysyncobj")]
    assert pins == [f"pysyncobj=={version('pysyncobj')}"]


def test_the_lock_names_every_dependency() -> None:
    """Goal: a dependency that was added without `make lock` is found here, not on a user's machine."""
    locked = {package["name"] for package in _toml("uv.lock")["package"]}
    wanted = {match.group().lower().replace("_", "-") for line in _wanted() if (match := _NAME.match(line))}
    assert wanted - locked == set()


def test_the_lock_names_public_places_only() -> None:
    """Goal: no mirror of one machine stands in the lock."""
    places = set(re.findall(r'"(https?://[^/"]+)', (ROOT / "uv.lock").read_text(encoding="utf-8")))
    assert places == {"https://pypi.org", "https://files.pythonhosted.org"}
