"""What a participant promises, as checks that anybody can run. Public; needs no test framework.

A resource manager of your own, in Python:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_contract(check, tmp_path):
        await check(Subject(make=lambda limits: MyManager(tmp_path / "data", limits), put=put, add=add, get=get))

Each check wants data of its own. It raises AssertionError with the promise that was broken. What the checks cannot
do for you is to kill the process: see to it that what a manager answers is on the disk.

A participant in any language, over HTTP, and killed in between (`commitd check-participant` does the same):

    @pytest.mark.parametrize("promise", PROMISES, ids=str)
    async def test_promise(promise, tmp_path):
        start = ("node", "participant.js", "--port", "9006", "--data", str(tmp_path / "hall.journal"))
        async with Target("http://127.0.0.1:9006", "book", {"row": "A", "seats": 1}, start).open() as bench:
            verdict = await examine(promise, bench)
        assert verdict.is_fine, verdict
"""

from __future__ import annotations

from participant.testing.conformance import (
    PROMISES,
    Bench,
    Exchange,
    Outcome,
    Promise,
    Target,
    Verdict,
    examine,
    examine_all,
)
from participant.testing.declared import DECLARED
from participant.testing.interactive import INTERACTIVE
from participant.testing.measures import MEASURES
from participant.testing.subject import Check, Subject

__all__ = [
    "CHECKS",
    "PROMISES",
    "Bench",
    "Check",
    "Exchange",
    "Outcome",
    "Promise",
    "Subject",
    "Target",
    "Verdict",
    "examine",
    "examine_all",
]

CHECKS: tuple[Check, ...] = (*DECLARED, *INTERACTIVE, *MEASURES)
