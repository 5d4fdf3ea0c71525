"""From a request to a plan: what only this cluster can check, the request's identity, and its path.

Owns: default branch ids, the size of a transaction, the digest. Must never do: begin anything.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random
from typing import Any

import msgpack

from coordinator.errors import RETRY_AFTER_S, Invalid, Unreachable
from coordinator.ledger.branch_bytes import retry_fields
from coordinator.ledger.records import (
    BranchRecord,
    Delivery,
    Mode,
    Path,
    Report,
    Reporting,
    Retry,
    StepRecord,
    shared_names,
    telling,
)
from coordinator.ports import CallFailed, Notifier, Participants
from coordinator.protocols.declaration import Misdeclared, check
from coordinator.protocols.two_phase import choose_path
from coordinator.wire import BranchRequest, CommitProtocol, pack_body
from coordinator.wire_base import DEADLINE_MAX_MS
from coordinator.wire_steps import FIELD_CHARS_MAX, TOKEN_CHARS_MAX, ReportRequest, StepRequest
from participant.wire import RESULT_BYTES_MAX, Capabilities
from participant.wire_three_phase import URL_CHARS_MAX

__all__ = [
    "DIGEST_BYTES",
    "SECRET_BITS",
    "TRANSACTION_BYTES_MAX",
    "branch_of",
    "branches_of",
    "check_deadline",
    "check_notify",
    "check_size",
    "digest_of",
    "digest_of_workflow",
    "path_of",
    "report_of",
]

DIGEST_BYTES = 16
SECRET_BITS = 128  # of a step that is reported
TRANSACTION_BYTES_MAX = 224 * 1024  # all bodies together: the record has to fit one command of the log


def branches_of(requests: list[BranchRequest], participants: Participants, chance: Random) -> tuple[BranchRecord, ...]:
    """The branches, named and packed; those that are reported with a new secret each. Raises Invalid, which names the
    field."""
    branches: dict[str, BranchRecord] = {}
    is_stepwise = any(request.step is not None for request in requests)
    for position, request in enumerate(requests):
        where = f"branches.{position}"
        name = request.branch or f"b{position + 1}"
        if name in branches:
            raise Invalid.field(f"{where}.branch", f"{name!r} names two branches; each needs its own name")
        branches[name] = branch_of(request, name, where, participants, chance, is_stepwise=is_stepwise)
    check_size(tuple(branches.values()), "branches")
    if is_stepwise:
        _check_steps(tuple(branches.values()))
    return tuple(branches.values())


def branch_of(
    request: BranchRequest, name: str, where: str, participants: Participants, chance: Random, *, is_stepwise: bool
) -> BranchRecord:
    """One branch, called `name`, which stands at `where` in its request. Raises Invalid."""
    if not participants.known(request.participant):
        raise Invalid.field(f"{where}.participant", f"{request.participant!r} is not configured")
    if request.action is None and request.body is not None:
        raise Invalid.field(f"{where}.body", "a body needs an action")
    if request.action is not None and request.works is not None:
        raise Invalid.field(f"{where}.works", "counts the work of a branch without an action")
    body = b"" if request.action is None else pack_body(request.body, f"{where}.body")
    names = shared_names(name, request.participant, request.action)
    step = _step_of(name, request, where, chance) if is_stepwise else None
    return BranchRecord(*names, body, works=request.works, step=step)


def check_size(branches: tuple[BranchRecord, ...], where: str) -> None:
    """Whether one record can hold all of them. Raises Invalid."""
    total_bytes = sum(len(branch.body) + _step_bytes(branch) for branch in branches)
    if total_bytes > TRANSACTION_BYTES_MAX:
        what = "bodies" if all(branch.step is None for branch in branches) else "bodies and steps"
        raise Invalid.field(
            where, f"the {what} are {total_bytes} bytes together; at most {TRANSACTION_BYTES_MAX} are allowed"
        )


def _step_of(name: str, branch: BranchRequest, where: str, chance: Random) -> StepRecord:
    """A branch that says nothing is two-phase. What it takes a result of, it comes after. Raises Invalid."""
    request = branch.step or StepRequest(mode=Mode.TWO_PHASE)
    if (request.takes or request.reported) and not isinstance(branch.body, dict | None):
        what = "results become fields" if request.takes else "the token becomes a field"
        raise Invalid.field(f"{where}.body", f"must be a map, because {what} of it")
    takes = tuple(request.takes.items())
    after = tuple(dict.fromkeys((*request.after, *(source for _, source in takes if source != name))))
    asked = request.retry
    retry = Retry(asked.attempts_max, asked.base_ms, asked.cap_ms, asked.jitter_percent)
    reporting = None
    if request.reported is not None:
        reporting = Reporting(request.reported, f"{chance.getrandbits(SECRET_BITS):x}")
    record = StepRecord(request.mode, after, request.confirm, request.undo, takes, retry)
    limits = (request.dead_after.attempts_max, request.dead_after.age_max_ms)
    delivery = Delivery(request.order_key or "", *limits) if request.order_key or any(limits) else None
    return record._replace(not_before_ms=request.not_before_ms, reporting=reporting, delivery=delivery)


def check_deadline(deadline_ms: int, branches: tuple[BranchRecord, ...]) -> None:
    """Whether these branches may take so long: what is locked may not. Raises Invalid."""
    is_reported = any(branch.step is not None and branch.step.reporting is not None for branch in branches)
    if deadline_ms > DEADLINE_MAX_MS and not is_reported:
        why = f"at most {DEADLINE_MAX_MS}, an hour, unless a step is declared with `reported`"
        raise Invalid.field("deadline_ms", why)


def check_notify(url: str, notifier: Notifier) -> None:
    """Whether an application may be notified at `url`, "" if none wants to be. Raises Invalid."""
    if url and (why := notifier.refusal(url)):
        raise Invalid.field("notify", why)


def report_of(request: ReportRequest) -> tuple[Report, bytes]:
    """What was reported, and its result, or the reason why not; packed. Raises Invalid."""
    if request.refused is not None:
        if request.result is not None:
            raise Invalid.field("result", "goes with work that is done, not with `refused`")
        return Report.REFUSED, pack_body(request.refused, "refused")
    result = pack_body(request.result, "result")
    if len(result) > RESULT_BYTES_MAX:
        raise Invalid.field("result", f"is {len(result)} bytes as msgpack; at most {RESULT_BYTES_MAX} are allowed")
    return Report.DONE, result


def _check_steps(branches: tuple[BranchRecord, ...]) -> None:
    try:
        check(branches)
    except Misdeclared as error:
        raise Invalid.field(f"branches.{error.place}.{error.field}", error.why) from error


def digest_of(
    branches: tuple[BranchRecord, ...],
    key: str = "",
    notify: str = "",
    protocol: CommitProtocol = CommitProtocol.TWO_PHASE,
) -> bytes:
    """What makes two requests the same: participants, actions, bodies, works and steps of the branches, in their order,
    and the key and whom to notify, if there is any; and the protocol.

    The deadline is not part of it: a caller that asks again may be more patient, and means the same transaction. Nor is
    a secret, which is drawn for each request; that of the first one in the log counts.
    """
    identity: list[Any] = [(b.branch, b.participant, b.action, b.body, b.works, *_step_identity(b)) for b in branches]
    if protocol is not CommitProtocol.TWO_PHASE:
        identity.append((protocol,))
    return _digest([*identity, *telling((key, notify))])


def digest_of_workflow(name: str, given: bytes, key: str = "", notify: str = "") -> bytes:
    """What makes two requests for a workflow the same: its name, its packed input, and the key and whom to notify, if
    there is any. Not the deadline, as of others."""
    return _digest([name, given, *telling((key, notify))])


def _digest(identity: list[Any]) -> bytes:
    return blake2b(msgpack.packb(identity), digest_size=DIGEST_BYTES).digest()


def _step_bytes(branch: BranchRecord) -> int:
    return 0 if branch.step is None else len(msgpack.packb(_step_identity(branch)))


def _step_identity(branch: BranchRecord) -> tuple[Any, ...]:
    step = branch.step
    if step is None:
        return ()
    reported = None if step.reporting is None else step.reporting.field
    delivery = () if step.delivery is None else (step.delivery.key, *step.delivery[1:3])
    added = (reported, *delivery) if reported or delivery else ()
    declared = (step.mode, step.after, step.confirm, step.undo, step.takes, retry_fields(step.retry))
    return (*declared, step.not_before_ms, *added)


async def path_of(
    branches: tuple[BranchRecord, ...],
    participants: Participants,
    protocol: CommitProtocol = CommitProtocol.TWO_PHASE,
    key_id: str = "",
    where: str = "branches.{}",
) -> Path:
    """The path that these branches take in this `protocol`; each stands in its request at `where`, with its position
    put in. `key_id`: of this cluster's secret for three phases.

    It follows from what the participants say they can, never from whether they can be reached now: an earlier leader,
    of which nothing is recorded, may have asked a single branch to commit by itself, and must not be followed by
    one that aborts it without asking. Raises Unreachable, or Invalid for what a participant cannot take part in;
    nothing was begun then.
    """
    able: dict[str, Capabilities] = {}
    for branch in branches:
        name = branch.participant
        if name not in able:
            try:
                able[name] = await participants.capabilities(name)
            except CallFailed as error:
                why = f"{name} cannot be asked what it can do: {error}"
                raise Unreachable(why, retry_after_s=RETRY_AFTER_S) from error
    if protocol is not CommitProtocol.TWO_PHASE:
        _check_three_phase(branches, able, key_id)
        return Path(protocol.value)
    if all(branch.step is None for branch in branches):
        return choose_path(branches, able)
    for position, branch in enumerate(branches):
        can = able[branch.participant]
        if branch.step is not None and branch.step.mode is not Mode.TWO_PHASE and not (can.one_phase and can.prevent):
            why = f"{branch.participant} takes no steps: its capabilities must say one_phase and prevent"
            raise Invalid.field(f"{where.format(position)}.participant", why)
        _check_room(where.format(position), branch, can)
    return Path.STEPS


def _check_three_phase(branches: tuple[BranchRecord, ...], able: dict[str, Capabilities], key_id: str) -> None:
    """Raises Invalid."""
    if not key_id:
        raise Invalid.field("protocol", "this cluster has no cluster.proof_secret, which three phases need")
    peers_bytes = sum(len(branch.branch) + len(branch.participant) + URL_CHARS_MAX for branch in branches)
    for position, branch in enumerate(branches):
        where, can = f"branches.{position}", able[branch.participant]
        if branch.step is not None:
            raise Invalid.field(f"{where}.step", "a transaction of steps is not in three phases")
        if not can.three_phase:
            why = f"{branch.participant} takes no part in three phases: it has no proof_secret"
            raise Invalid.field(f"{where}.participant", why)
        if can.three_phase != key_id:
            why = f"{branch.participant} has another proof_secret than this cluster"
            raise Invalid.field(f"{where}.participant", why)
        room = can.body_bytes_max - peers_bytes
        if len(branch.body) > room:
            why = f"beside the list of {len(branches)} peers it may have {max(room, 0)} bytes, not {len(branch.body)}"
            raise Invalid.field(f"{where}.body", why)


def _check_room(where: str, branch: BranchRecord, can: Capabilities) -> None:
    """A step must fit whatever results it is given: it would be too late to find out. Raises Invalid."""
    takes = 0 if branch.step is None else len(branch.step.takes)
    token = TOKEN_CHARS_MAX if branch.step is not None and branch.step.reporting is not None else 0
    added = takes * RESULT_BYTES_MAX + token + (takes + bool(token)) * FIELD_CHARS_MAX * 4
    room = can.body_bytes_max - added
    if added and len(branch.body) > room:
        what = f"{takes} results" if takes else "its token"
        why = f"with {what} it may have {max(room, 0)} bytes: {branch.participant} takes {can.body_bytes_max}"
        raise Invalid.field(f"{where}.body", why)
