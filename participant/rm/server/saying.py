"""The answer to what changes nothing, by the table. Whoever broke the protocol is told, and so is a person."""

from __future__ import annotations

from structlog import get_logger

from participant.branch import Branch, Rule, Verdict
from participant.wire import Answer

__all__ = ["said"]

_LOG = get_logger(__name__)


def said(branch: Branch, rule: Rule) -> Answer:
    """The answer to what changes nothing."""
    if rule.verdict is Verdict.CONTRADICTION:
        _LOG.error("branch.contradiction", branch=str(branch.key), state=branch.state, why=rule.why)
    if rule.verdict is Verdict.REPEAT:
        return branch.answer()
    return branch.answer(rule.why)
