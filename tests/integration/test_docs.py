"""What the documentation shows is what happens: every block of every page is run, and its output compared.

The rules of the blocks stand in `tests/support/documents.py`. A page is run from its top in one shell
(`tests/support/terminal.py`), in a copy of what a clone holds, with the environment of the tests as its `.venv`. Two
commands are not what a reader has: `make` only says what it would do (its verbs have tests of their own), and `curl`
is a stand-in where it is not installed. The ports are the pages' own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from textwrap import indent

import pytest

from tests.house.tree import ROOT, pages
from tests.support.documents import Block, Kind, differences, read
from tests.support.terminal import Terminal, terminal

PAGE_TIMEOUT_S = 240
NOT_LINKED = {".git", "examples"}  # of the clone; the examples are copied, because a reader works in them
NOT_OURS = "benchmarks"  # what its page shows takes minutes

PAGES = sorted({*pages(), *ROOT.glob("*.md")})
DOCUMENTS = {str(page.relative_to(ROOT)): read(page.read_text(encoding="utf-8")) for page in PAGES}
RUN = [name for name, page in DOCUMENTS.items() if page.blocks and not name.startswith(NOT_OURS)]

SERVERS_PATH = ":".join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))  # where Debian puts PostgreSQL's programs

_STAND_INS = f"""
make() {{ command make --directory={ROOT} --dry-run "$@" >/dev/null; }}
command -v curl >/dev/null || curl() {{ {sys.executable} {ROOT}/tests/support/curl.py "$@"; }}
"""


def _clone(place: Path) -> Path:
    """A directory that looks like a clone."""
    clone = place / "commitd"
    clone.mkdir()
    for path in ROOT.iterdir():
        if path.name not in NOT_LINKED and not path.name.startswith(".venv"):
            (clone / path.name).symlink_to(path)
    (clone / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "examples", clone / "examples")
    return clone


async def _run(block: Block, shell: Terminal) -> tuple[int, str]:
    """What came of a block: an exit status, and what was printed."""
    if block.source is not None:
        whole = (ROOT / block.source).read_text(encoding="utf-8")
        is_part = block.text in whole or indent(block.text, "    ") in whole
        return (0, "") if is_part else (1, f"it is no part of {block.source}")
    content = f"<<'END-OF-BLOCK'\n{block.text}END-OF-BLOCK\n"
    match block:
        case Block(kind=Kind.SHELL):
            return await shell.run(block.text)
        case Block(kind=Kind.PICTURE):
            return 0, ""
        case Block(title=str(name)):
            return await shell.run(f"cat > {name} {content}")
        case Block(kind=Kind.PYTHON):
            return await shell.run(f"python - {content}")
    return 1, "TOML is the content of a file: it needs a title"


async def _run_all(name: str, blocks: tuple[Block, ...], shell: Terminal) -> None:
    for block in blocks:
        status, printed = await _run(block, shell)
        where = f"{name}:{block.line}"
        assert status == 0, f"{where} ended with status {status}:\n{printed}"
        if block.output is not None:
            found = differences(block.output, printed)
            assert found == [], f"{where} shows another output than it has:\n{printed}"


async def _run_page(name: str, shell: Terminal) -> None:
    page = DOCUMENTS[name]
    if page.after is not None:
        file, section = page.after
        before = str((ROOT / name).parent.joinpath(file).resolve().relative_to(ROOT))
        await _run_all(before, DOCUMENTS[before].up_to(section), shell)
    await _run_all(name, page.blocks, shell)


@pytest.mark.timeout(PAGE_TIMEOUT_S)
@pytest.mark.parametrize("name", RUN)
async def test_a_page_shows_what_happens(name: str, tmp_path: Path) -> None:
    """Goal: whoever types what a page shows, sees what it shows.

    Seen red with a misspelt command, with a wrong output, and with a port that nobody serves.
    """
    for program in DOCUMENTS[name].needs:
        if shutil.which(program, path=f"{os.environ['PATH']}:{SERVERS_PATH}") is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    home = tmp_path / "home"
    home.mkdir()
    variables = {"HOME": str(home), "PATH": f"{home}:/usr/bin:/bin", "LANG": "C.UTF-8", "USER": "olivia"}
    variables["SSL_CERT_FILE"] = os.environ["SSL_CERT_FILE"]
    async with terminal(_clone(tmp_path), variables) as shell:
        assert await shell.run(_STAND_INS) == (0, "")
        await _run_page(name, shell)


def test_the_quickstart_shows_the_examples() -> None:
    """Goal: what is typed from the page and what lies in `examples/` is the same."""
    shown = {block.title: block.text for block in DOCUMENTS["docs/quickstart.md"].blocks if block.title}
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "examples").iterdir() if path.is_file()}
    assert shown == {name: kept[name] for name in shown}
    assert shown.keys() >= {"shop.py", "cluster.toml", "bank.toml"}
