"""Three-phase commit in worlds small enough to be searched completely.

Goal: no order of messages, late, doubled or lost, with coordinators that fall silent at any moment, whose deadline
comes at any moment, and terminations by several participants at once, lets two ends differ, be it those of participants
or the log's; and both ends can be reached. The textbook's rule breaks that, and the search finds it. So it does for
each canary, which breaks one rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from coordinator.ledger import transitions
from coordinator.ledger.commands import BY_DEADLINE, Command, Decide
from coordinator.ledger.records import Decision, Phase, TransactionRecord
from coordinator.ledger.transitions import Guard
from participant import termination
from participant.termination import Ask, Ballot, Ending, Heard, Leaning, Policy, Register
from participant.wire import BranchState
from tests.exhaustive.three_phase_world import Found, Rules, World, changed, search

BOTH_ENDS = {"committed", "aborted"}


@pytest.mark.parametrize("ballots", [{}, {0: 1}, {0: 1, 1: 1}, {0: 2, 1: 1}], ids=str)
def test_two_participants(ballots: dict[int, int]) -> None:
    worlds, ends = search(Rules(2, ballots))
    assert worlds > 20
    assert ends == BOTH_ENDS


def test_three_participants_and_one_termination() -> None:
    worlds, ends = search(Rules(3, {0: 1}))
    assert worlds > 1_000
    assert ends == BOTH_ENDS


def test_three_participants_and_two_terminations() -> None:
    worlds, ends = search(Rules(3, {0: 1, 1: 1}, gossip=False))
    assert worlds > 100_000
    assert ends == BOTH_ENDS


# The textbook


class Textbook(Rules):
    policy = Policy.UNSAFE_COMMIT_ON_SILENCE


def test_the_textbook_ends_in_both_ways() -> None:
    """PreCommit has reached one of two; then nobody hears anything."""
    with pytest.raises(Found, match="two ends differ") as found:
        search(Textbook(2, {}))
    assert "hears nothing" in str(found.value)


# Canaries


class AnybodyPrecommits(Rules):
    """The coordinators ask to precommit what the log does not hold as precommitting."""

    def hear_coordinators(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        early = world.phase is Phase.PREPARING and len(world.voted) == self.count
        for label, following in super().hear_coordinators(
            world._replace(precommitting=early or world.precommitting), i
        ):
            yield label, following._replace(precommitting=world.precommitting)


class ForgetsItsPromise(Rules):
    def moved(self, register: Register, ask: Ask, ballot: Ballot) -> Register | None:
        return termination.moved(register._replace(promised=termination.COORDINATORS), ask, ballot)


class LeansTwoWaysInOneBallot(Rules):
    """Two processes of one participant, which share its ballot, propose what each of them has heard."""

    def moved(self, register: Register, ask: Ask, ballot: Ballot) -> Register | None:
        fresh = register._replace(accepted=None) if register.accepted == ballot else register
        return termination.moved(fresh, ask, ballot)


class AbortsWhateverItHears(Rules):
    def after_canvass(self, ballot: Ballot, heard: tuple[Heard, ...]) -> Ending | Leaning | None:
        step = super().after_canvass(ballot, heard)
        return Leaning.PREABORTED if isinstance(step, Leaning) else step


class CommitsIfAnybodyLeansSo(Rules):
    """Skeen's rule without Keidar & Dolev's ballots: who leans latest is not asked."""

    def after_canvass(self, ballot: Ballot, heard: tuple[Heard, ...]) -> Ending | Leaning | None:
        step = super().after_canvass(ballot, heard)
        leans = any(isinstance(said, Register) and said.leaning is Leaning.PRECOMMITTED for said in heard)
        return Leaning.PRECOMMITTED if isinstance(step, Leaning) and leans else step


class PreventsNobody(Rules):
    """Who has not voted yet promises, and votes yes later."""

    def canvassed(self, world: World, i: int, state: BranchState, ballot: Ballot) -> tuple[World, Heard | None]:
        if state is not BranchState.UNKNOWN:
            return super().canvassed(world, i, state, ballot)
        register = Register(promised=ballot)
        return world, register


class AbortsInTheMiddle(Rules):
    """The coordinator is late while it is precommitting, and aborts."""

    def propose(self, record: TransactionRecord, heard: Iterable[str], late: bool) -> list[Command]:
        if late and record.phase is Phase.PRECOMMITTING:
            return [Decide("t", Decision.ABORT, BY_DEADLINE, 0)]
        return super().propose(record, heard, late)


@pytest.mark.parametrize(
    "rules",
    [
        AnybodyPrecommits(2, {0: 1}),
        ForgetsItsPromise(2, {0: 1, 1: 1}),
        LeansTwoWaysInOneBallot(3, {0: 1}),
        AbortsWhateverItHears(2, {0: 1}),
        CommitsIfAnybodyLeansSo(3, {0: 1, 1: 1}, gossip=False),
        PreventsNobody(3, {0: 1}),
    ],
    ids=lambda rules: type(rules).__name__,
)
def test_a_broken_rule_is_found(rules: Rules) -> None:
    with pytest.raises(Found):
        search(rules)


def test_a_coordinator_that_aborts_in_the_middle_is_found_if_the_table_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    search(AbortsInTheMiddle(2, {0: 1}))
    monkeypatch.setitem(transitions._HOLDS, Guard.FROM_PARTICIPANTS, lambda *_: True)
    with pytest.raises(Found):
        search(AbortsInTheMiddle(2, {0: 1}))


def test_half_of_the_participants_are_no_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "majority", lambda count: max(1, count // 2))
    with pytest.raises(Found):
        search(Rules(2, {0: 1, 1: 1}))


def test_one_who_has_not_voted_is_prevented() -> None:
    """What the canvass leaves of it."""
    rules = Rules(2, {0: 1})
    world = changed(rules.first(), 0, state=BranchState.PREPARED)
    following, said = rules.canvassed(world, 1, BranchState.UNKNOWN, Ballot(1, 1))
    assert following.states[1] is BranchState.ABORTED
    assert said is Ending.ABORT
