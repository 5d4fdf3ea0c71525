"""What participants of a transaction in three phases say to each other, on the stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.driver.terms import policy_of
from coordinator.effects import Call
from participant.branch import Branch
from participant.ids import BranchKey
from participant.termination import (
    COORDINATORS,
    Ask,
    Ballot,
    Ending,
    Heard,
    Leaning,
    Policy,
    Register,
    Silence,
    after_canvass,
    after_leaning,
    moved,
    next_ballot,
    on_silence,
)
from participant.wire import Answer, BranchState, Verb
from participant.wire_three_phase import Terms
from tests.traces.stage import GID, Stage

__all__ = ["PeersStage"]

PATIENCE_S = 5.0
_ASKS = {Leaning.PRECOMMITTED: Ask.PRECOMMIT, Leaning.PREABORTED: Ask.PREABORT}
_ENDS = {BranchState.COMMITTED: Ending.COMMIT, BranchState.ABORTED: Ending.ABORT}
_VERBS = {Ending.COMMIT: Verb.COMMIT, Ending.ABORT: Verb.ABORT}


@dataclass
class _Termination:
    """One ballot of one participant: what it asks now, and what was answered."""

    ballot: Ballot
    ask: Ask = Ask.CANVASS
    leaning: Leaning | None = None
    heard: dict[str, Heard] = field(default_factory=dict)


class PeersStage(Stage):
    """The verbs of `Stage`, and two more."""

    def __init__(self) -> None:
        super().__init__()
        self._registers: dict[str, Register] = {}
        self._terminations: dict[str, _Termination] = {}
        self._policy = Policy.QUORUM

    def post(self, *words: str) -> None:
        super().post(*words)
        if self._plan is not None:
            self._policy = policy_of(self._plan.path)

    def silent(self, name: str, duration: str, *words: str) -> None:
        """silent a 9s [deciding]: no replica has answered `a` for so long; or one has, that there is no end yet."""
        does = on_silence(
            self._policy,
            self._registers.get(name, Register()),
            self._place(name),
            is_deciding="deciding" in words,
            silent_s=float(duration.removesuffix("s")),
            promised_s=float(duration.removesuffix("s")),
            patience_s=PATIENCE_S,
        )
        match does:
            case Silence.WAIT:
                self._say(f"{name} waits")
            case Silence.TERMINATE:
                self._begin_ballot(name)
            case Silence.COMMIT | Silence.ABORT:
                self._say(f"{name} is {self._participate(Call(name, Verb(does.value))).state}, by itself")

    def peer(self, name: str, other: str, *words: str) -> None:
        """peer a b [answer-lost]: what `a` asks now arrives at `b`, and its answer comes back."""
        at = self._terminations[name]
        said = self._ask(other, at.ask, at.ballot)
        self._say(f"{other} says: {_shown(said)}")
        if "answer-lost" not in words:
            at.heard[other] = said
            self._conclude(name)

    def tell(self, name: str, other: str) -> None:
        """tell a b: `a`, which knows the end, hands it to `b`."""
        verb = _VERBS[_ENDS[self._branches[name].state]]
        self._say(f"{other} is {self._participate(Call(other, verb)).state}")

    def show(self) -> None:
        super().show()
        for name, register in self._registers.items():
            promised = f", has promised {_number(register.promised)}" if register.promised != COORDINATORS else ""
            self._say(f"{name} leans: {register.leaning}{promised}")

    def _participate(self, call: Call) -> Answer:
        if call.verb is not Verb.PRECOMMIT:
            return super()._participate(call)
        branch = self._branches[call.branch]
        if branch.state in _ENDS:
            return branch.answer()
        return branch.answer()._replace(
            three_phase=Terms(register=self._move(call.branch, Ask.PRECOMMIT, COORDINATORS))
        )

    def _place(self, name: str) -> int:
        return 1 + sorted(self._branches).index(name)

    def _begin_ballot(self, name: str) -> None:
        ballot = next_ballot(self._registers.get(name, Register()), self._place(name))
        self._say(f"{name} begins ballot {_number(ballot)}")
        at = self._terminations[name] = _Termination(ballot)
        at.heard[name] = self._ask(name, at.ask, ballot)
        self._conclude(name)

    def _ask(self, name: str, ask: Ask, ballot: Ballot) -> Heard:
        branch = self._branches.get(name) or Branch(BranchKey(GID, name))
        if ask is Ask.CANVASS and branch.state not in (BranchState.PREPARED, BranchState.READ_ONLY):
            super()._participate(Call(name, Verb.PREVENT))
            branch = self._branches[name]
        if branch.state in _ENDS:
            return _ENDS[branch.state]
        return self._move(name, ask, ballot)

    def _move(self, name: str, ask: Ask, ballot: Ballot) -> Register:
        register = self._registers.get(name, Register())
        self._registers[name] = moved(register, ask, ballot) or register
        return self._registers[name]

    def _conclude(self, name: str) -> None:
        """What the participant that has begun a ballot does with what it has heard."""
        at, count = self._terminations[name], len(self._branches)
        step: Ending | Leaning | None
        if at.leaning is None:
            step = after_canvass(at.ballot, count, at.heard.values())
        else:
            step = after_leaning(at.ballot, at.leaning, count, at.heard.values())
        if isinstance(step, Leaning):
            self._say(f"{name} proposes: {step}")
            at.ask, at.leaning, at.heard = _ASKS[step], step, {}
            at.heard[name] = self._ask(name, at.ask, at.ballot)
            self._conclude(name)
        elif step is not None:
            self._say(f"{name} is {self._participate(Call(name, _VERBS[step])).state}")


def _number(ballot: Ballot) -> str:
    return f"{ballot.number}.{ballot.place}"


def _shown(heard: Heard) -> str:
    if isinstance(heard, Ending):
        return f"it has ended: {heard}"
    accepted = "" if heard.accepted is None else f" since {_number(heard.accepted)}"
    return f"{heard.leaning}{accepted}, has promised {_number(heard.promised)}"
