"""The answers to what changes nothing: by the table, and those that ask to come again. Whoever broke the protocol is
told, and so is a person.
"""

from __future__ import annotations

from structlog import get_logger

from participant.branch import Branch, Rule, Verdict
from participant.wire import Answer, BranchState

__all__ = ["ELSEWHERE", "FULL", "said"]

_LOG = get_logger(__name__)

ELSEWHERE = Answer(BranchState.UNKNOWN, "another connection works on the branch; come again", retry=True)
FULL = Answer(BranchState.UNKNOWN, "too many branches are open; come again", retry=True)


def said(branch: Branch, rule: Rule) -> Answer:
    """The answer to what changes nothing."""
    if rule.verdict is Verdict.CONTRADICTION:
        _LOG.error("branch.contradiction", branch=str(branch.key), state=branch.state, why=rule.why)
    if rule.verdict is Verdict.REPEAT:
        return branch.answer()
    return branch.answer(rule.why)
