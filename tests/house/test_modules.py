"""Every module stands alone, says what it is, and names what it gives away."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.house.tree import PACKAGES, ROOT, code, modules

IMPORT_TIMEOUT_S = 100

# Runs in an interpreter of its own: before each import it forgets every module of ours. Those of others stay, or most
# of the time would go into loading them again and again.
_IMPORT_ALONE = """
import json, sys, traceback
packages, modules = json.loads(sys.argv[1]), json.loads(sys.argv[2])
failures = {}
for module in modules:
    for known in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[known]
    try:
        exec(f"from {module} import *", {})
    except BaseException:
        failures[module] = traceback.format_exc(limit=-3)
print(json.dumps(failures))
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_can_be_imported_alone_and_has_every_name_it_exports(package: str) -> None:
    """Goal: no import works only because another one ran before; every name in `__all__` exists; no warning.

    Method: a star import of each. Seen red with a cycle between two modules, and with a renamed function.
    """
    names = [name for name in modules() if name.split(".")[0] == package and not name.endswith("__main__")]
    assert names
    arguments = [json.dumps(PACKAGES), json.dumps(names)]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT_ALONE, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=IMPORT_TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {}


def test_every_module_says_what_it_owns_and_what_it_gives_away() -> None:
    """Goal: a docstring and an `__all__` in each module that holds anything."""
    silent = []
    for file in code(*PACKAGES):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if tree.body and (ast.get_docstring(tree) is None or "__all__" not in _assigned(tree)):
            silent.append(str(file.relative_to(ROOT)))
    assert silent == []


def _assigned(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
