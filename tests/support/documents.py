"""What the documentation shows, as blocks that can be run and compared. Sans-IO.

A page is Markdown. Its fenced blocks are, by the first word of what stands behind the fence:

    sh               commands; the shell of the page stays the same from block to block
    python, toml     with `title=NAME`, the content of a file of the reader's; without, a program to run
    text, json       what the block before it prints
    mermaid          a picture

With `from=PATH`, a block of any kind is a part of that file of ours. `<!-- varies -->` before an output: only the first
word of each line is compared; … in an output: whatever stands there. `<!-- after FILE, up to "SECTION" -->` on a page:
the blocks of FILE above that section are run before, in the same shell. `<!-- needs PROGRAM -->` on a page: it can be
run only where that is installed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

__all__ = ["Block", "Kind", "Page", "differences", "read"]


class Kind(StrEnum):
    SHELL = "sh"
    PYTHON = "python"
    TOML = "toml"
    TEXT = "text"
    JSON = "json"
    PICTURE = "mermaid"


OUTPUTS = frozenset({Kind.TEXT, Kind.JSON})

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_HEADING = re.compile(r"^## +(.*)$")
_AFTER = re.compile(r'^<!-- after (\S+), up to "(.+)" -->$')
_NEEDS = re.compile(r"^<!-- needs (\S+) -->$")
_VARIES = "<!-- varies -->"
_TITLE = re.compile(r"title=(\S+)")
_SOURCE = re.compile(r"from=(\S+)")
_GID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?")
ANY = "…"  # in an output: whatever stands there


@dataclass(frozen=True, slots=True)
class Block:
    """One block, with the output that the page shows for it. `line` counts from 1."""

    kind: Kind
    text: str
    line: int
    section: str
    title: str | None = None
    source: str | None = None
    output: Block | None = None
    varies: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: the page whose blocks are run before, up to which of its sections; or None. `needs`: programs."""

    blocks: tuple[Block, ...]
    after: tuple[str, str] | None = None
    needs: tuple[str, ...] = ()

    def up_to(self, section: str) -> tuple[Block, ...]:
        """The blocks above a section. Raises ValueError if no block is in such a section."""
        sections = [block.section for block in self.blocks]
        return self.blocks[: sections.index(section)]


def read(markdown: str) -> Page:
    """The blocks of a page. Raises ValueError for one of an unknown kind, or an output of nothing."""
    blocks: list[Block] = []
    section, said = "", ""
    after: tuple[str, str] | None = None
    needs: list[str] = []
    lines = iter(enumerate(markdown.splitlines(), 1))
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            if heading := _HEADING.match(line):
                section = heading[1]
            if page := _AFTER.match(line):
                after = page[1], page[2]
            if program := _NEEDS.match(line):
                needs.append(program[1])
            said = line.strip() or said
            continue
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == "```":
                break
            body.append(inner.removeprefix(fence["indent"]))
        _add(blocks, _block(fence["info"], "\n".join(body) + "\n", number, section, varies=said == _VARIES))
        said = ""
    return Page(tuple(blocks), after, tuple(needs))


def _block(info: str, text: str, line: int, section: str, *, varies: bool) -> Block:
    kind, _, rest = info.partition(" ")
    title, source = _TITLE.search(rest), _SOURCE.search(rest)
    if kind not in Kind.__members__.values():
        raise ValueError(f"line {line}: {kind!r} is no kind of block; known are {', '.join(Kind)}")
    names = (title[1] if title else None, source[1] if source else None)
    return Block(Kind(kind), text, line, section, *names, varies=varies)


def _add(blocks: list[Block], block: Block) -> None:
    if block.kind not in OUTPUTS or block.source is not None:
        blocks.append(block)
        return
    if not blocks or blocks[-1].output is not None:
        raise ValueError(f"line {block.line}: an output of nothing")
    blocks.append(replace(blocks.pop(), output=block))


def differences(expected: Block, printed: str) -> list[str]:
    """Where `printed` is not what the page shows. Names of transactions and times of day never count, nor spaces."""
    if expected.kind is Kind.JSON:
        return _compare_json(json.loads(expected.text), json.loads(printed), "$")
    wanted, given = _lines(expected.text), _lines(printed)
    if expected.varies:
        wanted, given = [line.split()[0] for line in wanted], [line.split()[0] for line in given]
    if len(wanted) != len(given):
        return [f"{len(wanted)} lines are shown, {len(given)} were printed"]
    return [f"shown {w!r}, printed {g!r}" for w, g in zip(wanted, given, strict=True) if not _fits(w, g)]


def _lines(text: str) -> list[str]:
    masked = _TIME.sub("(time)", _GID.sub("(gid)", text))
    return [" ".join(line.split()) for line in masked.splitlines() if line.strip()]


def _fits(wanted: str, given: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in wanted.split(ANY))
    return re.fullmatch(pattern, given) is not None


def _compare_json(wanted: Any, given: Any, where: str) -> list[str]:
    match wanted, given:
        case dict(), dict() if wanted.keys() == given.keys():
            return [found for key in wanted for found in _compare_json(wanted[key], given[key], f"{where}.{key}")]
        case list(), list() if len(wanted) == len(given):
            pairs = enumerate(zip(wanted, given, strict=True))
            return [found for i, (w, g) in pairs for found in _compare_json(w, g, f"{where}[{i}]")]
        case str(), str() if _fits(" ".join(_lines(wanted)), " ".join(_lines(given))):
            return []
    return [] if wanted in (given, ANY) else [f"{where}: shown {wanted!r}, printed {given!r}"]
