"""What people say of steps and messages in the whole system: reports of work that takes long, and what becomes of
messages that were set aside, with those that stand in line behind them. They are played in the runs of `test_steps.py`
and `test_system_world.py`; here is proof that the checkers would notice a broken rule."""

from __future__ import annotations

from functools import partial

import pytest

from tests.simulation.canaries import is_found
from tests.simulation.settings import declared
from tests.simulation.system_world import SystemWorld
from tests.support import broken_steps, broken_words

_World = partial(SystemWorld, harder=declared)
_BREAKS = broken_steps.BREAKS | broken_words.BREAKS
_PROMISES = {
    "no report is needed": "what is reported is done when that was said",
    "a report counts before its action has run": "all steps or none",
    "what was reported as refused is not undone": "all steps or none",
    "a report is answered before the record": "a report is recorded before it is answered",
    "a repeated report is refused": "a report is answered alike for ever",
    "the last report counts": "the first report counts",
    "a refusal is taken for a report": "nothing is reported that nobody has said",
    "a message before its turn": "messages of one key take effect in the order of their begin",
    "a dead letter holds its line": "every transaction final",
    "nothing is set aside": "a message is set aside after so many refusals",
    "what is to be delivered is dropped": "a dead letter is delivered or dropped as somebody has said",
}
_FIRST = dict.fromkeys(_PROMISES, 1)  # of all seeds, 0 takes the longest to show the last report
_FIRST["a report counts before its action has run"] = 5


@pytest.mark.parametrize("name", _PROMISES)
def test_canary_a_broken_word_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _BREAKS[name](monkeypatch)
    assert is_found(_World, _PROMISES[name], first=_FIRST[name])
