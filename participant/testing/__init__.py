"""The contract of resource managers, as checks that anybody can run. Public; needs no test framework.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_contract(check, tmp_path):
        await check(Subject(make=lambda limits: MyManager(tmp_path / "data", limits), put=put, add=add, get=get))

Each check wants data of its own. It raises AssertionError with the promise that was broken. What the checks cannot
do for you is to kill the process: see to it that what a manager answers is on the disk.
"""

from __future__ import annotations

from participant.testing.declared import DECLARED
from participant.testing.interactive import INTERACTIVE
from participant.testing.measures import MEASURES
from participant.testing.subject import Check, Subject

__all__ = ["CHECKS", "Check", "Subject"]

CHECKS: tuple[Check, ...] = (*DECLARED, *INTERACTIVE, *MEASURES)
