"""What an action's end means for its branch: a result, or a no.

An action is the user's code, so anything may come out of it. A result that nobody could be sent is a no as well, and so
is one that is larger than a branch's row may keep.
"""

from __future__ import annotations

from typing import Any

from structlog import get_logger

from participant.errors import ActionError, IntentConflict, Reject, WireError
from participant.resource import Call
from participant.values import packed
from participant.wire import RESULT_BYTES_MAX

__all__ = ["checked", "no_of"]

_LOG = get_logger(__name__)


def checked(result: Any) -> Any:
    """The result of an action. Raises WireError if it is not a value, or too large."""
    size = len(packed(result, "result"))
    if size > RESULT_BYTES_MAX:
        raise WireError("result", f"has {size:,} bytes; at most {RESULT_BYTES_MAX:,} are kept")
    return result


def no_of(call: Call, error: Exception) -> Reject:
    """The no that an action means by raising `error`, something other than a Reject.

    What the caller must not see is in the log only.
    """
    match error:
        case ActionError() | WireError() | IntentConflict():
            _LOG.warning("action.refused", action=call.name, why=str(error))
            return Reject(f"action {call.name!r} failed: {error}")
    _LOG.error("action.failed", action=call.name, exc_info=error)
    return Reject(f"action {call.name!r} failed with {type(error).__name__}; the participant's log says more")
