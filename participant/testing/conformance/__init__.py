"""The contract of participants in any language, as promises that are tried over HTTP. Public; needs no test framework.

`participant.testing` shows how it is used in pytest; `commitd check-participant` tries the same.

What cannot be judged from outside is not tried: whether an action does what it should, whether rows that a prepared
branch changed are kept from others (which rows these are, and who may still change them, only the participant knows),
whether a branch in doubt asks its coordinators, and whether writes are forced to the disk: a power cut shows that.
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
from participant.testing.conformance.three_phases import THREE_PHASES
from participant.testing.conformance.votes import VOTES

__all__ = ["PROMISES", "Bench", "Exchange", "Outcome", "Promise", "Target", "Verdict", "examine", "examine_all"]

PROMISES: tuple[Promise, ...] = (*VOTES, *ENDS, *RACES, *REQUESTS, *MANY, *INTERACTIVE, *THREE_PHASES, *CRASHES)
