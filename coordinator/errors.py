"""Errors of the coordinator and its client, as a tree.

    CoordinatorError
    ├── ConfigError             a configuration cannot work; one `Mistake` for each key
    ├── ReplicaFailed           this replica cannot go on; the process ends and says why
    ├── NotLeader               this replica cannot do it; the one that leads can (never shown to a caller as is)
    ├── OtherShard              this replica cannot do it; those of another shard can (never shown to a caller as is)
    ├── RequestError            what the API answers: a wire code, an HTTP status, and whether to come again
    │   ├── Malformed           400  the bytes are not what the content type says
    │   ├── WrongToken          403  a report comes with another token than the step's
    │   ├── NotFound            404  no such transaction is recorded, or no such path
    │   ├── MethodNotAllowed    405  the path exists, the method does not
    │   ├── GidReused           409  the gid names a transaction with other branches, or under another key
    │   ├── NotClaimed          409  another worker runs this workflow
    │   ├── NotDeterministic    409  the code of a workflow asks for something else than it did before
    │   ├── Contradiction       409  the answer asked for contradicts what is recorded
    │   ├── TooLarge            413  the request is longer than its limit
    │   ├── UnsupportedMedia    415  neither JSON nor msgpack
    │   ├── WrongShard          421  one of many transactions belongs to another shard; nothing was begun for it here
    │   ├── Invalid             422  a field is wrong; `fields` names each
    │   ├── Internal            500  our own mistake
    │   ├── Overloaded          503  a limit is reached; nothing was begun; come again
    │   ├── Unreachable         503  a participant cannot be asked what it can do; nothing was begun; come again
    │   ├── NoLeader            503  no replica leads now; nothing was begun; come again
    │   └── Undetermined        503  not known now (a leader changed, a vote is missing); the same request again
    └── ClientError             raised by `coordinator.client` only
        ├── Unavailable         no replica took the request; nothing was begun
        ├── OutcomeUnknown      nobody said yet how the transaction ended; carries gid and handle
        ├── TransactionAborted  an interactive transaction, or a workflow, ended as aborted
        ├── StepRefused         raised in the code of a workflow: a participant refused a step for good
        ├── Unverified          what came is no notice of ours, or too old
        └── WorkFailed          a participant refused interactive work, or its answer is unknown

A retry-safe error says: the same request again is harmless, and may succeed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "RETRY_AFTER_S",
    "ClientError",
    "ConfigError",
    "Contradiction",
    "CoordinatorError",
    "FieldError",
    "GidReused",
    "Internal",
    "Invalid",
    "Malformed",
    "MethodNotAllowed",
    "Mistake",
    "NoLeader",
    "NotClaimed",
    "NotDeterministic",
    "NotFound",
    "NotLeader",
    "OtherShard",
    "OutcomeUnknown",
    "Overloaded",
    "ReplicaFailed",
    "RequestError",
    "StepRefused",
    "TooLarge",
    "TransactionAborted",
    "Unavailable",
    "Undetermined",
    "Unreachable",
    "UnsupportedMedia",
    "Unverified",
    "WorkFailed",
    "WrongShard",
    "WrongToken",
    "request_error",
]


RETRY_AFTER_S = 1.0  # when to come again, where nothing better is known


class CoordinatorError(Exception):
    """Something the coordinator or its client says no to."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong key of a configuration, and what to do about it."""

    key: str
    advice: str

    def __str__(self) -> str:
        return f"{self.key}: {self.advice}"


class ConfigError(CoordinatorError):
    """The configuration cannot work."""

    def __init__(self, source: str, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(f"{source}: " + "; ".join(str(mistake) for mistake in mistakes))
        self.source = source
        self.mistakes = mistakes


class ReplicaFailed(CoordinatorError):
    """This replica cannot start, or cannot go on."""


class NotLeader(CoordinatorError):
    """This replica does not lead. `leader` names the one that does, as far as this replica knows."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"{leader} leads" if leader else "no leader is known")
        self.leader = leader


class OtherShard(CoordinatorError):
    """The gid belongs to another shard, whose number is `shard`."""

    def __init__(self, gid: str, shard: int) -> None:
        super().__init__(f"{gid} belongs to shard {shard}")
        self.gid = gid
        self.shard = shard


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: where (`branches.1.participant`), and what is wrong."""

    field: str
    detail: str


class RequestError(CoordinatorError):
    """A request that is answered with a problem document (RFC 9457)."""

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    retry_safe: ClassVar[bool] = False

    def __init__(self, detail: str, *, fields: tuple[FieldError, ...] = (), retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields
        self.retry_after_s = retry_after_s


class Malformed(RequestError):
    code, status, title = "malformed", 400, "The request cannot be decoded"


class WrongToken(RequestError):
    code, status, title = "wrong-token", 403, "This is not the token of the step"


class NotFound(RequestError):
    code, status, title = "not-found", 404, "There is no such thing here"


class MethodNotAllowed(RequestError):
    code, status, title = "method-not-allowed", 405, "This path does not take this method"


class GidReused(RequestError):
    code, status, title = "gid-reused", 409, "This gid names another transaction"


class Contradiction(RequestError):
    code, status, title = "contradiction", 409, "This contradicts what is recorded"


class NotClaimed(RequestError):
    code, status, title = "not-claimed", 409, "Another worker runs this workflow"


class NotDeterministic(RequestError):
    code, status, title = "not-deterministic", 409, "The code asks for something else than it did before"


class TooLarge(RequestError):
    code, status, title = "too-large", 413, "The request is too large"


class UnsupportedMedia(RequestError):
    code, status, title = "unsupported-media", 415, "The content type is not supported"


class WrongShard(RequestError):
    code, status, title = "wrong-shard", 421, "The gid belongs to another shard"


class Invalid(RequestError):
    code, status, title = "invalid", 422, "A field is wrong"

    @classmethod
    def field(cls, field: str, detail: str) -> Invalid:
        """One wrong field."""
        return cls(f"{field}: {detail}", fields=(FieldError(field, detail),))


class Internal(RequestError):
    code, status, title = "internal", 500, "The coordinator made a mistake"


class Overloaded(RequestError):
    code, status, title, retry_safe = "overloaded", 503, "Too much is in flight", True


class Unreachable(RequestError):
    code, status, title, retry_safe = "unreachable", 503, "A participant cannot be reached", True


class NoLeader(RequestError):
    code, status, title, retry_safe = "no-leader", 503, "No replica leads now", True


class Undetermined(RequestError):
    code, status, title, retry_safe = "undetermined", 503, "Nobody knows yet", True


_BY_CODE: dict[str, type[RequestError]] = {
    kind.code: kind
    for kind in (
        Malformed,
        WrongToken,
        NotFound,
        MethodNotAllowed,
        GidReused,
        NotClaimed,
        NotDeterministic,
        Contradiction,
        TooLarge,
        UnsupportedMedia,
        WrongShard,
        Invalid,
        Internal,
        Overloaded,
        NoLeader,
        Undetermined,
        Unreachable,
    )
}


def request_error(problem: dict[str, Any]) -> RequestError:
    """The error that a problem document stands for; a code that we do not know is `Internal`."""
    kind = _BY_CODE.get(str(problem.get("code")), Internal)
    fields = tuple(
        FieldError(str(entry.get("field", "")), str(entry.get("detail", "")))
        for entry in problem.get("errors") or ()
        if isinstance(entry, dict)
    )
    detail = str(problem.get("detail") or problem.get("title") or kind.title)
    after_s = problem.get("retry_after_s")
    return kind(detail, fields=fields, retry_after_s=after_s if isinstance(after_s, int | float) else None)


class ClientError(CoordinatorError):
    """The client gave up."""


class Unavailable(ClientError):
    """No replica took the request. Nothing was begun, unless something in between repeats requests by itself."""


class OutcomeUnknown(ClientError):
    """Nobody said in time how the transaction ended. It may have committed: ask again with `gid`, at any replica.

    `handle` is the path of the transaction at every replica: `/v1/transactions/{gid}`.
    """

    def __init__(self, gid: str, handle: str, why: str) -> None:
        super().__init__(f"the outcome of {gid} is not known yet ({why}); ask again at {handle}")
        self.gid = gid
        self.handle = handle
        self.why = why


class TransactionAborted(ClientError):
    """All branches were rolled back. `branch` names the one that refused, if one did."""

    def __init__(self, gid: str, reason: str, branch: str | None) -> None:
        super().__init__(f"{gid} was aborted: {reason}" + (f" (branch {branch})" if branch else ""))
        self.gid = gid
        self.reason = reason
        self.branch = branch


class StepRefused(ClientError):
    """A participant has refused a step of a workflow for good. It is not done, and nothing is owed to it."""

    def __init__(self, participant: str, action: str, reason: str) -> None:
        super().__init__(f"{participant} refused {action}: {reason}")
        self.participant = participant
        self.action = action
        self.reason = reason


class Unverified(ClientError):
    """A notice is not signed with the secret, or too long ago, or says nothing. Do nothing about it; answer 400."""


class WorkFailed(ClientError):
    """A participant did not do interactive work. The transaction can only be rolled back from here."""

    def __init__(self, participant: str, action: str, reason: str, *, refused: bool) -> None:
        super().__init__(f"{participant} {'refused' if refused else 'did not answer'} {action}: {reason}")
        self.participant = participant
        self.action = action
        self.reason = reason
        self.refused = refused
