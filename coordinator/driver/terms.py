"""What the coordinator says to a participant of a transaction in three phases, beside the verb.

Owns: the list of peers, and the proof of a decision. Must never do: sign what the record does not hold.
"""

from __future__ import annotations

from coordinator.ledger.records import Decision, Path, TransactionRecord
from coordinator.ports import Participants
from coordinator.protocols.two_phase import Plan
from participant.proof import Seal, Source
from participant.termination import COORDINATORS, Ending, Peer, Policy
from participant.wire import Verb
from participant.wire_three_phase import Terms
from raftlog.port import ReplicatedLog

__all__ = ["Notary", "policy_of"]

_ENDINGS = {Verb.COMMIT: Ending.COMMIT, Verb.ABORT: Ending.ABORT}
_DECISIONS = {Decision.COMMIT: Ending.COMMIT, Decision.ABORT: Ending.ABORT}


def policy_of(path: Path) -> Policy:
    """What participants do that hear nothing."""
    is_unsafe = path is Path.UNSAFE_COMMIT_ON_SILENCE
    return Policy.UNSAFE_COMMIT_ON_SILENCE if is_unsafe else Policy.QUORUM


class Notary:
    """`seal` signs decisions; None: this cluster has no secret for it, and begins no transaction in three phases."""

    def __init__(self, log: ReplicatedLog, participants: Participants, seal: Seal | None) -> None:
        self.seal = seal
        self._replicated = log
        self._participants = participants

    def terms(
        self, begun: TransactionRecord | Plan, record: TransactionRecord | None, verb: Verb, participant: str
    ) -> Terms | None:
        """What goes with a call to `participant`, of a transaction that was `begun` so; None if it is in two phases.

        Raises: ValueError for an end that is not in the record, or cannot be signed.
        """
        if not begun.path.is_three_phase:
            return None
        match verb:
            case Verb.PREPARE:
                peers = [
                    Peer(branch.branch, branch.participant, self._participants.url(branch.participant))
                    for branch in begun.branches
                ]
                return Terms(tuple(peers), policy_of(begun.path))
            case Verb.PRECOMMIT:
                return Terms(ballot=COORDINATORS, participant=participant)
            case Verb.COMMIT | Verb.ABORT:
                if self.seal is None:
                    raise ValueError(f"{verb} of {begun.gid} needs a proof: set cluster.proof_secret again")
                ending = _ENDINGS[verb]
                if record is None or record.decision is None or _DECISIONS[record.decision] is not ending:
                    raise ValueError(f"{verb} of {begun.gid} is not what its record holds")
                term, index = self._replicated.leadership.term, self._replicated.status().applied_index
                return Terms(proof=self.seal.sign(begun.gid, ending, Source.LOG, term, index))
        return None
