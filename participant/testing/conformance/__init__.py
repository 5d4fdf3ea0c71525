"""The contract of participants in any language, as promises that are tried over HTTP. Public; needs no test framework.

    @pytest.mark.parametrize("promise", PROMISES, ids=str)
    async def test_the_shop_keeps_its_promises(promise, tmp_path):
        start = ("node", "shop.js", "9010", str(tmp_path / "shop.journal"))
        target = Target("http://127.0.0.1:9010", "reserve", {"item": "mug", "pieces": 1}, start)
        async with target.open() as bench:
            verdict = await examine(promise, bench)
        assert verdict.is_fine, verdict

`commitd check-participant` tries the same. What cannot be judged from outside is not tried: whether an action does what
it should, whether rows that a prepared branch changed are kept from others (who may change what is the action's), and
whether writes are forced to the disk, which only a power cut shows.
"""

from __future__ import annotations

from participant.testing.conformance.bench import Bench, Target
from participant.testing.conformance.crashes import CRASHES
from participant.testing.conformance.ends import ENDS
from participant.testing.conformance.exam import Outcome, Promise, Verdict, examine, examine_all
from participant.testing.conformance.interactive import INTERACTIVE
from participant.testing.conformance.many import MANY
from participant.testing.conformance.races import RACES
from participant.testing.conformance.requests import REQUESTS
from participant.testing.conformance.talk import Exchange
from participant.testing.conformance.votes import VOTES

__all__ = ["PROMISES", "Bench", "Exchange", "Outcome", "Promise", "Target", "Verdict", "examine", "examine_all"]

PROMISES: tuple[Promise, ...] = (*VOTES, *ENDS, *RACES, *REQUESTS, *MANY, *INTERACTIVE, *CRASHES)
