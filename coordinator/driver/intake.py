"""From a request to a plan: what only this cluster can check, and the request's identity.

Owns: default branch ids, the size of a transaction, the digest. Must never do: begin anything.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b

import msgpack

from coordinator.errors import Invalid
from coordinator.ledger.records import BranchRecord
from coordinator.ports import CallFailed, Participants
from coordinator.protocols.two_phase import Plan, choose_path
from coordinator.wire import BranchRequest, TransactionRequest, pack_body
from participant.wire import Capabilities

__all__ = ["DIGEST_BYTES", "TRANSACTION_BYTES_MAX", "branches_of", "digest_of", "plan_of"]

CAPABILITIES_TIMEOUT_S = 1.0
DIGEST_BYTES = 16
TRANSACTION_BYTES_MAX = 224 * 1024  # all bodies together: the record has to fit one command of the log

_INCAPABLE = Capabilities(name="", prevent=False, one_phase=False, read_only=False, arrays=False)


async def plan_of(gid: str, request: TransactionRequest, participants: Participants) -> Plan:
    """The plan for `request` under `gid`. Raises Invalid, which names the field."""
    branches = branches_of(request.branches, participants)
    path = choose_path(branches, await _capabilities(branches, participants))
    return Plan(gid, digest_of(branches), path, branches, request.deadline_ms)


def branches_of(requests: list[BranchRequest], participants: Participants) -> tuple[BranchRecord, ...]:
    """The branches, named and packed. Raises Invalid, which names the field."""
    branches: dict[str, BranchRecord] = {}
    for position, request in enumerate(requests):
        where = f"branches.{position}"
        branch = request.branch or f"b{position + 1}"
        if branch in branches:
            raise Invalid.field(f"{where}.branch", f"{branch!r} names two branches; each needs its own name")
        if not participants.known(request.participant):
            raise Invalid.field(f"{where}.participant", f"{request.participant!r} is not configured")
        if request.action is None and request.body is not None:
            raise Invalid.field(f"{where}.body", "a body needs an action")
        if request.action is not None and request.works is not None:
            raise Invalid.field(f"{where}.works", "counts the work of a branch without an action")
        body = b"" if request.action is None else pack_body(request.body, f"{where}.body")
        branches[branch] = BranchRecord(branch, request.participant, request.action, body, works=request.works)
    total_bytes = sum(len(branch.body) for branch in branches.values())
    if total_bytes > TRANSACTION_BYTES_MAX:
        raise Invalid.field(
            "branches", f"the bodies are {total_bytes} bytes together; at most {TRANSACTION_BYTES_MAX} are allowed"
        )
    return tuple(branches.values())


def digest_of(branches: tuple[BranchRecord, ...]) -> bytes:
    """What makes two requests the same: participants, actions, bodies and works of the branches, in their order.

    The deadline is not part of it: a caller that asks again may be more patient, and means the same transaction.
    """
    identity = [(b.branch, b.participant, b.action, b.body, b.works) for b in branches]
    return blake2b(msgpack.packb(identity), digest_size=DIGEST_BYTES).digest()


async def _capabilities(branches: tuple[BranchRecord, ...], participants: Participants) -> dict[str, Capabilities]:
    """By participant. Only a single branch has a choice; one that cannot be asked now is taken for incapable."""
    if len(branches) > 1:
        return {}
    name = branches[0].participant
    try:
        async with asyncio.timeout(CAPABILITIES_TIMEOUT_S):
            return {name: await participants.capabilities(name)}
    except (CallFailed, TimeoutError):
        return {name: _INCAPABLE}
