"""On the staged path a caller hears *committed* before the log does. That stays true only under seven conditions; each
is removed here on purpose, and the checkers must notice."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from coordinator.driver import intake, service
from coordinator.driver.performer import Performer
from coordinator.driver.service import Transactions
from coordinator.effects import Propose
from coordinator.ledger.commands import Command, Decide, Forget
from coordinator.ledger.records import Path, Phase, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols import two_phase
from participant.branch import Ask, Branch, Verdict, judge
from participant.outcomes import Outcome
from participant.recovery import Recovery
from participant.rm.engine import Engine
from participant.rm.memory.store import MemoryStore
from participant.rm.store import NOTHING, Effects
from participant.wire import Answer, BranchState
from tests.simulation.canaries import is_found
from tests.simulation.checkers.branches import Branches
from tests.simulation.hasty import act_before_it_is_logged
from tests.simulation.seeds import runs_of
from tests.simulation.settings import pressed
from tests.simulation.system_world import SystemWorld

_PATHS = {
    "classic",
    "classic alone",
    "mixed",
    "one-phase",
    "staged",
    "staged alone",
    "steps",
    "three-phase",
    "three-phase alone",
}
_World = partial(SystemWorld, harder=pressed)


@pytest.mark.parametrize(("seed", "hours"), runs_of("pressed"))
def test_leaders_die_between_telling_and_logging_and_nothing_told_is_taken_back(seed: int, hours: float) -> None:
    """The same promises, where faults wait for the worst moments."""
    _World(seed).run(hours)


def test_every_path_is_taken_and_taken_over_before_and_after_telling() -> None:
    """Otherwise the tests of this file would show nothing: transactions take every path in one and the same run,
    callers hear outcomes ahead of every ledger, and new leaders find what an earlier one may have told."""
    world = _World(3)
    world.run(0.15)
    assert set(world.tally.paths) == _PATHS
    assert all(world.tally.taken_over[path] for path in Path if path is not Path.UNSAFE_COMMIT_ON_SILENCE)
    assert world.tally.taken_over[Path.STAGED] > 50
    assert world.tally.after_telling > 10
    assert world.decisions.ahead > 25


def test_canary_1_a_prepared_branch_that_aborts_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A participant that asks in vain how the transaction ended rolls back, instead of asking again."""
    finish = Recovery._finish

    async def give_up(self: Any, key: Any, outcome: Outcome | None, now: float) -> Answer | None:
        undecided = outcome in (None, Outcome.DECIDING)
        return await finish(self, key, Outcome.ABORTED if undecided else outcome, now)

    monkeypatch.setattr(Recovery, "_finish", give_up)
    assert is_found(_World, "a prepared branch waits for the decision")


def test_canary_2_prevention_that_leaves_no_tombstone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preventing an unknown branch answers *aborted* and writes nothing, so that a late prepare still succeeds."""
    answer = Engine._answer

    def forgetful(self: Any, request: Any, since: float) -> Answer | None:
        state = self._branch(request.key).state
        if request.ask is Ask.PREVENT and judge(state, request.ask).verdict is Verdict.EMPTY:
            return Answer(BranchState.ABORTED, "prevented")
        return answer(self, request, since)

    monkeypatch.setattr(Engine, "_answer", forgetful)
    assert is_found(_World, "what a participant says stays true", "what was told stays true")


def test_canary_3_branches_that_are_not_frozen_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity of a request leaves its branches out, so a retry may bring others."""
    monkeypatch.setattr(service, "digest_of", lambda *_, **__: bytes(intake.DIGEST_BYTES))
    assert is_found(_World, "a gid is bound to its request")


def test_canary_4_a_gid_that_is_used_for_a_second_attempt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aborted transaction is dropped as soon as nothing is owed, so that a retry under its gid begins anew."""
    execute = Ledger.execute

    def execute_and_forget(self: Any, command: Command) -> Any:
        result = execute(self, command)
        record = None if isinstance(command, Forget) else self.get(command.gid)
        if record is not None and record.phase is Phase.ABORTED and record.branches:
            execute(self, Forget((record.gid,)))
        return result

    monkeypatch.setattr(Ledger, "execute", execute_and_forget)
    assert is_found(_World, "no decision is reversed", "no read is older than an answer")


def test_canary_5_a_leader_that_takes_over_and_does_not_prevent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It aborts what is late, as if it had begun the transaction itself."""
    collect = two_phase._collect

    def as_if_first(work: Any, begin: Any, first_hand: bool, todo: Any) -> Any:
        return collect(work, begin, True, todo)

    monkeypatch.setattr(two_phase, "_collect", as_if_first)
    assert is_found(_World, "what was told stays true")


def test_canary_6_a_branch_that_is_committed_and_forgotten_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase two starts when the decision is proposed; participants forget what is committed, and say *committed* when
    they are told to commit what they do not know. To a new leader such a branch looks never prepared. Nobody watches
    the single branches here: the consequences must show."""
    save, answer = MemoryStore.save, Engine._answer

    def save_or_forget(self: Any, branch: Branch, effects: Effects = NOTHING) -> None:
        save(self, branch, effects)
        if branch.state is BranchState.COMMITTED:
            self._drop([branch.key])
            self._batch.append(["forget", [branch.key]])

    def agreeable(self: Any, request: Any, since: float) -> Answer | None:
        if request.ask is Ask.COMMIT and self._branch(request.key).state is BranchState.UNKNOWN:
            return Answer(BranchState.COMMITTED)
        return answer(self, request, since)

    act_before_it_is_logged(monkeypatch)
    monkeypatch.setattr(MemoryStore, "save", save_or_forget)
    monkeypatch.setattr(Engine, "_answer", agreeable)
    monkeypatch.setattr(Branches, "moves", lambda *_: None)
    monkeypatch.setattr(Branches, "said", lambda *_: None)
    promises = ("what was told stays true", "conservation", "all or nothing", "a participant contradicts the record")
    assert is_found(_World, *promises)


def test_canary_7_a_staged_path_over_a_participant_that_cannot_prevent_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path is chosen without asking what the participants can."""
    monkeypatch.setattr(intake, "choose_path", lambda _branches, _capabilities: Path.STAGED)
    assert is_found(_World, "nobody is asked for what it cannot do", "progress")


def test_canary_an_answer_before_the_decision_is_logged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the classic path, too, callers hear the decision when it is proposed."""
    propose = Performer.propose

    def propose_and_tell(self: Any, effect: Propose, done: Any) -> None:
        propose(self, effect, done)
        if isinstance(effect.command, Decide):
            done.__self__._shared.implied(effect.command)

    monkeypatch.setattr(Performer, "propose", propose_and_tell)
    assert is_found(SystemWorld, "an answer is recorded before it is given")


def test_canary_a_reader_that_does_not_ask_who_was_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any replica answers from its ledger what a caller may have heard more of."""

    async def undecided(self: Any, record: TransactionRecord) -> TransactionRecord:
        return record

    monkeypatch.setattr(Transactions, "_undecided", undecided)
    assert is_found(_World, "no read is older than an answer", first=12)
