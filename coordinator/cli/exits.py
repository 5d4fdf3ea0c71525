"""How a command ends: its exit status, and the lines that say why.

0  done
1  refused or failed: the configuration is wrong, the request was refused, the replica cannot go on, or what was looked
   for was found (a broken promise, a branch left in doubt)
2  the command line is wrong
3  no replica, or no participant that is to be checked, could be reached; nothing was done
4  it is not known whether it was done: ask again
5  there is no such transaction
6  it was decided, but a participant had ended its branch otherwise
"""

from __future__ import annotations

from enum import IntEnum

from coordinator.errors import ConfigError, CoordinatorError, NotFound, OutcomeUnknown, Unavailable
from participant.errors import NobodyAnswers, ParticipantError

__all__ = ["Exit", "exit_of", "lines_of"]


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    NOT_FOUND = 5
    DAMAGED = 6


def exit_of(error: CoordinatorError | ParticipantError) -> Exit:
    """The status that an error ends with."""
    match error:
        case Unavailable() | NobodyAnswers():
            return Exit.UNREACHABLE
        case OutcomeUnknown():
            return Exit.UNKNOWN
        case NotFound():
            return Exit.NOT_FOUND
    return Exit.FAILED


def lines_of(error: CoordinatorError | ParticipantError) -> list[str]:
    """What is said about an error: one line, for a configuration one for each mistake."""
    match error:
        case ConfigError():
            return [f"{error.source}: {mistake}" for mistake in error.mistakes]
        case ParticipantError():
            return str(error).splitlines()
    return [" ".join(str(error).split())]
