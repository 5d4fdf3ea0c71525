"""Pickle runs whatever its bytes say; the library speaks it to everybody who reaches its port. Here nobody does.

What a raw pickle does at our port stands in `test_transport.py`, a whole cluster without it in the integration tests.
"""

from __future__ import annotations

import ast
from pathlib import Path

import msgpack
import pysyncobj.syncobj as library
import pytest

from raftlog.core import adapt_library
from raftlog.errors import ConfigError

PACKAGES = ("raftlog", "participant", "coordinator")
ROOT = Path(__file__).resolve().parents[3]
BANNED = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}


def imported(source: str) -> set[str]:
    """The last part of every module that is imported, and of every name that is imported from one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return names


def test_no_module_of_ours_imports_anything_like_it() -> None:
    """Seen red with `from pysyncobj import pickle` in one of them."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 30
    found = {str(file.relative_to(ROOT)): imported(file.read_text(encoding="utf-8")) & BANNED for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize("line", ["import pickle", "from pysyncobj import pickle as p", "import pysyncobj.pickle"])
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert imported(line) & BANNED


def test_the_library_gets_a_codec_in_its_place() -> None:
    """Red when `adapt_library` does not replace it."""
    adapt_library()
    change = ["add", "n4", ["n4", "h:4"]]
    assert library.pickle.loads(library.pickle.dumps(change)) == change
    assert library.pickle.dumps(change) == msgpack.packb(change)
    with pytest.raises(ValueError, match="unpack"):
        library.pickle.loads(b"\x80\x04K\x01.")  # a pickle of 1


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its private names may mean something else there. Red when `adapt_library` does not look."""
    monkeypatch.setattr("raftlog.core.VERSION", "0.3.18")
    with pytest.raises(ConfigError, match=r"pysyncobj 0\.3\.18 is installed; only 0\.3\.17"):
        adapt_library()
