"""Errors of a participant, as a tree.

    ParticipantError
    ├── ConfigError         the configuration cannot work; names the key
    ├── WireError           a request or an answer is not of our contract; names the field      (the sender's fault)
    ├── MediaTypeError      a request in another encoding than ours                             (the sender's fault)
    ├── NoSuchPath          a request for a path that is not there                              (the sender's fault)
    ├── WrongMethod         a request by a method that its path does not take                   (the sender's fault)
    ├── TooLarge            a request with more than the largest array has                      (the sender's fault)
    ├── NotRunning          a request before the participant was started, or after its end
    ├── BranchConflict      the branch is bound to another request than this one               (the sender's fault)
    ├── Reject              raised by an action: it votes no, with a reason for people          (nobody's fault)
    ├── ActionError         an action broke the rules of actions; it votes no                   (its author's fault)
    ├── StepError           a step that the barrier cannot guard; nothing was done              (its author's fault)
    ├── ResourceError
    │   ├── ResourceBusy        somebody outside holds the database; asking again is safe
    │   ├── ResourceUnreachable the database's server does not answer: unknown; asking again is safe
    │   ├── ResourceFailed      a write or a sync failed: what is on the disk is unknown until a restart
    │   ├── ResourceClosed      the resource manager is not open
    │   ├── AlreadyOwned        another process owns the data
    │   ├── SchemaError         the tables cannot be recorded; says which and why
    │   └── IntentConflict      a promised change no longer fits the rows: somebody wrote outside the protocol
    ├── BrokerUnreachable   a message broker does not answer, or not now; asking again is safe
    ├── CheckError          a participant cannot be checked: it does not start, or votes no on everything
    │   └── NobodyAnswers       nothing serves at the URL that was given
    └── InvariantError      a promise of our own code is broken

Whatever is raised instead of an `Answer` leaves the outcome of the operation unknown to the caller.
"""

from __future__ import annotations

__all__ = [
    "ActionError",
    "AlreadyOwned",
    "BranchConflict",
    "BrokerUnreachable",
    "CheckError",
    "ConfigError",
    "IntentConflict",
    "InvariantError",
    "MediaTypeError",
    "NoSuchPath",
    "NobodyAnswers",
    "NotRunning",
    "ParticipantError",
    "Reject",
    "ResourceBusy",
    "ResourceClosed",
    "ResourceError",
    "ResourceFailed",
    "ResourceUnreachable",
    "SchemaError",
    "StepError",
    "TooLarge",
    "TooSlow",
    "WireError",
    "WrongMethod",
    "invariant",
]


class ParticipantError(Exception):
    """Something went wrong at a participant."""


class ConfigError(ParticipantError):
    """The configuration cannot work; one line for each mistake, each naming its key."""


class WireError(ParticipantError):
    """What was sent is not of our contract. `field` says where, `why` what is wrong and what would be right."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


class MediaTypeError(ParticipantError):
    """A request in another encoding than JSON or msgpack."""


class NoSuchPath(ParticipantError):
    """A request for a path that is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is nothing at {path or '/':.80}")


class WrongMethod(ParticipantError):
    """A request by a method that its path does not take. `allowed` are those that it takes."""

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"this path takes {', '.join(allowed)}, not {method:.20}")
        self.allowed = allowed


class TooLarge(ParticipantError):
    """A request with more than the largest array has."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the request has more than {bytes_max:,} bytes")


class TooSlow(ParticipantError):
    """A request whose body has not arrived in time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the body had not arrived after {timeout_s:g} s")


class NotRunning(ParticipantError):
    """A participant that is mounted in an application was not started, or has ended."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} does not run: enter `async with participant.running(replicas=[...])` in the lifespan of the "
            "application that it is mounted in"
        )


class BranchConflict(ParticipantError):
    """The same branch was asked for something else before. A gid must never be used for two transactions."""


class Reject(ParticipantError):
    """Raise this in an action to vote no. The reason reaches the caller of the transaction."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class ActionError(ParticipantError):
    """An action did what an action must not do. The branch votes no."""


class StepError(ParticipantError):
    """A step was called, or its function is written, so that the barrier cannot guard it. It was undone."""


class ResourceError(ParticipantError):
    """The resource manager cannot do its work."""


class ResourceBusy(ResourceError):
    """Somebody outside holds the database. Nothing was done; asking again is safe."""


class ResourceUnreachable(ResourceError):
    """The database's server does not answer. What was asked for is unknown; asking again is safe, and may help."""


class ResourceFailed(ResourceError):
    """A write or a sync failed. What is on the disk is unknown from here on, so nothing is tried again."""


class ResourceClosed(ResourceError):
    """The resource manager is not open."""


class AlreadyOwned(ResourceError):
    """Another process owns the data."""


class SchemaError(ResourceError):
    """The tables cannot be used: their changes could not be recorded and applied faithfully."""


class IntentConflict(ResourceError):
    """A prepared change no longer fits the rows: somebody wrote to them outside the protocol."""


class BrokerUnreachable(ParticipantError):
    """A message broker does not answer, or cannot do what it is asked now. Asking again is safe."""


class CheckError(ParticipantError):
    """A participant of another make cannot be checked at all (`participant.testing`)."""


class NobodyAnswers(CheckError):
    """Nothing serves at the URL that was given."""


class InvariantError(ParticipantError):
    """An invariant of our own code does not hold."""


def invariant(condition: bool, why: str) -> None:
    """Raise InvariantError unless `condition` holds. Always on: unlike `assert`, no flag removes it."""
    if not condition:
        raise InvariantError(why)
